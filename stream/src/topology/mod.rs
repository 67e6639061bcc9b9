//! The topology: what a program reads, keeps and writes, checked and cut into sub-topologies.

mod build;
mod check;
mod describe;
mod error;
mod fingerprint;
mod graph;
mod naming;
mod outlet;
mod picture;

use std::sync::Arc;

use holdfast_store::StoreKind;
use holdfast_types::StoreName;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

use crate::{
    codec::{KeyFormat, ValueFormat},
    processor::{GraphBuilder, SourceNode},
};

pub(crate) use build::build as build_topology;
pub use describe::{NodeDescription, NodeRole, SubtopologyDescription, TopologyDescription};
pub use error::{GraphError, TopologyError};
pub(crate) use graph::{Graph, GraphNode, GraphStore, NodeId, NodeKind, StoreId};
pub(crate) use naming::{is_generated, prefix};
pub(crate) use outlet::Outlet;

/// Builds the source of one task.
pub(crate) type SourceFactory = Arc<dyn Fn(&mut GraphBuilder<'_>) -> Box<dyn SourceNode> + Send + Sync>;

/// A topic as the topology names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TopicName {
    /// A topic of the user's.
    External(Arc<str>),
    /// A topic of the application's own: `counts-repartition` is `<application.id>-counts-repartition` at run time.
    Internal(Arc<str>),
}

impl TopicName {
    /// The name without an application.
    pub fn as_str(&self) -> &str {
        match self {
            Self::External(name) | Self::Internal(name) => name,
        }
    }

    /// The name that the broker knows.
    pub fn resolve(&self, application_id: &str) -> Arc<str> {
        match self {
            Self::External(name) => Arc::clone(name),
            Self::Internal(name) => format!("{application_id}-{name}").into(),
        }
    }

    /// Whether the application creates it for itself.
    pub fn is_internal(&self) -> bool {
        matches!(self, Self::Internal(_))
    }
}

impl std::fmt::Display for TopicName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known of a repartition topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepartitionSpec {
    /// Number of partitions where the program sets it; otherwise that of the widest source topic upstream.
    pub partitions: Option<i32>,
}

/// A topic that a sub-topology reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTopic {
    /// The topic.
    pub topic: TopicName,
    /// For a repartition topic, what is known of it.
    pub repartition: Option<RepartitionSpec>,
    /// The node that reads it.
    pub node: Arc<str>,
}

/// A topic that a sub-topology writes. Partitioned by murmur2 of the key's bytes; records without a key are spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkTopic {
    /// The topic.
    pub topic: TopicName,
    /// The node that writes it.
    pub node: Arc<str>,
}

/// A state store.
#[derive(Clone, Debug)]
pub struct StoreDefinition {
    /// Its name.
    pub name: StoreName,
    /// On disk or in memory.
    pub kind: StoreKind,
    /// Whether changes are logged to `<application.id>-<name>-changelog`.
    pub changelog: bool,
    /// The sub-topology that owns it.
    pub subtopology: u32,
    /// Its keys.
    pub key: Arc<dyn KeyFormat>,
    /// Its values.
    pub value: Arc<dyn ValueFormat>,
    /// Whether clients may ask for it: stores that the program names.
    pub queryable: bool,
}

impl StoreDefinition {
    /// Its changelog topic, if it has one.
    pub fn changelog_topic(&self) -> Option<TopicName> {
        self.changelog.then(|| TopicName::Internal(format!("{}-changelog", self.name).into()))
    }
}

/// A part of the topology that one task runs for one partition; parts meet at repartition topics.
pub struct Subtopology {
    /// Its number: the first half of its tasks' ids. As Kafka Streams numbers it.
    pub id: u32,
    /// What it reads. A record names its source by the index here.
    pub sources: Vec<SourceTopic>,
    /// What it writes. An output names its sink by the index here.
    pub sinks: Vec<SinkTopic>,
    /// Its stores, as indices into [`Topology::stores`].
    pub stores: Vec<usize>,
    /// Nodes, stores, topics and codecs as a hash: changes when, and only when, one of them does.
    pub fingerprint: String,
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) source_nodes: Vec<Vec<SourceFactory>>,
    pub(crate) sink_nodes: Vec<NodeId>,
}

impl std::fmt::Debug for Subtopology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subtopology")
            .field("id", &self.id)
            .field("sources", &self.sources)
            .field("sinks", &self.sinks)
            .field("stores", &self.stores)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// A checked program. Cheap to clone, immutable.
#[derive(Clone)]
pub struct Topology(Arc<Checked>);

pub(crate) struct Checked {
    pub(crate) nodes: Vec<GraphNode>,
    pub(crate) stores: Vec<StoreDefinition>,
    /// Per store of the program: its index in `stores`, if it is materialized.
    pub(crate) store_index: Vec<Option<usize>>,
    pub(crate) subtopologies: Vec<Subtopology>,
    /// Counts the graphs built; held while one is.
    pub(crate) building: Mutex<u64>,
}

impl Topology {
    pub(crate) fn new(checked: Checked) -> Self {
        Self(Arc::new(checked))
    }

    /// The sub-topologies; each one's id is its index.
    pub fn subtopologies(&self) -> &[Subtopology] {
        &self.0.subtopologies
    }

    /// The stores of all sub-topologies.
    pub fn stores(&self) -> &[StoreDefinition] {
        &self.0.stores
    }

    /// The index of the store called `name`.
    pub fn store(&self, name: &str) -> Option<usize> {
        self.0.stores.iter().position(|store| store.name.as_str() == name)
    }

    /// The graph as a picture: `Display` is Kafka Streams' text.
    pub fn describe(&self) -> TopologyDescription {
        describe::describe(&self.0)
    }

    pub(crate) fn node_name(&self, node: NodeId) -> Arc<str> {
        self.0.nodes.get(node).map_or_else(|| Arc::from(""), |node| Arc::clone(&node.name))
    }

    pub(crate) fn knows(&self, node: NodeId) -> bool {
        node < self.0.nodes.len()
    }

    pub(crate) fn store_index(&self, store: StoreId) -> Option<usize> {
        *self.0.store_index.get(store)?
    }

    pub(crate) fn store_name(&self, store: StoreId) -> Option<Arc<str>> {
        self.0.stores.get(self.store_index(store)?).map(|store| Arc::from(store.name.as_str()))
    }

    pub(crate) fn building(&self) -> MutexGuard<'_, u64> {
        self.0.building.lock()
    }
}

impl std::fmt::Debug for Topology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topology")
            .field("subtopologies", &self.0.subtopologies)
            .field("stores", &self.0.stores)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
