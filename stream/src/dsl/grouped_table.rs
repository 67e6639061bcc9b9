//! A table grouped anew: count, reduce, aggregate with an adder and a subtractor.

use std::{convert::Infallible, marker::PhantomData, rc::Rc, sync::Arc};

use super::{
    KTable,
    builder::SharedGraph,
    options::Materialized,
    repartition::{SharedRepartition, repartition_table},
    table::OldValues,
    table_store::{NewStore, TableParts},
};
use crate::{
    codec::{Change, SharedCodec},
    errors::{BoxError, Outcome},
    processor::{TableAggregateUpdate, TableReduceUpdate, TableUpdate},
    topology::{NodeId, NodeKind, Outlet, prefix},
};

/// A table whose rows were given other keys. When a row changes, its old value is subtracted from the group that it was in
/// and its new one added to the group that it is in; both travel through a repartition topic.
pub struct KGroupedTable<K, V> {
    pub(super) graph: SharedGraph,
    pub(super) node: NodeId,
    pub(super) outlet: Arc<Outlet<K, Change<V>>>,
    pub(super) key: SharedCodec<K>,
    pub(super) value: SharedCodec<V>,
    pub(super) name: Option<String>,
    pub(super) shared_repartition: SharedRepartition<K, Change<V>>,
}

impl<K, V> KGroupedTable<K, V>
where
    K: Send + 'static,
    V: Send + 'static,
{
    /// Counts the rows of each group.
    pub fn count(&self, materialized: Materialized<i64>) -> KTable<K, i64> {
        self.aggregate(
            || 0,
            |count: &mut i64, _: &K, _: &V| *count += 1,
            |count: &mut i64, _: &K, _: &V| *count -= 1,
            materialized,
        )
    }

    /// Combines the values of each group: `add(&aggregate, &new)` and `subtract(&aggregate, &old)`.
    pub fn reduce<A, S>(&self, add: A, subtract: S, materialized: Materialized<V>) -> KTable<K, V>
    where
        V: Clone,
        A: Fn(&V, &V) -> V + Send + Sync + 'static,
        S: Fn(&V, &V) -> V + Send + Sync + 'static,
    {
        self.try_reduce(
            move |aggregate, value| Ok::<_, Infallible>(add(aggregate, value)),
            move |aggregate, value| Ok::<_, Infallible>(subtract(aggregate, value)),
            materialized,
        )
    }

    /// [`KGroupedTable::reduce`] with closures that may refuse a change.
    pub fn try_reduce<A, S, EA, ES>(&self, add: A, subtract: S, materialized: Materialized<V>) -> KTable<K, V>
    where
        V: Clone,
        A: Fn(&V, &V) -> Result<V, EA> + Send + Sync + 'static,
        S: Fn(&V, &V) -> Result<V, ES> + Send + Sync + 'static,
        EA: Into<BoxError>,
        ES: Into<BoxError>,
    {
        let update = TableReduceUpdate {
            add: move |aggregate: &V, value: &V| add(aggregate, value).map_err(Into::into),
            subtract: move |aggregate: &V, value: &V| subtract(aggregate, value).map_err(Into::into),
        };
        self.keep(prefix::TABLE_REDUCE, update, materialized, Some(&self.value))
    }

    /// Starts each group with `initial`; `add` and `subtract` change it (`(&mut aggregate, &key, &value)`, returning nothing
    /// or a `Result`; on an error they must leave the aggregate as it was).
    pub fn aggregate<R, I, A, S, OA, OS>(
        &self,
        initial: I,
        add: A,
        subtract: S,
        materialized: Materialized<R>,
    ) -> KTable<K, R>
    where
        R: Clone + Send + 'static,
        I: Fn() -> R + Send + Sync + 'static,
        A: Fn(&mut R, &K, &V) -> OA + Send + Sync + 'static,
        S: Fn(&mut R, &K, &V) -> OS + Send + Sync + 'static,
        OA: Outcome,
        OS: Outcome,
    {
        let update = TableAggregateUpdate {
            initial,
            add: move |aggregate: &mut R, key: &K, value: &V| add(aggregate, key, value).into_result(),
            subtract: move |aggregate: &mut R, key: &K, value: &V| subtract(aggregate, key, value).into_result(),
            value: PhantomData,
        };
        self.keep(prefix::TABLE_AGGREGATE, update, materialized, None)
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
        U: TableUpdate<K, Change<V>, R> + 'static,
    {
        let mut graph = self.graph.borrow_mut();
        // In Kafka Streams' order: the store's name (always as an aggregate's), the sink's, the source's, the node's.
        let new_store = NewStore::named(&mut graph, materialized, carried, prefix::TABLE_AGGREGATE);
        let sink = graph.generate(prefix::SINK);
        let source = graph.generate(prefix::SOURCE);
        let name = graph.generate(prefix);

        let mut shared = self.shared_repartition.borrow_mut();
        let (parent, changes) = match (&self.name, &*shared) {
            (Some(_), Some((node, outlet))) => (*node, Arc::clone(outlet)),
            (given, _) => {
                let topic = given.as_deref().unwrap_or(&new_store.name);
                let codecs = (&self.key, &self.value);
                let (node, outlet) =
                    repartition_table(&mut graph, self.node, &self.outlet, topic, codecs, (&sink, &source));
                *shared = Some((node, Arc::clone(&outlet)));
                (node, outlet)
            }
        };

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
            input: None,
            update: Arc::new(update),
            old_values: old_values.clone(),
            outlet: Arc::clone(&outlet),
        }
        .connect(&changes);
        KTable::new(Rc::clone(&self.graph), node, outlet, Some(Arc::clone(&self.key)), Some(row), old_values)
    }
}
