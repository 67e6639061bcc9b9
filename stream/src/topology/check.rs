//! What can be known to be wrong before anything runs.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    RepartitionSpec, Subtopology, TopicName, TopologyError,
    graph::{GraphNode, GraphStore, NodeId, NodeKind},
};

/// Checks names, stores and loops. Sources of one topic are merged already, stores that are not kept are gone from nodes.
pub(super) fn check_nodes(nodes: &[GraphNode], stores: &[GraphStore]) -> Result<(), TopologyError> {
    if !nodes.iter().any(|node| matches!(node.kind, NodeKind::Source { .. })) {
        return Err(TopologyError::NoSource);
    }
    let mut sinks = HashSet::new();
    for node in nodes.iter() {
        // Before names: two repartitions of one name also make two nodes of one name, which says less.
        if let NodeKind::Sink { topic: TopicName::Internal(topic), .. } = &node.kind
            && !sinks.insert(topic)
        {
            return Err(TopologyError::DuplicateRepartition(Arc::clone(topic)));
        }
    }
    let mut names = HashSet::new();
    for node in nodes.iter().filter(|node| node.merged_into.is_none()) {
        if !names.insert(&*node.name) {
            return Err(TopologyError::DuplicateNode(Arc::clone(&node.name)));
        }
    }
    check_stores(nodes, stores)?;
    check_loops(nodes)
}

fn check_stores(nodes: &[GraphNode], stores: &[GraphStore]) -> Result<(), TopologyError> {
    let mut names = HashSet::new();
    for store in stores.iter().filter(|store| store.is_materialized()) {
        if !names.insert(&*store.name) {
            return Err(TopologyError::DuplicateStore(Arc::clone(&store.name)));
        }
    }
    let mut owned = BTreeSet::new();
    for node in nodes {
        for &store in &node.stores {
            if store >= stores.len() {
                return Err(TopologyError::UnknownStore { node: Arc::clone(&node.name), store });
            }
            owned.insert(store);
        }
    }
    match stores.iter().enumerate().find(|(id, store)| store.is_materialized() && !owned.contains(id)) {
        Some((_, store)) => Err(TopologyError::OrphanStore(Arc::clone(&store.name))),
        None => Ok(()),
    }
}

/// A sink to a topic that its own records come from, with nothing in between that could ever stop one.
fn check_loops(nodes: &[GraphNode]) -> Result<(), TopologyError> {
    for (id, node) in nodes.iter().enumerate() {
        let NodeKind::Sink { topic: TopicName::External(topic), .. } = &node.kind else { continue };
        if comes_back(nodes, id, topic, &mut HashMap::new()) {
            return Err(TopologyError::Loop { sink: Arc::clone(&node.name), topic: Arc::clone(topic) });
        }
    }
    Ok(())
}

fn comes_back(nodes: &[GraphNode], id: NodeId, topic: &str, seen: &mut HashMap<NodeId, bool>) -> bool {
    if let Some(&known) = seen.get(&id) {
        return known;
    }
    let back = match &nodes[id].kind {
        NodeKind::Source { topic: TopicName::External(source), .. } => **source == *topic,
        NodeKind::Source { .. } | NodeKind::Processor { conditional: true } => false,
        NodeKind::Processor { .. } | NodeKind::Sink { .. } => {
            nodes[id].parents.iter().any(|&parent| comes_back(nodes, parent, topic, seen))
        }
    };
    seen.insert(id, back);
    back
}

/// Repartition topics whose number of partitions is set: positive, and equal where they feed the same stores.
pub(super) fn check_partitions(part: &Subtopology) -> Result<(), TopologyError> {
    let mut first: Option<(Arc<str>, i32)> = None;
    for source in &part.sources {
        let Some(RepartitionSpec { partitions: Some(partitions) }) = source.repartition else { continue };
        let topic: Arc<str> = source.topic.as_str().into();
        if partitions < 1 {
            return Err(TopologyError::Partitions { topic, partitions });
        }
        match &first {
            Some((other, other_partitions)) if *other_partitions != partitions && !part.stores.is_empty() => {
                return Err(TopologyError::CoPartitioning {
                    first: Arc::clone(other),
                    first_partitions: *other_partitions,
                    second: topic,
                    second_partitions: partitions,
                });
            }
            Some(_) => {}
            None => first = Some((topic, partitions)),
        }
    }
    Ok(())
}
