//! The topology as data and as Kafka Streams' text.

use std::{cmp::Reverse, fmt};

use serde::Serialize;

use super::{
    Checked, TopicName,
    graph::{NodeId, NodeKind},
    picture,
};

/// The graph: sub-topologies, their nodes and how they hang together. `Display` is the text of Kafka Streams'
/// `TopologyDescription`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopologyDescription {
    /// The sub-topologies, by number.
    pub subtopologies: Vec<SubtopologyDescription>,
}

/// One sub-topology.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubtopologyDescription {
    /// Its number.
    pub id: u32,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Its nodes, those with the most below them first.
    pub nodes: Vec<NodeDescription>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeDescription {
    /// Its name.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub role: NodeRole,
    /// Nodes that it gets records from.
    pub predecessors: Vec<String>,
    /// Nodes that it sends records to.
    pub successors: Vec<String>,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NodeRole {
    /// Reads topics.
    Source {
        /// The topics, internal ones without the application's id.
        topics: Vec<String>,
        /// Whether they are internal.
        internal: bool,
    },
    /// Works on records.
    Processor {
        /// Its stores.
        stores: Vec<String>,
    },
    /// Writes a topic.
    Sink {
        /// The topic, an internal one without the application's id.
        topic: String,
        /// Whether it is internal.
        internal: bool,
    },
}

impl TopologyDescription {
    /// The picture in Graphviz' language: `holdfast describe --format dot | dot -Tsvg`.
    pub fn dot(&self) -> String {
        picture::dot(self)
    }

    /// The picture in Mermaid's language, which Markdown viewers draw.
    pub fn mermaid(&self) -> String {
        picture::mermaid(self)
    }
}

/// Describes a checked topology.
pub(super) fn describe(topology: &Checked) -> TopologyDescription {
    let nodes = &topology.nodes;
    let mut successors: Vec<Vec<NodeId>> = vec![Vec::new(); nodes.len()];
    for (id, node) in nodes.iter().enumerate() {
        for &parent in &node.parents {
            successors[parent].push(id);
        }
    }
    // Nodes below each node, counted per path as Kafka Streams does; children come after their parents.
    let mut sizes = vec![1_usize; nodes.len()];
    for id in (0..nodes.len()).rev() {
        sizes[id] += successors[id].iter().map(|&child| sizes[child]).sum::<usize>();
    }
    let in_order = |ids: &[NodeId]| {
        let mut ids = ids.to_vec();
        ids.sort_by_key(|&id| (Reverse(sizes[id]), std::sync::Arc::clone(&nodes[id].name)));
        ids
    };
    let names = |ids: &[NodeId]| in_order(ids).into_iter().map(|id| nodes[id].name.to_string()).collect();
    let describe_node = |id: NodeId| NodeDescription {
        name: nodes[id].name.to_string(),
        role: match &nodes[id].kind {
            NodeKind::Source { topic, .. } => {
                NodeRole::Source { topics: vec![topic.to_string()], internal: topic.is_internal() }
            }
            NodeKind::Processor { .. } => NodeRole::Processor {
                stores: nodes[id]
                    .stores
                    .iter()
                    .filter_map(|&store| topology.stores.get((*topology.store_index.get(store)?)?))
                    .map(|store| store.name.to_string())
                    .collect(),
            },
            NodeKind::Sink { topic, .. } => {
                NodeRole::Sink { topic: topic.to_string(), internal: matches!(topic, TopicName::Internal(_)) }
            }
        },
        predecessors: names(&nodes[id].parents),
        successors: names(&successors[id]),
    };
    TopologyDescription {
        subtopologies: topology
            .subtopologies
            .iter()
            .map(|part| SubtopologyDescription {
                id: part.id,
                fingerprint: part.fingerprint.clone(),
                nodes: in_order(&part.nodes).into_iter().map(describe_node).collect(),
            })
            .collect(),
    }
}

impl fmt::Display for TopologyDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Topologies:\n ")?;
        for part in &self.subtopologies {
            writeln!(f, "  Sub-topology: {}", part.id)?;
            for node in &part.nodes {
                writeln!(f, "    {node}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for NodeDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let (before, after) = (list(&self.predecessors), list(&self.successors));
        match &self.role {
            NodeRole::Source { topics, .. } => {
                write!(f, "Source: {} (topics: [{}])\n      --> {after}", self.name, topics.join(", "))
            }
            NodeRole::Processor { stores } => write!(
                f,
                "Processor: {} (stores: [{}])\n      --> {after}\n      <-- {before}",
                self.name,
                stores.join(", ")
            ),
            NodeRole::Sink { topic, .. } => write!(f, "Sink: {} (topic: {topic})\n      <-- {before}", self.name),
        }
    }
}
