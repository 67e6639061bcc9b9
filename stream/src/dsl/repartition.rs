//! Repartitioning: a sink to an internal topic and a source from it, between which a new sub-topology begins.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use super::builder::{SourceKind, add_source};
use crate::{
    codec::{Change, ChangeCodec, CodecId, SharedCodec},
    processor::{GraphBuilder, Processor, Sink},
    topology::{Graph, NodeId, NodeKind, Outlet, RepartitionSpec, TopicName, is_generated, prefix},
};

/// The far side of a repartition: the source's node and where its children go.
pub(super) type Repartition<K, V> = (NodeId, Arc<Outlet<K, V>>);

/// The repartition of a grouping, once an aggregation has made it.
pub(super) type SharedRepartition<K, V> = Rc<RefCell<Option<Repartition<K, V>>>>;

/// Sends a stream through `<name>-repartition`. Kafka Streams counts three names (sink, filter, source) in any case, and
/// uses them where `name` itself is generated.
pub(super) fn repartition_stream<K, V>(
    graph: &mut Graph,
    parent: NodeId,
    records: &Outlet<K, V>,
    name: &str,
    spec: RepartitionSpec,
    codecs: (&SharedCodec<K>, &SharedCodec<V>),
) -> Repartition<K, V>
where
    K: Send + 'static,
    V: Send + 'static,
{
    let topic = topic_name(name);
    graph.check_name("the repartition topic", &topic);
    let generated = [prefix::SINK, prefix::FILTER, prefix::SOURCE].map(|prefix| graph.generate(prefix));
    let [sink, filter, source] =
        if is_generated(name) { generated } else { ["sink", "filter", "source"].map(|part| format!("{topic}-{part}")) };
    // The filter keeps everything since Kafka 3.7: it is a node in pictures, and not called.
    let filter = graph.add_processor(&filter, parent, false);
    connect(graph, filter, records, (&sink, &source), &topic, spec, codecs)
}

/// Sends a table's changes through `<name>-repartition`.
pub(super) fn repartition_table<K, V>(
    graph: &mut Graph,
    parent: NodeId,
    changes: &Outlet<K, Change<V>>,
    name: &str,
    codecs: (&SharedCodec<K>, &SharedCodec<V>),
    (sink, source): (&str, &str),
) -> Repartition<K, Change<V>>
where
    K: Send + 'static,
    V: Send + 'static,
{
    let topic = topic_name(name);
    graph.check_name("the repartition topic", &topic);
    let value: SharedCodec<Change<V>> = Arc::new(ChangeCodec(Arc::clone(codecs.1)));
    connect(graph, parent, changes, (sink, source), &topic, RepartitionSpec::default(), (codecs.0, &value))
}

fn topic_name(name: &str) -> String {
    if name.ends_with("-repartition") { name.to_owned() } else { format!("{name}-repartition") }
}

fn connect<K, V>(
    graph: &mut Graph,
    parent: NodeId,
    records: &Outlet<K, V>,
    (sink, source): (&str, &str),
    topic: &str,
    spec: RepartitionSpec,
    (key, value): (&SharedCodec<K>, &SharedCodec<V>),
) -> Repartition<K, V>
where
    K: Send + 'static,
    V: Send + 'static,
{
    let topic = TopicName::Internal(topic.into());
    add_sink(graph, parent, records, sink, topic.clone(), key, value);
    add_source(graph, source, topic, SourceKind::Repartition(spec), key, value)
}

/// Adds a sink below `parent`.
pub(super) fn add_sink<K, V>(
    graph: &mut Graph,
    parent: NodeId,
    records: &Outlet<K, V>,
    name: &str,
    topic: TopicName,
    key: &SharedCodec<K>,
    value: &SharedCodec<V>,
) where
    K: 'static,
    V: 'static,
{
    let codecs = (key.name(), value.name());
    let passes_on = topic.is_internal();
    let node = graph.add(name, NodeKind::Sink { topic, codecs }, vec![parent], Vec::new());
    let (key, value) = (Arc::clone(key), Arc::clone(value));
    records.connect(node, move |builder: &mut GraphBuilder<'_>| -> Box<dyn Processor<K, V>> {
        if passes_on {
            builder.pass_on(CodecId::of(&value));
        }
        Box::new(Sink {
            node: builder.name(node),
            index: builder.sink(node),
            key: Arc::clone(&key),
            value: Arc::clone(&value),
            passes_on,
        })
    });
}
