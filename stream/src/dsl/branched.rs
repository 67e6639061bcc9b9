//! A stream divided: branches in order, each with a predicate.

use std::{rc::Rc, sync::Arc};

use parking_lot::Mutex;

use super::KStream;
use crate::{
    processor::{Branch, Children, GraphBuilder, Predicate},
    topology::{NodeKind, Outlet, prefix},
};

/// A branch in the making: its predicate (`None`: the default branch) and where its children go.
type BranchParts<K, V> = (Option<Predicate<K, V>>, Arc<Outlet<K, V>>);

/// A stream being divided. Each record goes to the first branch whose predicate takes it; [`BranchedKStream::default_branch`]
/// takes the rest, [`BranchedKStream::no_default_branch`] drops it. Both answer the branches in the order of the calls.
pub struct BranchedKStream<K, V> {
    source: KStream<K, V>,
    splitter: usize,
    splitter_name: String,
    parts: Arc<Mutex<Vec<BranchParts<K, V>>>>,
    branches: Vec<KStream<K, V>>,
}

impl<K, V> BranchedKStream<K, V>
where
    K: Send + 'static,
    V: Send + 'static,
{
    pub(super) fn new(source: &KStream<K, V>, name: Option<&str>) -> Self {
        let mut graph = source.graph.borrow_mut();
        let splitter_name = graph.name_or_generate(name, prefix::BRANCH);
        let splitter = graph.add_processor(&splitter_name, source.node, true);
        let parts: Arc<Mutex<Vec<BranchParts<K, V>>>> = Arc::default();
        let branches = Arc::clone(&parts);
        source.outlet.connect(splitter, move |builder: &mut GraphBuilder<'_>| {
            let mut branch = Branch { branches: Vec::new(), default: None };
            for (predicate, outlet) in &*branches.lock() {
                let children: Children<K, V> = outlet.build(builder);
                match predicate {
                    Some(predicate) => branch.branches.push((Arc::clone(predicate), children)),
                    None => branch.default = Some(children),
                }
            }
            Box::new(branch)
        });
        drop(graph);
        Self { source: source.clone(), splitter, splitter_name, parts, branches: Vec::new() }
    }

    /// A branch of the records that `predicate` takes and no branch before did.
    pub fn branch<F>(mut self, predicate: F) -> Self
    where
        F: Fn(&K, &V) -> bool + Send + Sync + 'static,
    {
        let index = self.branches.len() + 1;
        self.add(Some(Arc::new(predicate)), &index.to_string());
        self
    }

    /// [`BranchedKStream::branch`] whose node is called by the splitter's name and `name`.
    pub fn branch_named<F>(mut self, name: &str, predicate: F) -> Self
    where
        F: Fn(&K, &V) -> bool + Send + Sync + 'static,
    {
        self.add(Some(Arc::new(predicate)), name);
        self
    }

    /// A branch of all that is left; answers every branch, this one last.
    pub fn default_branch(mut self) -> Vec<KStream<K, V>> {
        self.add(None, "0");
        self.branches
    }

    /// Drops all that is left; answers every branch.
    pub fn no_default_branch(self) -> Vec<KStream<K, V>> {
        self.branches
    }

    fn add(&mut self, predicate: Option<Predicate<K, V>>, suffix: &str) {
        let mut graph = self.source.graph.borrow_mut();
        let name = format!("{}{suffix}", self.splitter_name);
        // Counted by Kafka Streams, and not used.
        graph.generate(&name);
        let node = graph.add(&name, NodeKind::Processor { conditional: false }, vec![self.splitter], Vec::new());
        drop(graph);
        let outlet = Arc::new(Outlet::new());
        self.parts.lock().push((predicate, Arc::clone(&outlet)));
        self.branches.push(KStream::new(
            Rc::clone(&self.source.graph),
            node,
            outlet,
            self.source.key.clone(),
            self.source.value.clone(),
            self.source.repartition_required,
        ));
    }
}
