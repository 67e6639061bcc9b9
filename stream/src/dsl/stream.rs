//! KStream: records one after the other.

use std::{cell::RefCell, convert::Infallible, rc::Rc, sync::Arc};

use parking_lot::Mutex;

use super::{
    BranchedKStream, KGroupedStream,
    builder::SharedGraph,
    options::{Grouped, Produced, Repartitioned},
    repartition::{add_sink, repartition_stream},
};
use crate::{
    codec::{HasCodec, SharedCodec},
    errors::BoxError,
    processor::{
        Children, Filter, FlatMap, FlatMapValues, ForEach, GraphBuilder, Map, MapValues, Peek, Processor, SelectKey,
        Shared, WeakShared,
    },
    topology::{NodeId, NodeKind, Outlet, RepartitionSpec, TopicName, TopologyError, prefix},
};

/// A stream of records. Cheap to clone; each operation adds a node below this one and leaves this one as it is.
pub struct KStream<K, V> {
    pub(super) graph: SharedGraph,
    pub(super) node: NodeId,
    pub(super) outlet: Arc<Outlet<K, V>>,
    pub(super) key: Option<SharedCodec<K>>,
    pub(super) value: Option<SharedCodec<V>>,
    /// Whether the key was changed since the records were last partitioned by it.
    pub(super) repartition_required: bool,
}

impl<K, V> Clone for KStream<K, V> {
    fn clone(&self) -> Self {
        Self {
            graph: Rc::clone(&self.graph),
            node: self.node,
            outlet: Arc::clone(&self.outlet),
            key: self.key.clone(),
            value: self.value.clone(),
            repartition_required: self.repartition_required,
        }
    }
}

