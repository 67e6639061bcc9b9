//! Tables that are kept: the store in the graph, and the node that owns it.

use std::sync::{Arc, atomic::AtomicBool};

use holdfast_store::StoreKind;

use super::{options::Materialized, table::OldValues};
use crate::{
    codec::{Change, SharedCodec, key_format, value_format},
    processor::{Children, GraphBuilder, Processor, SourceUpdate, TableNode, TableUpdate, UnmaterializedSource},
    topology::{Graph, GraphStore, NodeId, Outlet, StoreId},
};

/// How a store is kept, codecs apart.
pub(super) struct StoreSettings {
    pub(super) name: Option<String>,
    pub(super) kind: StoreKind,
    pub(super) changelog: bool,
}

/// A store that is going to be added: its name is counted before the names of the nodes around it.
pub(super) struct NewStore<R> {
    pub(super) name: String,
    queryable: bool,
    kind: StoreKind,
    changelog: bool,
    pub(super) value: SharedCodec<R>,
}

impl<R: 'static> NewStore<R> {
    pub(super) fn named(
        graph: &mut Graph,
        materialized: Materialized<R>,
        carried: Option<&SharedCodec<R>>,
        prefix: &str,
    ) -> Self {
        let value = materialized.value.resolve(carried);
        let queryable = materialized.name.is_some();
        let name = materialized.name.unwrap_or_else(|| graph.generate_store(prefix));
        Self { name, queryable, kind: materialized.kind, changelog: materialized.changelog, value }
    }

    pub(super) fn add<K: 'static>(&self, graph: &mut Graph, key: &SharedCodec<K>) -> StoreId {
        graph.add_store(GraphStore {
            name: self.name.as_str().into(),
            kind: self.kind,
            changelog: self.changelog,
            key: key_format(key),
            value: value_format(&self.value),
            queryable: self.queryable,
            materialized: Arc::new(AtomicBool::new(true)),
        })
    }
}

/// What a table's node is made of.
pub(super) struct TableParts<K, V, R, U> {
    pub(super) node: NodeId,
    pub(super) store: StoreId,
    pub(super) key: SharedCodec<K>,
    pub(super) row: SharedCodec<R>,
    /// The codec of what comes in, if known: it tells nulls.
    pub(super) input: Option<SharedCodec<V>>,
    pub(super) update: Arc<U>,
    pub(super) old_values: OldValues,
    pub(super) outlet: Arc<Outlet<K, Change<R>>>,
}

impl<K, V, R, U> TableParts<K, V, R, U>
where
    K: Send + 'static,
    V: 'static,
    R: Clone + Send + 'static,
    U: TableUpdate<K, V, R> + 'static,
{
    /// Hangs the table below `records`.
    pub(super) fn connect(self, records: &Outlet<K, V>) {
        let node = self.node;
        records.connect(node, move |builder| {
            let children = self.outlet.build(builder);
            match self.build(builder, children) {
                Ok(table) => Box::new(table),
                // A store that is not kept takes nothing; only a table's own source is like that, and handles it itself.
                Err(_) => Box::new(Children::new(Vec::new())),
            }
        });
    }

    /// One task's node, or the children back when the store is not kept.
    #[expect(clippy::type_complexity, reason = "the node's own type, named nowhere else")]
    fn build(
        &self,
        builder: &mut GraphBuilder<'_>,
        children: Children<K, Change<R>>,
    ) -> Result<TableNode<K, V, R, U>, Children<K, Change<R>>> {
        let Some((store, table)) = builder.store(self.store) else { return Err(children) };
        Ok(TableNode::new(
            builder.number_table(self.store),
            builder.name(self.node),
            store,
            Arc::clone(&self.key),
            Arc::clone(&self.row),
            self.input.as_ref(),
            table,
            Arc::clone(&self.update),
            self.old_values.are_sent(),
            children,
        ))
    }
}

/// Hangs a table below its topic's source: kept if it has to be, passed on otherwise.
pub(super) fn table_source_node<K, V>(
    records: &Outlet<K, Option<V>>,
    node: NodeId,
    store: StoreId,
    key: &SharedCodec<K>,
    value: &SharedCodec<V>,
    old_values: OldValues,
    outlet: &Arc<Outlet<K, Change<V>>>,
) where
    K: Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    let parts = TableParts {
        node,
        store,
        key: Arc::clone(key),
        row: Arc::clone(value),
        input: None,
        update: Arc::new(SourceUpdate),
        old_values,
        outlet: Arc::clone(outlet),
    };
    records.connect(node, move |builder| -> Box<dyn Processor<K, Option<V>>> {
        let children = parts.outlet.build(builder);
        match parts.build(builder, children) {
            Ok(table) => Box::new(table),
            Err(children) => Box::new(UnmaterializedSource { children }),
        }
    });
}
