//! A stream grouped by key: count, reduce, aggregate.

use std::{convert::Infallible, rc::Rc, sync::Arc};

use super::{
    KTable,
    builder::SharedGraph,
    options::Materialized,
    repartition::{Repartition, SharedRepartition, repartition_stream},
    table::OldValues,
    table_store::{NewStore, TableParts},
};
use crate::{
    codec::SharedCodec,
    errors::{BoxError, Outcome},
    processor::{AggregateUpdate, CountUpdate, ReduceUpdate, TableUpdate},
    topology::{NodeId, NodeKind, Outlet, RepartitionSpec, prefix},
};

/// A stream grouped by its key. Aggregating it makes a table; where the key was changed before, the records go through a
/// repartition topic first.
pub struct KGroupedStream<K, V> {
    pub(super) graph: SharedGraph,
    pub(super) node: NodeId,
    pub(super) outlet: Arc<Outlet<K, V>>,
    pub(super) key: SharedCodec<K>,
    pub(super) value: SharedCodec<V>,
    pub(super) repartition_required: bool,
    /// The repartition's name, if the program gives one: several aggregations then share it.
    pub(super) name: Option<String>,
    pub(super) shared_repartition: SharedRepartition<K, V>,
}

impl<K, V> KGroupedStream<K, V>
where
    K: Send + 'static,
    V: Send + 'static,
{
    /// Counts the records of each key.
    pub fn count(&self, materialized: Materialized<i64>) -> KTable<K, i64> {
        self.keep(prefix::STREAM_AGGREGATE, CountUpdate, materialized, None)
    }

    /// Combines the values of each key into one of the same type; the first is taken as it is.
    pub fn reduce<F>(&self, reducer: F, materialized: Materialized<V>) -> KTable<K, V>
    where
        V: Clone,
        F: Fn(&V, &V) -> V + Send + Sync + 'static,
    {
        self.try_reduce(move |aggregate, value| Ok::<_, Infallible>(reducer(aggregate, value)), materialized)
    }

    /// [`KGroupedStream::reduce`] with a closure that may refuse a record.
    pub fn try_reduce<F, E>(&self, reducer: F, materialized: Materialized<V>) -> KTable<K, V>
    where
        V: Clone,
        F: Fn(&V, &V) -> Result<V, E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        let update = ReduceUpdate(move |aggregate: &V, value: &V| reducer(aggregate, value).map_err(Into::into));
        self.keep(prefix::STREAM_REDUCE, update, materialized, Some(&self.value))
    }

    /// Starts each key with `initial` and lets `add` change it record by record: `add(&mut aggregate, &key, &value)`
    /// returns nothing or a `Result`; on an error it must leave the aggregate as it was.
    pub fn aggregate<R, I, A, O>(&self, initial: I, add: A, materialized: Materialized<R>) -> KTable<K, R>
    where
        R: Clone + Send + 'static,
        I: Fn() -> R + Send + Sync + 'static,
        A: Fn(&mut R, &K, &V) -> O + Send + Sync + 'static,
        O: Outcome,
    {
        let add = move |aggregate: &mut R, key: &K, value: &V| add(aggregate, key, value).into_result();
        self.keep(prefix::STREAM_AGGREGATE, AggregateUpdate { initial, add }, materialized, None)
    }

    fn keep<R, U>(
        &self,
        prefix: &str,
        update: U,
        materialized: Materialized<R>,
        carried: Option<&SharedCodec<R>>,
    ) -> KTable<K, R>
    where
        R: Clone + Send + 'static,
        U: TableUpdate<K, V, R> + 'static,
    {
        // In Kafka Streams' order: the store's name, the node's, the repartition's.
        let new_store = NewStore::named(&mut self.graph.borrow_mut(), materialized, carried, prefix);
        let name = self.graph.borrow_mut().generate(prefix);
        let (parent, records) = self.repartitioned(&new_store.name);

        let mut graph = self.graph.borrow_mut();
        let store = new_store.add(&mut graph, &self.key);
        let node = graph.add(&name, NodeKind::Processor { conditional: true }, vec![parent], vec![store]);
        let outlet = Arc::new(Outlet::new());
        let old_values = OldValues::of_table();
        let row = new_store.value;
        TableParts {
            node,
            store,
            key: Arc::clone(&self.key),
            row: Arc::clone(&row),
            input: Some(Arc::clone(&self.value)),
            update: Arc::new(update),
            old_values: old_values.clone(),
            outlet: Arc::clone(&outlet),
        }
        .connect(&records);
        KTable::new(Rc::clone(&self.graph), node, outlet, Some(Arc::clone(&self.key)), Some(row), old_values)
    }

    fn repartitioned(&self, store: &str) -> Repartition<K, V> {
        if !self.repartition_required {
            return (self.node, Arc::clone(&self.outlet));
        }
        let mut shared = self.shared_repartition.borrow_mut();
        let mut graph = self.graph.borrow_mut();
        if let (Some(_), Some((node, outlet))) = (&self.name, &*shared) {
            // Kafka Streams counts the names of a repartition that it then does not make.
            for prefix in [prefix::SINK, prefix::FILTER, prefix::SOURCE] {
                graph.generate(prefix);
            }
            return (*node, Arc::clone(outlet));
        }
        let name = self.name.as_deref().unwrap_or(store);
        let codecs = (&self.key, &self.value);
        let (node, outlet) =
            repartition_stream(&mut graph, self.node, &self.outlet, name, RepartitionSpec::default(), codecs);
        *shared = Some((node, Arc::clone(&outlet)));
        (node, outlet)
    }
}
