//! From a program to a topology: sources of one topic become one, the graph is cut into sub-topologies and numbered.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::{
    Checked, Graph, SinkTopic, SourceTopic, StoreDefinition, Subtopology, TopicName, Topology, TopologyError, check,
    fingerprint::Fingerprint,
    graph::{GraphNode, NodeId, NodeKind, StoreId},
};

/// Checks `graph` and makes a topology of it.
pub(crate) fn build(graph: &Graph) -> Result<Topology, TopologyError> {
    if let Some(error) = graph.errors.first() {
        return Err(error.clone());
    }
    let mut nodes = graph.nodes.clone();
    for node in &mut nodes {
        node.stores.retain(|&store| graph.stores.get(store).is_none_or(|store| store.is_materialized()));
    }
    merge_sources(&mut nodes)?;
    check::check_nodes(&nodes, &graph.stores)?;

    let groups = groups(&nodes);
    let mut store_index = vec![None; graph.stores.len()];
    let mut stores = Vec::new();
    let mut subtopologies = Vec::new();
    for (id, members) in groups.into_iter().enumerate() {
        let id = id as u32;
        let owned: Vec<StoreId> = graph
            .stores
            .iter()
            .enumerate()
            .filter(|(store, definition)| {
                definition.is_materialized() && members.iter().any(|&node| nodes[node].stores.contains(store))
            })
            .map(|(store, _)| store)
            .collect();
        let mut indices = Vec::new();
        for &store in &owned {
            let definition = &graph.stores[store];
            store_index[store] = Some(stores.len());
            indices.push(stores.len());
            stores.push(StoreDefinition {
                name: std::sync::Arc::clone(&definition.name).into(),
                kind: definition.kind,
                changelog: definition.changelog,
                subtopology: id,
                key: std::sync::Arc::clone(&definition.key),
                value: std::sync::Arc::clone(&definition.value),
                queryable: definition.queryable,
            });
        }
        let part = subtopology(id, &members, &nodes, indices, {
            let mut fingerprint = Fingerprint::new();
            for &node in &members {
                let parents: Vec<&str> = nodes[node].parents.iter().map(|&parent| &*nodes[parent].name).collect();
                fingerprint.node(&nodes[node], &parents);
            }
            for &store in &owned {
                fingerprint.store(&graph.stores[store]);
            }
            fingerprint.finish()
        });
        check::check_partitions(&part)?;
        subtopologies.push(part);
    }
    Ok(Topology::new(Checked { nodes, stores, store_index, subtopologies, building: Mutex::new(0) }))
}

fn subtopology(
    id: u32,
    members: &[NodeId],
    nodes: &[GraphNode],
    stores: Vec<usize>,
    fingerprint: String,
) -> Subtopology {
    let mut part = Subtopology {
        id,
        sources: Vec::new(),
        sinks: Vec::new(),
        stores,
        fingerprint,
        nodes: members.to_vec(),
        source_nodes: Vec::new(),
        sink_nodes: Vec::new(),
    };
    for &member in members {
        let node = &nodes[member];
        match &node.kind {
            NodeKind::Source { topic, repartition, factories, .. } => {
                part.sources.push(SourceTopic {
                    topic: topic.clone(),
                    repartition: *repartition,
                    node: std::sync::Arc::clone(&node.name),
                });
                part.source_nodes.push(factories.clone());
            }
            NodeKind::Sink { topic, .. } => {
                part.sinks.push(SinkTopic { topic: topic.clone(), node: std::sync::Arc::clone(&node.name) });
                part.sink_nodes.push(member);
            }
            NodeKind::Processor { .. } => {}
        }
    }
    part
}

/// Streams of one topic read it through one source, the first; a table reads its topic alone.
fn merge_sources(nodes: &mut [GraphNode]) -> Result<(), TopologyError> {
    let mut first: BTreeMap<TopicName, (NodeId, bool)> = BTreeMap::new();
    for id in 0..nodes.len() {
        let NodeKind::Source { topic, table, factories, .. } = &nodes[id].kind else { continue };
        let (topic, table, factories) = (topic.clone(), *table, factories.clone());
        match first.get(&topic) {
            None => {
                first.insert(topic, (id, table));
            }
            Some((_, true)) => return Err(TopologyError::DuplicateSource(topic.as_str().into())),
            Some(_) if table => return Err(TopologyError::DuplicateSource(topic.as_str().into())),
            Some(_) if topic.is_internal() => return Err(TopologyError::DuplicateRepartition(topic.as_str().into())),
            Some(&(main, _)) => {
                nodes[id].merged_into = Some(main);
                if let NodeKind::Source { factories: all, .. } = &mut nodes[main].kind {
                    all.extend(factories);
                }
            }
        }
    }
    for id in 0..nodes.len() {
        let moved: Vec<NodeId> =
            nodes[id].parents.iter().map(|&parent| nodes[parent].merged_into.unwrap_or(parent)).collect();
        nodes[id].parents = moved;
    }
    Ok(())
}

/// The connected parts, each with its nodes in order, numbered by their first nodes.
fn groups(nodes: &[GraphNode]) -> Vec<Vec<NodeId>> {
    let mut roots: Vec<NodeId> = (0..nodes.len()).collect();
    fn root(roots: &mut [NodeId], mut node: NodeId) -> NodeId {
        while roots[node] != node {
            roots[node] = roots[roots[node]];
            node = roots[node];
        }
        node
    }
    let mut owner: BTreeMap<StoreId, NodeId> = BTreeMap::new();
    for (id, node) in nodes.iter().enumerate() {
        let sharing = node.stores.iter().map(|&store| *owner.entry(store).or_insert(id));
        for other in node.parents.iter().copied().chain(sharing) {
            let (a, b) = (root(&mut roots, id), root(&mut roots, other));
            roots[a.max(b)] = a.min(b);
        }
    }
    let mut groups: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    for (id, node) in nodes.iter().enumerate() {
        if node.merged_into.is_none() {
            groups.entry(root(&mut roots, id)).or_default().push(id);
        }
    }
    groups.into_values().collect()
}
