//! One task's instance of a sub-topology: sources in, outputs and sealed rows out.

use std::{convert::Infallible, sync::Arc, time::Instant};

use holdfast_store::Table;

use super::{SealedRow, SourceNode, SourceRecord, TableSizes, TaskContext, TaskTable};
use crate::{
    codec::CodecId,
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
    /// Its number in this graph.
    number: usize,
    /// Its index into the sub-topology's stores.
    store: usize,
    sizes: Arc<TableSizes>,
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
        let (built, passed_on) = (Vec::new(), Vec::new());
        let mut builder = GraphBuilder { id: *building, topology, subtopology: part, tables, built, passed_on };
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
                context.record_failed();
                return Err(error);
            }
        }
        context.mutated |= context.outputs.len() > outputs;
        Ok(())
    }

    /// Forwards changed rows, table after table, until nothing is unsent, or until about a given time; whether nothing is.
    pub fn flush(&mut self, context: &mut TaskContext, until: Option<Instant>) -> Result<bool, ProcessingError> {
        let mut all = true;
        self.each_table(|_, table| {
            // What a table forwards may reach one further down: that one waits for its turn.
            all = all && table.flush(context, until)?;
            Ok::<_, ProcessingError>(())
        })?;
        Ok(all)
    }

    /// Encodes the rows that changed since the last seal: one per changed key, added to `rows[index]` by the store's index
    /// in [`Subtopology::stores`]. Rows stay cached. After an error the graph must be dropped.
    pub fn seal(&mut self, rows: &mut Vec<Vec<SealedRow>>) -> Result<(), ProcessingError> {
        if rows.len() < self.tables.len() {
            rows.resize_with(self.tables.len(), Vec::new);
        }
        self.each_table(|built, table| rows.get_mut(built.store).map_or(Ok(()), |rows| table.seal(rows)))
    }

    /// The oldest seal that was not committed yet is now visible in the tables: its rows may be evicted.
    pub fn committed(&mut self) {
        let Ok(()) = self.each_table(|_, table| {
            table.committed();
            Ok::<_, Infallible>(())
        });
    }

    /// Rows that changed since the last seal.
    pub fn dirty_rows(&self) -> usize {
        self.tables.iter().map(|table| table.sizes.dirty_rows()).sum()
    }

    /// Estimated size of the rows that changed since the last seal.
    pub fn dirty_bytes(&self) -> usize {
        self.tables.iter().map(|table| table.sizes.dirty_bytes()).sum()
    }

    /// Estimated size of all rows in memory.
    pub fn cached_bytes(&self) -> usize {
        self.tables.iter().map(|table| table.sizes.cached_bytes()).sum()
    }

    /// Drops rows that the store has, those not used lately first, until about `target_bytes` are left in all.
    pub fn evict(&mut self, target_bytes: usize) {
        let all = self.cached_bytes();
        if all <= target_bytes {
            return;
        }
        // The error type has no values.
        let Ok(()) = self.each_table(|built, table| {
            // Each table gives in proportion to its size.
            let share = (target_bytes as u128 * built.sizes.cached_bytes() as u128) / all as u128;
            table.evict(share as usize);
            Ok::<_, Infallible>(())
        });
    }

    /// Calls with each table in topological order, until one fails.
    fn each_table<E>(
        &mut self,
        mut call: impl FnMut(&BuiltTable, &mut dyn TaskTable) -> Result<(), E>,
    ) -> Result<(), E> {
        for built in &self.tables {
            let mut result = Ok(());
            let mut found = |table: &mut dyn TaskTable| result = call(built, table);
            self.sources.iter_mut().flatten().any(|source| source.with_table(built.number, &mut found));
            result?;
        }
        Ok(())
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
    passed_on: Vec<CodecId>,
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

    /// Values that were read with this codec are passed on as they were read; called before the source is built.
    pub(crate) fn pass_on(&mut self, codec: CodecId) {
        self.passed_on.push(codec);
    }

    /// `codec`, if values that were read with it are passed on.
    pub(crate) fn passed_on(&self, codec: CodecId) -> Option<CodecId> {
        self.passed_on.contains(&codec).then_some(codec)
    }

    /// The name and the table of `store`, if it is materialized.
    pub(crate) fn store(&self, store: StoreId) -> Option<(Arc<str>, Arc<Table>)> {
        let index = self.local(store)?;
        Some((self.topology.store_name(store)?, Arc::clone(self.tables.get(index)?)))
    }

    /// Gives a table its number, and the place for its sizes; called when what is below it is built.
    pub(crate) fn number_table(&mut self, store: StoreId) -> (usize, Arc<TableSizes>) {
        let (number, sizes) = (self.built.len(), Arc::<TableSizes>::default());
        // A store of another sub-topology has no index here; the DSL makes no such node.
        let store = self.local(store).unwrap_or(usize::MAX);
        self.built.push(BuiltTable { number, store, sizes: Arc::clone(&sizes) });
        (number, sizes)
    }

    fn local(&self, store: StoreId) -> Option<usize> {
        let store = self.topology.store_index(store)?;
        self.subtopology.stores.iter().position(|&held| held == store)
    }
}
