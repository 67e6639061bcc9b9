//! Where a program starts: topics in, topology out.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
};

use holdfast_store::StoreKind;

use super::{
    KStream, KTable,
    options::{Consumed, Materialized},
    table::OldValues,
    table_store::{StoreSettings, table_source_node},
};
use crate::{
    codec::{CodecId, HasCodec, Nullable, SharedCodec, key_format, value_format},
    errors::RecordPart,
    processor::{Deserializer, GraphBuilder, Source, SourceNode},
    topology::{
        Graph, GraphStore, NodeId, NodeKind, Outlet, RepartitionSpec, SourceFactory, TopicName, Topology,
        TopologyError, build_topology, prefix,
    },
};

/// The graph that streams and tables of one builder add to.
pub(super) type SharedGraph = Rc<RefCell<Graph>>;

/// Builds a topology: start streams and tables from topics, derive others from them, then [`TopologyBuilder::build`].
#[derive(Default)]
pub struct TopologyBuilder {
    graph: SharedGraph,
}

impl TopologyBuilder {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    /// A stream of the records of `topic`.
    pub fn stream<K, V>(&self, topic: &str, consumed: Consumed<K, V>) -> KStream<K, V>
    where
        K: Send + 'static,
        V: Send + 'static,
    {
        let mut graph = self.graph.borrow_mut();
        graph.check_name("the topic", topic);
        let name = graph.name_or_generate(consumed.name.as_deref(), prefix::SOURCE);
        let (node, outlet) = add_source(
            &mut graph,
            &name,
            TopicName::External(topic.into()),
            SourceKind::Stream,
            &consumed.key,
            &consumed.value,
        );
        KStream::new(Rc::clone(&self.graph), node, outlet, Some(consumed.key), Some(consumed.value), false)
    }

    /// A table of the latest value per key of `topic`. It is kept in a store only where something needs its old values
    /// (a `group_by`); [`TopologyBuilder::table_with`] keeps it under a name.
    pub fn table<K, V>(&self, topic: &str, consumed: Consumed<K, V>) -> KTable<K, V>
    where
        K: Send + 'static,
        V: Clone + Send + Sync + 'static,
    {
        let settings = StoreSettings { name: None, kind: StoreKind::Persistent, changelog: true };
        self.add_table(topic, consumed, settings)
    }

    /// A table of the latest value per key of `topic`, kept as `materialized` says (the values as they are consumed).
    pub fn table_with<K, V>(&self, topic: &str, consumed: Consumed<K, V>, materialized: Materialized<V>) -> KTable<K, V>
    where
        K: Send + 'static,
        V: Clone + Send + Sync + 'static,
    {
        let settings =
            StoreSettings { name: materialized.name, kind: materialized.kind, changelog: materialized.changelog };
        self.add_table(topic, consumed, settings)
    }

    fn add_table<K, V>(&self, topic: &str, consumed: Consumed<K, V>, settings: StoreSettings) -> KTable<K, V>
    where
        K: Send + 'static,
        V: Clone + Send + Sync + 'static,
    {
        let mut graph = self.graph.borrow_mut();
        graph.check_name("the topic", topic);
        // In Kafka Streams' order: the store's name, the source's, the table's.
        let queryable = settings.name.is_some();
        let store_name = settings.name.unwrap_or_else(|| graph.generate_store(&format!("{topic}-")));
        let source_name = match &consumed.name {
            Some(name) => graph.name_or_generate(Some(&format!("{name}-source")), prefix::SOURCE),
            None => graph.generate(prefix::SOURCE),
        };
        let table_name = graph.name_or_generate(consumed.name.as_deref(), prefix::TABLE_SOURCE);

        let materialized = Arc::new(AtomicBool::new(queryable));
        let store = graph.add_store(GraphStore {
            name: store_name.into(),
            kind: settings.kind,
            changelog: settings.changelog,
            key: key_format(&consumed.key),
            value: value_format(&consumed.value),
            queryable,
            materialized: Arc::clone(&materialized),
        });
        let nullable: SharedCodec<Option<V>> = Arc::new(Nullable(Arc::clone(&consumed.value)));
        let (source, records) = add_source(
            &mut graph,
            &source_name,
            TopicName::External(topic.into()),
            SourceKind::Table,
            &consumed.key,
            &nullable,
        );
        let node = graph.add(&table_name, NodeKind::Processor { conditional: true }, vec![source], vec![store]);
        let outlet = Arc::new(Outlet::new());
        let old_values = OldValues::of_source(materialized);
        table_source_node(&records, node, store, &consumed.key, &consumed.value, old_values.clone(), &outlet);
        KTable::new(Rc::clone(&self.graph), node, outlet, Some(consumed.key), Some(consumed.value), old_values)
    }

    /// A stream of the records of `topic`, read with the types' own codecs.
    pub fn stream_of<K, V>(&self, topic: &str) -> KStream<K, V>
    where
        K: HasCodec + Send,
        V: HasCodec + Send,
    {
        self.stream(topic, Consumed::default())
    }

    /// Checks the program and makes a topology of it. What is added afterwards is not part of it.
    pub fn build(&self) -> Result<Topology, TopologyError> {
        build_topology(&self.graph.borrow())
    }
}

/// What a source is for.
pub(super) enum SourceKind {
    Stream,
    Table,
    Repartition(RepartitionSpec),
}

/// Adds a source and answers where its children go.
pub(super) fn add_source<K, V>(
    graph: &mut Graph,
    name: &str,
    topic: TopicName,
    kind: SourceKind,
    key: &SharedCodec<K>,
    value: &SharedCodec<V>,
) -> (NodeId, Arc<Outlet<K, V>>)
where
    K: Send + 'static,
    V: Send + 'static,
{
    let outlet = Arc::new(Outlet::new());
    let node = graph.nodes.len();
    let factory: SourceFactory = {
        let (outlet, key, value) = (Arc::clone(&outlet), Arc::clone(key), Arc::clone(value));
        Arc::new(move |builder: &mut GraphBuilder<'_>| -> Box<dyn SourceNode> {
            let name = builder.name(node);
            // First, so that what is below has said what it passes on.
            let children = outlet.build(builder);
            Box::new(Source {
                key: Deserializer::new(Arc::clone(&name), RecordPart::Key, Arc::clone(&key)),
                value: Deserializer::new(name, RecordPart::Value, Arc::clone(&value)),
                passed_on: builder.passed_on(CodecId::of(&value)),
                children,
            })
        })
    };
    let (table, repartition) = match kind {
        SourceKind::Stream => (false, None),
        SourceKind::Table => (true, None),
        SourceKind::Repartition(spec) => (false, Some(spec)),
    };
    let codecs = (key.name(), value.name());
    let kind = NodeKind::Source { topic, repartition, table, codecs, factories: vec![factory] };
    (graph.add(name, kind, Vec::new(), Vec::new()), outlet)
}