impl<K, V> KStream<K, V>
where
    K: Send + 'static,
    V: Send + 'static,
{
    pub(super) fn new(
        graph: SharedGraph,
        node: NodeId,
        outlet: Arc<Outlet<K, V>>,
        key: Option<SharedCodec<K>>,
        value: Option<SharedCodec<V>>,
        repartition_required: bool,
    ) -> Self {
        Self { graph, node, outlet, key, value, repartition_required }
    }

    /// Names the node that made this stream.
    pub fn named(self, name: &str) -> Self {
        self.graph.borrow_mut().rename(self.node, name);
        self
    }

    /// The records that `predicate` keeps.
    pub fn filter<F>(&self, predicate: F) -> Self
    where
        F: Fn(&K, &V) -> bool + Send + Sync + 'static,
    {
        self.try_filter(move |key, value| Ok::<_, Infallible>(predicate(key, value)))
    }

    /// The records that `predicate` does not keep.
    pub fn filter_not<F>(&self, predicate: F) -> Self
    where
        F: Fn(&K, &V) -> bool + Send + Sync + 'static,
    {
        self.try_filter(move |key, value| Ok::<_, Infallible>(!predicate(key, value)))
    }

    /// [`KStream::filter`] with a closure that may refuse a record, which then falls under the error policy.
    pub fn try_filter<F, E>(&self, predicate: F) -> Self
    where
        F: Fn(&K, &V) -> Result<bool, E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        let keep = Arc::new(move |key: &K, value: &V| predicate(key, value).map_err(Into::into));
        let (node, outlet) = self.attach(None, prefix::FILTER, true, move |node, children| Filter {
            node,
            keep: Arc::clone(&keep),
            children,
        });
        self.derived(node, outlet, self.key.clone(), self.value.clone())
    }

    /// One record in, one out: `(new key, new value)`.
    pub fn map<KR, VR, F>(&self, mapper: F) -> KStream<KR, VR>
    where
        KR: Send + 'static,
        VR: Send + 'static,
        F: Fn(&K, &V) -> (KR, VR) + Send + Sync + 'static,
    {
        self.try_map(move |key, value| Ok::<_, Infallible>(mapper(key, value)))
    }

    /// [`KStream::map`] with a closure that may refuse a record.
    pub fn try_map<KR, VR, F, E>(&self, mapper: F) -> KStream<KR, VR>
    where
        KR: Send + 'static,
        VR: Send + 'static,
        F: Fn(&K, &V) -> Result<(KR, VR), E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        let map = Arc::new(move |key: &K, value: &V| mapper(key, value).map_err(Into::into));
        let (node, outlet) =
            self.attach(None, prefix::MAP, false, move |node, children| Map { node, map: Arc::clone(&map), children });
        self.rekeyed(node, outlet, None)
    }

    /// Maps each value; the key stays.
    pub fn map_values<VR, F>(&self, mapper: F) -> KStream<K, VR>
    where
        VR: Send + 'static,
        F: Fn(&V) -> VR + Send + Sync + 'static,
    {
        self.try_map_values(move |_, value| Ok::<_, Infallible>(mapper(value)))
    }

    /// Maps each value, knowing its key, with a closure that may refuse the record.
    pub fn try_map_values<VR, F, E>(&self, mapper: F) -> KStream<K, VR>
    where
        VR: Send + 'static,
        F: Fn(&K, &V) -> Result<VR, E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        let map = Arc::new(move |key: &K, value: &V| mapper(key, value).map_err(Into::into));
        let (node, outlet) = self.attach(None, prefix::MAP_VALUES, false, move |node, children| MapValues {
            node,
            map: Arc::clone(&map),
            children,
        });
        self.derived(node, outlet, self.key.clone(), None)
    }

    /// One record in, any number out.
    pub fn flat_map<KR, VR, I, F>(&self, mapper: F) -> KStream<KR, VR>
    where
        KR: Send + 'static,
        VR: Send + 'static,
        I: IntoIterator<Item = (KR, VR)> + 'static,
        F: Fn(&K, &V) -> I + Send + Sync + 'static,
    {
        self.try_flat_map(move |key, value| Ok::<_, Infallible>(mapper(key, value)))
    }

    /// [`KStream::flat_map`] with a closure that may refuse a record.
    pub fn try_flat_map<KR, VR, I, F, E>(&self, mapper: F) -> KStream<KR, VR>
    where
        KR: Send + 'static,
        VR: Send + 'static,
        I: IntoIterator<Item = (KR, VR)> + 'static,
        F: Fn(&K, &V) -> Result<I, E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        let map = Arc::new(move |key: &K, value: &V| mapper(key, value).map_err(Into::into));
        let (node, outlet) = self.attach(None, prefix::FLAT_MAP, true, move |node, children| FlatMap {
            node,
            map: Arc::clone(&map),
            children,
        });
        self.rekeyed(node, outlet, None)
    }

    /// One value in, any number out; the key stays.
    pub fn flat_map_values<VR, I, F>(&self, mapper: F) -> KStream<K, VR>
    where
        VR: Send + 'static,
        I: IntoIterator<Item = VR> + 'static,
        F: Fn(&V) -> I + Send + Sync + 'static,
    {
        self.try_flat_map_values(move |_, value| Ok::<_, Infallible>(mapper(value)))
    }

    /// One value in, any number out, the key known and kept, with a closure that may refuse the record.
    pub fn try_flat_map_values<VR, I, F, E>(&self, mapper: F) -> KStream<K, VR>
    where
        VR: Send + 'static,
        I: IntoIterator<Item = VR> + 'static,
        F: Fn(&K, &V) -> Result<I, E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        let map = Arc::new(move |key: &K, value: &V| mapper(key, value).map_err(Into::into));
        let (node, outlet) = self.attach(None, prefix::FLAT_MAP_VALUES, true, move |node, children| FlatMapValues {
            node,
            map: Arc::clone(&map),
            children,
        });
        self.derived(node, outlet, self.key.clone(), None)
    }

    /// Gives each record another key.
    pub fn select_key<KR, F>(&self, selector: F) -> KStream<KR, V>
    where
        KR: Send + 'static,
        F: Fn(&K, &V) -> KR + Send + Sync + 'static,
    {
        self.try_select_key(move |key, value| Ok::<_, Infallible>(selector(key, value)))
    }

    /// [`KStream::select_key`] with a closure that may refuse a record.
    pub fn try_select_key<KR, F, E>(&self, selector: F) -> KStream<KR, V>
    where
        KR: Send + 'static,
        F: Fn(&K, &V) -> Result<KR, E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        self.key_selected(None, selector)
    }

    fn key_selected<KR, F, E>(&self, name: Option<&str>, selector: F) -> KStream<KR, V>
    where
        KR: Send + 'static,
        F: Fn(&K, &V) -> Result<KR, E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        let select = Arc::new(move |key: &K, value: &V| selector(key, value).map_err(Into::into));
        let (node, outlet) = self.attach(name, prefix::KEY_SELECT, false, move |node, children| SelectKey {
            node,
            select: Arc::clone(&select),
            children,
        });
        self.rekeyed(node, outlet, self.value.clone())
    }

    /// Looks at each record and passes it on.
    pub fn peek<F>(&self, look: F) -> Self
    where
        F: Fn(&K, &V) + Send + Sync + 'static,
    {
        let look = Arc::new(look);
        let (node, outlet) =
            self.attach(None, prefix::PEEK, false, move |_, children| Peek { look: Arc::clone(&look), children });
        self.derived(node, outlet, self.key.clone(), self.value.clone())
    }

    /// Ends the stream in a closure. It runs again for a record whose processing is repeated.
    pub fn for_each<F>(&self, action: F)
    where
        F: Fn(&K, &V) + Send + Sync + 'static,
    {
        self.try_for_each(move |key, value| {
            action(key, value);
            Ok::<_, Infallible>(())
        });
    }

    /// [`KStream::for_each`] with a closure that may refuse a record.
    pub fn try_for_each<F, E>(&self, action: F)
    where
        F: Fn(&K, &V) -> Result<(), E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        let action = Arc::new(move |key: &K, value: &V| action(key, value).map_err(Into::into));
        // Nothing comes after it: the outlet stays empty.
        let _: (NodeId, Arc<Outlet<K, V>>) =
            self.attach(None, prefix::FOR_EACH, false, move |node, _| ForEach { node, action: Arc::clone(&action) });
    }

    /// Divides the stream: each record goes to the first branch that takes it.
    pub fn split(&self) -> BranchedKStream<K, V> {
        BranchedKStream::new(self, None)
    }

    /// [`KStream::split`] under a name, which the names of the branches start with.
    pub fn split_named(&self, name: &str) -> BranchedKStream<K, V> {
        BranchedKStream::new(self, Some(name))
    }

    /// The records of both streams, in no particular order between them.
    pub fn merge(&self, other: &Self) -> Self {
        let node = {
            let mut graph = self.graph.borrow_mut();
            let name = graph.generate(prefix::MERGE);
            if !Rc::ptr_eq(&self.graph, &other.graph) {
                graph.errors.push(TopologyError::ForeignStream(name.as_str().into()));
                return self.clone();
            }
            graph.add(&name, NodeKind::Processor { conditional: false }, vec![self.node, other.node], Vec::new())
        };
        let outlet = Arc::new(Outlet::new());
        // Both parents of one task get the same instance: whoever is built first makes it.
        let instance = Arc::new(Mutex::new(None::<(u64, WeakShared<Children<K, V>>)>));
        for parent in [self, other] {
            let (outlet, instance) = (Arc::clone(&outlet), Arc::clone(&instance));
            parent.outlet.connect(node, move |builder| {
                let made =
                    instance.lock().as_ref().filter(|(id, _)| *id == builder.id()).and_then(|(_, made)| made.upgrade());
                Box::new(made.unwrap_or_else(|| {
                    let made = Shared::new(outlet.build(builder));
                    *instance.lock() = Some((builder.id(), made.downgrade()));
                    made
                }))
            });
        }
        let same = |a: Option<&str>, b: Option<&str>| a.is_some() && a == b;
        let names = |stream: &Self| (stream.key.as_ref().map(|c| c.name()), stream.value.as_ref().map(|c| c.name()));
        let ((key, value), (other_key, other_value)) = (names(self), names(other));
        // A codec stays known only where both streams have the same.
        let key = self.key.clone().filter(|_| same(key.as_deref(), other_key.as_deref()));
        let value = self.value.clone().filter(|_| same(value.as_deref(), other_value.as_deref()));
        let repartition_required = self.repartition_required || other.repartition_required;
        Self::new(Rc::clone(&self.graph), node, outlet, key, value, repartition_required)
    }

    /// Groups by the key as it is. Where it was changed before, aggregating goes through a repartition topic.
    pub fn group_by_key(&self) -> KGroupedStream<K, V>
    where
        K: HasCodec,
        V: HasCodec,
    {
        self.group_by_key_with(Grouped::default())
    }

    /// [`KStream::group_by_key`] with codecs or a name of one's own.
    pub fn group_by_key_with(&self, grouped: Grouped<K, V>) -> KGroupedStream<K, V> {
        KGroupedStream {
            graph: Rc::clone(&self.graph),
            node: self.node,
            outlet: Arc::clone(&self.outlet),
            key: grouped.key.resolve(self.key.as_ref()),
            value: grouped.value.resolve(self.value.as_ref()),
            repartition_required: self.repartition_required,
            name: grouped.name,
            shared_repartition: Rc::new(RefCell::new(None)),
        }
    }

    /// Groups by a key that `selector(&key, &value)` chooses.
    pub fn group_by<KR, F>(&self, selector: F) -> KGroupedStream<KR, V>
    where
        KR: HasCodec + Send,
        V: HasCodec,
        F: Fn(&K, &V) -> KR + Send + Sync + 'static,
    {
        self.group_by_with(selector, Grouped::default())
    }

    /// [`KStream::group_by`] with codecs or a name of one's own.
    pub fn group_by_with<KR, F>(&self, selector: F, grouped: Grouped<KR, V>) -> KGroupedStream<KR, V>
    where
        KR: Send + 'static,
        F: Fn(&K, &V) -> KR + Send + Sync + 'static,
    {
        self.try_group_by_with(move |key, value| Ok::<_, Infallible>(selector(key, value)), grouped)
    }

    /// [`KStream::group_by_with`] with a closure that may refuse a record.
    pub fn try_group_by_with<KR, F, E>(&self, selector: F, grouped: Grouped<KR, V>) -> KGroupedStream<KR, V>
    where
        KR: Send + 'static,
        F: Fn(&K, &V) -> Result<KR, E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        self.key_selected(grouped.name.as_deref(), selector).group_by_key_with(grouped)
    }

    /// Sends the stream through a topic of its own, partitioned by its key.
    pub fn repartition(&self, repartitioned: Repartitioned<K, V>) -> Self {
        let mut graph = self.graph.borrow_mut();
        let name = repartitioned.name.unwrap_or_else(|| graph.generate(prefix::REPARTITION));
        let key = repartitioned.key.resolve(self.key.as_ref());
        let value = repartitioned.value.resolve(self.value.as_ref());
        let spec = RepartitionSpec { partitions: repartitioned.partitions };
        let (node, outlet) = repartition_stream(&mut graph, self.node, &self.outlet, &name, spec, (&key, &value));
        Self::new(Rc::clone(&self.graph), node, outlet, Some(key), Some(value), false)
    }

    /// Writes the stream to `topic`.
    pub fn to(&self, topic: &str)
    where
        K: HasCodec,
        V: HasCodec,
    {
        self.to_with(topic, Produced::default());
    }

    /// [`KStream::to`] with codecs or a name of one's own.
    pub fn to_with(&self, topic: &str, produced: Produced<K, V>) {
        let mut graph = self.graph.borrow_mut();
        graph.check_name("the topic", topic);
        let name = graph.name_or_generate(produced.name.as_deref(), prefix::SINK);
        let key = produced.key.resolve(self.key.as_ref());
        let value = produced.value.resolve(self.value.as_ref());
        add_sink(&mut graph, self.node, &self.outlet, &name, TopicName::External(topic.into()), &key, &value);
    }

    /// A stream below this one with the same partitioning.
    fn derived<VR: Send + 'static>(
        &self,
        node: NodeId,
        outlet: Arc<Outlet<K, VR>>,
        key: Option<SharedCodec<K>>,
        value: Option<SharedCodec<VR>>,
    ) -> KStream<K, VR> {
        KStream::new(Rc::clone(&self.graph), node, outlet, key, value, self.repartition_required)
    }

    /// A stream below this one whose keys are others.
    fn rekeyed<KR, VR>(
        &self,
        node: NodeId,
        outlet: Arc<Outlet<KR, VR>>,
        value: Option<SharedCodec<VR>>,
    ) -> KStream<KR, VR>
    where
        KR: Send + 'static,
        VR: Send + 'static,
    {
        KStream::new(Rc::clone(&self.graph), node, outlet, None, value, true)
    }

    fn attach<KR, VR, P>(
        &self,
        name: Option<&str>,
        prefix: &str,
        conditional: bool,
        make: impl Fn(Arc<str>, Children<KR, VR>) -> P + Send + Sync + 'static,
    ) -> (NodeId, Arc<Outlet<KR, VR>>)
    where
        KR: 'static,
        VR: 'static,
        P: Processor<K, V> + 'static,
    {
        attach(&self.graph, self.node, &self.outlet, name, prefix, conditional, make)
    }
}

/// Adds a processor below `parent`, made by `make` from its name and its children for each task.
pub(super) fn attach<K, V, KR, VR, P>(
    graph: &SharedGraph,
    parent: NodeId,
    records: &Outlet<K, V>,
    name: Option<&str>,
    prefix: &str,
    conditional: bool,
    make: impl Fn(Arc<str>, Children<KR, VR>) -> P + Send + Sync + 'static,
) -> (NodeId, Arc<Outlet<KR, VR>>)
where
    KR: 'static,
    VR: 'static,
    P: Processor<K, V> + 'static,
{
    let mut graph = graph.borrow_mut();
    let name = graph.name_or_generate(name, prefix);
    let node = graph.add_processor(&name, parent, conditional);
    let outlet = Arc::new(Outlet::new());
    let below = Arc::clone(&outlet);
    records
        .connect(node, move |builder: &mut GraphBuilder<'_>| Box::new(make(builder.name(node), below.build(builder))));
    (node, outlet)
}
