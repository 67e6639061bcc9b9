//! KTable: the latest value per key.

use std::{
    cell::RefCell,
    convert::Infallible,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{KGroupedTable, KStream, builder::SharedGraph, options::Grouped};
use crate::{
    codec::{Change, HasCodec, Nullable, SharedCodec},
    errors::BoxError,
    processor::{Children, Processor, RepartitionMap, TableFilter, TableMapValues, ToStream},
    topology::{NodeId, Outlet, prefix},
};

/// Whether a table's changes carry the value sent before. Who needs it asks; it is passed up to where the rows are kept.
#[derive(Clone)]
pub(super) struct OldValues(Arc<OldValuesOf>);

struct OldValuesOf {
    sent: AtomicBool,
    /// Of a table's source: whether it is kept, which old values need.
    materialized: Option<Arc<AtomicBool>>,
    parent: Option<OldValues>,
}

impl OldValues {
    fn new(materialized: Option<Arc<AtomicBool>>, parent: Option<OldValues>) -> Self {
        Self(Arc::new(OldValuesOf { sent: AtomicBool::new(false), materialized, parent }))
    }

    /// Of a table that is kept.
    pub(super) fn of_table() -> Self {
        Self::new(None, None)
    }

    /// Of a table's source, which is kept when `materialized` says so.
    pub(super) fn of_source(materialized: Arc<AtomicBool>) -> Self {
        Self::new(Some(materialized), None)
    }

    fn derived(&self) -> Self {
        Self::new(None, Some(self.clone()))
    }

    fn enable(&self) {
        self.0.sent.store(true, Ordering::Relaxed);
        if let Some(materialized) = &self.0.materialized {
            materialized.store(true, Ordering::Relaxed);
        }
        if let Some(parent) = &self.0.parent {
            parent.enable();
        }
    }

    pub(super) fn are_sent(&self) -> bool {
        self.0.sent.load(Ordering::Relaxed)
    }
}

/// A table: one row per key. Its changes are passed on at each commit, the last one per key.
pub struct KTable<K, V> {
    graph: SharedGraph,
    node: NodeId,
    outlet: Arc<Outlet<K, Change<V>>>,
    key: Option<SharedCodec<K>>,
    value: Option<SharedCodec<V>>,
    old_values: OldValues,
}

impl<K, V> Clone for KTable<K, V> {
    fn clone(&self) -> Self {
        Self {
            graph: Rc::clone(&self.graph),
            node: self.node,
            outlet: Arc::clone(&self.outlet),
            key: self.key.clone(),
            value: self.value.clone(),
            old_values: self.old_values.clone(),
        }
    }
}

impl<K, V> KTable<K, V>
where
    K: Send + 'static,
    V: Clone + Send + 'static,
{
    pub(super) fn new(
        graph: SharedGraph,
        node: NodeId,
        outlet: Arc<Outlet<K, Change<V>>>,
        key: Option<SharedCodec<K>>,
        value: Option<SharedCodec<V>>,
        old_values: OldValues,
    ) -> Self {
        Self { graph, node, outlet, key, value, old_values }
    }

    /// Names the node that made this table.
    pub fn named(self, name: &str) -> Self {
        self.graph.borrow_mut().rename(self.node, name);
        self
    }

    /// The rows that `predicate` keeps; a row that it keeps no longer is deleted.
    pub fn filter<F>(&self, predicate: F) -> Self
    where
        F: Fn(&K, &V) -> bool + Send + Sync + 'static,
    {
        self.filtered(move |key, value| Ok(predicate(key, value)))
    }

    /// The rows that `predicate` does not keep.
    pub fn filter_not<F>(&self, predicate: F) -> Self
    where
        F: Fn(&K, &V) -> bool + Send + Sync + 'static,
    {
        self.filtered(move |key, value| Ok(!predicate(key, value)))
    }

    fn filtered<F>(&self, keep: F) -> Self
    where
        F: Fn(&K, &V) -> Result<bool, BoxError> + Send + Sync + 'static,
    {
        let old_values = self.old_values.derived();
        let (keep, old) = (Arc::new(keep), old_values.clone());
        let (node, outlet) = self.attach(None, prefix::TABLE_FILTER, true, move |node, children| TableFilter {
            node,
            keep: Arc::clone(&keep),
            sends_old: old.are_sent(),
            children,
        });
        Self::new(Rc::clone(&self.graph), node, outlet, self.key.clone(), self.value.clone(), old_values)
    }

    /// Maps the value of each row.
    pub fn map_values<VR, F>(&self, mapper: F) -> KTable<K, VR>
    where
        VR: Clone + Send + 'static,
        F: Fn(&V) -> VR + Send + Sync + 'static,
    {
        self.try_map_values(move |_, value| Ok::<_, Infallible>(mapper(value)))
    }

    /// Maps the value of each row, knowing its key, with a closure that may refuse it.
    pub fn try_map_values<VR, F, E>(&self, mapper: F) -> KTable<K, VR>
    where
        VR: Clone + Send + 'static,
        F: Fn(&K, &V) -> Result<VR, E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        let old_values = self.old_values.derived();
        let map = Arc::new(move |key: &K, value: &V| mapper(key, value).map_err(Into::into));
        let old = old_values.clone();
        let (node, outlet) = self.attach(None, prefix::TABLE_MAP_VALUES, false, move |node, children| TableMapValues {
            node,
            map: Arc::clone(&map),
            sends_old: old.are_sent(),
            children,
        });
        KTable::new(Rc::clone(&self.graph), node, outlet, self.key.clone(), None, old_values)
    }

    /// The table's changes as a stream: the last new value per key and commit, `None` where the row was deleted (written
    /// as a tombstone). `flat_map_values(|value| value.clone())` leaves deletions out.
    pub fn to_stream(&self) -> KStream<K, Option<V>> {
        let (node, outlet) = self.attach(None, prefix::TABLE_TO_STREAM, false, |_, children| ToStream { children });
        let value = self.value.as_ref().map(|codec| Arc::new(Nullable(Arc::clone(codec))) as SharedCodec<Option<V>>);
        KStream::new(Rc::clone(&self.graph), node, outlet, self.key.clone(), value, false)
    }

    /// Groups rows by what `selector(&key, &value)` answers: the group's key and the value that counts there.
    pub fn group_by<KR, VR, F>(&self, selector: F) -> KGroupedTable<KR, VR>
    where
        KR: HasCodec + PartialEq + Send,
        VR: HasCodec + Send,
        F: Fn(&K, &V) -> (KR, VR) + Send + Sync + 'static,
    {
        self.group_by_with(selector, Grouped::default())
    }

    /// [`KTable::group_by`] with codecs or a name of one's own.
    pub fn group_by_with<KR, VR, F>(&self, selector: F, grouped: Grouped<KR, VR>) -> KGroupedTable<KR, VR>
    where
        KR: PartialEq + Send + 'static,
        VR: Send + 'static,
        F: Fn(&K, &V) -> (KR, VR) + Send + Sync + 'static,
    {
        self.try_group_by_with(move |key, value| Ok::<_, Infallible>(selector(key, value)), grouped)
    }

    /// [`KTable::group_by_with`] with a closure that may refuse a row.
    pub fn try_group_by_with<KR, VR, F, E>(&self, selector: F, grouped: Grouped<KR, VR>) -> KGroupedTable<KR, VR>
    where
        KR: PartialEq + Send + 'static,
        VR: Send + 'static,
        F: Fn(&K, &V) -> Result<(KR, VR), E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        self.old_values.enable();
        let select = Arc::new(move |key: &K, value: &V| selector(key, value).map_err(Into::into));
        let name = grouped.name.as_deref();
        let (node, outlet) = self.attach(name, prefix::TABLE_SELECT, true, move |node, children| RepartitionMap {
            node,
            select: Arc::clone(&select),
            children,
        });
        KGroupedTable {
            graph: Rc::clone(&self.graph),
            node,
            outlet,
            key: grouped.key.resolve(None),
            value: grouped.value.resolve(None),
            name: grouped.name,
            shared_repartition: Rc::new(RefCell::new(None)),
        }
    }

    /// Adds a processor below this table's node.
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
        P: Processor<K, Change<V>> + 'static,
    {
        super::stream::attach(&self.graph, self.node, &self.outlet, name, prefix, conditional, make)
    }
}
