//! One task's instance of a sub-topology: sources in, outputs and sealed rows out.

use std::sync::Arc;

use holdfast_store::Table;
use parking_lot::Mutex;

use super::{SealedRow, SourceNode, SourceRecord, TaskContext, TaskTable};
use crate::{
    errors::ProcessingError,
    topology::{GraphError, NodeId, StoreId, Subtopology, Topology},
};

/// The graph of one task. Owned by one thread at a time; dropping it at any moment, a panic in a closure included, loses
/// nothing but what was not sealed.
pub struct TaskGraph {
    /// Per source topic: the sources that read it (several streams of one topic may read it as different types).
    sources: Vec<Vec<Box<dyn SourceNode>>>,
    /// In topological order: whoever is fed by a table comes after it.
    tables: Vec<BuiltTable>,
}

struct BuiltTable {
    /// Index into the sub-topology's stores.
    store: usize,
    table: Arc<Mutex<dyn TaskTable>>,
}

impl TaskGraph {
    /// Builds the graph of one task of sub-topology `subtopology`, with its tables in the order of
    /// [`Subtopology::stores`].
    pub fn build(topology: &Topology, subtopology: u32, tables: &[Arc<Table>]) -> Result<Self, GraphError> {
        let index = subtopology as usize;
        let part = topology.subtopologies().get(index).ok_or(GraphError::UnknownSubtopology(subtopology))?;
        if part.stores.len() != tables.len() {
            return Err(GraphError::WrongTables { expected: part.stores.len(), got: tables.len() });
        }
        // Merges find their instance for this task through the topology, so one task is built at a time.
        let mut building = topology.building();
        *building += 1;
        let mut builder = GraphBuilder { id: *building, topology, subtopology: part, tables, built: Vec::new() };
        let sources = part
            .source_nodes
            .iter()
            .map(|factories| factories.iter().map(|factory| factory(&mut builder)).collect())
            .collect();
        // Children are finished before their parents, so the reverse order is topological.
        let mut tables = builder.built;
        tables.reverse();
        Ok(Self { sources, tables })
    }

    /// Reads one record of source `source` (index into [`Subtopology::sources`]) and runs what follows from it.
    ///
    /// On an error, `context.mutated` says whether a table had been changed before; outputs of the failed record are taken
    /// back when none had.
    pub fn process(
        &mut self,
        source: usize,
        record: &SourceRecord<'_>,
        context: &mut TaskContext,
    ) -> Result<(), ProcessingError> {
        context.begin_record(record);
        let outputs = context.outputs.len();
        for node in self.sources.get_mut(source).into_iter().flatten() {
            if let Err(error) = node.process(record, context) {
                if !context.mutated {
                    context.outputs.truncate(outputs);
                }
                return Err(error);
            }
        }
        context.mutated |= context.outputs.len() > outputs;
        Ok(())
    }

    /// Forwards changed rows, table after table, until nothing is unsent.
    pub fn flush(&mut self, context: &mut TaskContext) -> Result<(), ProcessingError> {
        for built in &self.tables {
            built.table.lock().flush(context)?;
        }
        Ok(())
    }

    /// Encodes the rows that changed since the last seal: one per changed key, added to `rows[index]` by the store's index
    /// in [`Subtopology::stores`]. Rows stay cached. After an error the graph must be dropped.
    pub fn seal(&mut self, rows: &mut Vec<Vec<SealedRow>>) -> Result<(), ProcessingError> {
        if rows.len() < self.tables.len() {
            rows.resize_with(self.tables.len(), Vec::new);
        }
        for built in &self.tables {
            if let Some(rows) = rows.get_mut(built.store) {
                built.table.lock().seal(rows)?;
            }
        }
        Ok(())
    }

    /// The oldest seal that was not committed yet is now visible in the tables: its rows may be evicted.
    pub fn committed(&mut self) {
        for built in &self.tables {
            built.table.lock().committed();
        }
    }

    /// Rows that changed since the last seal.
    pub fn dirty_rows(&self) -> usize {
        self.tables.iter().map(|built| built.table.lock().dirty_len()).sum()
    }

    /// Estimated size of the rows that changed since the last seal.
    pub fn dirty_bytes(&self) -> usize {
        self.tables.iter().map(|built| built.table.lock().dirty_bytes()).sum()
    }

    /// Estimated size of all rows in memory.
    pub fn cached_bytes(&self) -> usize {
        self.tables.iter().map(|built| built.table.lock().cached_bytes()).sum()
    }

    /// Drops rows that the store has, those not used lately first, until about `target_bytes` are left in all.
    pub fn evict(&mut self, target_bytes: usize) {
        let all = self.cached_bytes();
        if all <= target_bytes {
            return;
        }
        for built in &self.tables {
            let mut table = built.table.lock();
            // Each table gives in proportion to its size.
            let share = (target_bytes as u128 * table.cached_bytes() as u128) / all as u128;
            table.evict(share as usize);
        }
    }
}

impl std::fmt::Debug for TaskGraph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskGraph").field("sources", &self.sources.len()).field("tables", &self.tables.len()).finish()
    }
}

/// What the factories of nodes need while one task's graph is built.
pub(crate) struct GraphBuilder<'a> {
    id: u64,
    topology: &'a Topology,
    subtopology: &'a Subtopology,
    tables: &'a [Arc<Table>],
    built: Vec<BuiltTable>,
}

impl GraphBuilder<'_> {
    /// The number of this build: what a node remembers of another build is another task's.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The name of `node`.
    pub(crate) fn name(&self, node: NodeId) -> Arc<str> {
        self.topology.node_name(node)
    }

    /// Whether the topology was built with `node` in it (a stream may be used after the build).
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.topology.knows(node)
    }

    /// The index of sink `node` in the sub-topology.
    pub(crate) fn sink(&self, node: NodeId) -> usize {
        // A known node is in its sub-topology's list; a wrong index would only leave an output without a topic.
        self.subtopology.sink_nodes.iter().position(|&sink| sink == node).unwrap_or(usize::MAX)
    }

    /// The name and the table of `store`, if it is materialized.
    pub(crate) fn store(&self, store: StoreId) -> Option<(Arc<str>, Arc<Table>)> {
        let index = self.local(store)?;
        Some((self.topology.store_name(store)?, Arc::clone(self.tables.get(index)?)))
    }

    /// Notes a finished table.
    pub(crate) fn built(&mut self, store: StoreId, table: Arc<Mutex<dyn TaskTable>>) {
        if let Some(store) = self.local(store) {
            self.built.push(BuiltTable { store, table });
        }
    }

    fn local(&self, store: StoreId) -> Option<usize> {
        let store = self.topology.store_index(store)?;
        self.subtopology.stores.iter().position(|&held| held == store)
    }
}
