//! The graph while a program is written: nodes and stores in the order of the calls, names counted as Kafka Streams counts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use holdfast_store::StoreKind;

use super::{RepartitionSpec, SourceFactory, TopicName, TopologyError, naming};
use crate::codec::{KeyFormat, ValueFormat};

/// A node's place in [`Graph::nodes`].
pub(crate) type NodeId = usize;
/// A store's place in [`Graph::stores`].
pub(crate) type StoreId = usize;

/// What a node is.
#[derive(Clone)]
pub(crate) enum NodeKind {
    /// Reads a topic.
    Source {
        topic: TopicName,
        repartition: Option<RepartitionSpec>,
        /// Whether it is the source of a table; streams of one topic share a source, tables do not.
        table: bool,
        /// Names of the codecs of key and value.
        codecs: (String, String),
        /// One per stream that reads the topic.
        factories: Vec<SourceFactory>,
    },
    /// Works on records.
    Processor {
        /// Whether it may swallow records (a filter does, a map does not).
        conditional: bool,
    },
    /// Writes a topic.
    Sink { topic: TopicName, codecs: (String, String) },
}

/// A node.
#[derive(Clone)]
pub(crate) struct GraphNode {
    pub(crate) name: Arc<str>,
    pub(crate) kind: NodeKind,
    pub(crate) parents: Vec<NodeId>,
    pub(crate) stores: Vec<StoreId>,
    /// The source that took this one's place, because it reads the same topic.
    pub(crate) merged_into: Option<NodeId>,
}

/// A store.
#[derive(Clone)]
pub(crate) struct GraphStore {
    pub(crate) name: Arc<str>,
    pub(crate) kind: StoreKind,
    pub(crate) changelog: bool,
    pub(crate) key: Arc<dyn KeyFormat>,
    pub(crate) value: Arc<dyn ValueFormat>,
    pub(crate) queryable: bool,
    /// Whether it is kept: a table's source is only when it is named, or its old values are needed.
    pub(crate) materialized: Arc<AtomicBool>,
}

impl GraphStore {
    pub(crate) fn is_materialized(&self) -> bool {
        self.materialized.load(Ordering::Relaxed)
    }
}

/// A program as it is being written.
#[derive(Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<GraphNode>,
    pub(crate) stores: Vec<GraphStore>,
    pub(crate) errors: Vec<TopologyError>,
    next: u32,
}

impl Graph {
    /// `<prefix>0000000003`: the next generated name.
    pub(crate) fn generate(&mut self, prefix: &str) -> String {
        let name = format!("{prefix}{:010}", self.next);
        self.next += 1;
        name
    }

    /// Generates a name in any case, because Kafka Streams counts it, and answers `given` where there is one.
    pub(crate) fn name_or_generate(&mut self, given: Option<&str>, prefix: &str) -> String {
        let generated = self.generate(prefix);
        given.map_or(generated, str::to_owned)
    }

    /// The generated name of a store.
    pub(crate) fn generate_store(&mut self, prefix: &str) -> String {
        self.generate(&format!("{prefix}STATE-STORE-"))
    }

    /// Adds a node.
    pub(crate) fn add(&mut self, name: &str, kind: NodeKind, parents: Vec<NodeId>, stores: Vec<StoreId>) -> NodeId {
        self.check_name("the node", name);
        self.nodes.push(GraphNode { name: name.into(), kind, parents, stores, merged_into: None });
        self.nodes.len() - 1
    }

    /// Adds a processor.
    pub(crate) fn add_processor(&mut self, name: &str, parent: NodeId, conditional: bool) -> NodeId {
        self.add(name, NodeKind::Processor { conditional }, vec![parent], Vec::new())
    }

    /// Gives a node another name.
    pub(crate) fn rename(&mut self, node: NodeId, name: &str) {
        self.check_name("the node", name);
        if let Some(node) = self.nodes.get_mut(node) {
            node.name = name.into();
        }
    }

    /// Adds a store.
    pub(crate) fn add_store(&mut self, store: GraphStore) -> StoreId {
        if !holdfast_types::StoreName::is_legal(&store.name) {
            self.errors.push(TopologyError::IllegalName { what: "the store", name: store.name.to_string(), max: 200 });
        }
        self.stores.push(store);
        self.stores.len() - 1
    }

    /// Notes an error if Kafka does not take `name`.
    pub(crate) fn check_name(&mut self, what: &'static str, name: &str) {
        if !naming::is_legal(name) {
            self.errors.push(TopologyError::IllegalName { what, name: name.to_owned(), max: naming::MAX_NAME_LENGTH });
        }
    }
}
