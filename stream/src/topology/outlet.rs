//! Where a node's children are hung: typed recipes, from which each task builds its own instances.

use parking_lot::Mutex;

use super::NodeId;
use crate::processor::{Children, GraphBuilder, Processor};

/// Builds one child of a node for one task.
type ProcessorFactory<K, V> = Box<dyn Fn(&mut GraphBuilder<'_>) -> Box<dyn Processor<K, V>> + Send + Sync>;

/// The recipes of a node's children.
pub(crate) struct Outlet<K, V>(Mutex<Vec<(NodeId, ProcessorFactory<K, V>)>>);

impl<K, V> Outlet<K, V> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Hangs child `node` here.
    pub(crate) fn connect(
        &self,
        node: NodeId,
        factory: impl Fn(&mut GraphBuilder<'_>) -> Box<dyn Processor<K, V>> + Send + Sync + 'static,
    ) {
        self.0.lock().push((node, Box::new(factory)));
    }

    /// One task's children. Nodes that were added after the topology was built are left out.
    pub(crate) fn build(&self, builder: &mut GraphBuilder<'_>) -> Children<K, V> {
        let mut children = Vec::new();
        for (node, factory) in &*self.0.lock() {
            if builder.knows(*node) {
                children.push(factory(builder));
            }
        }
        Children::new(children)
    }
}
