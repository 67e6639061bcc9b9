//! The stores of one task: rows and checkpoint move together, through memory into one RocksDB.

mod flush;
mod open;
mod reopen;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use holdfast_types::{Clock, TaskId};
use parking_lot::{Mutex, RwLock};

use crate::{
    budget::MemoryBudget,
    checkpoint::Checkpoint,
    directory::TaskDirectory,
    error::StoreError,
    metrics,
    rocks::{Database, DatabaseMetrics},
    spec::{AppliedBatch, TaskStoreSpec},
    table::Table,
};

pub use flush::FlushReport;
pub use open::{OpenError, Opened};

/// One task's stores: one directory, one RocksDB, one table per store, and the checkpoint that travels with the rows.
///
/// [`TaskStore::apply`] makes a commit visible in memory; a background thread moves rows and checkpoint into RocksDB,
/// merged over many commits. Dropping it without [`TaskStore::close`] is what a crash does: rows in memory are lost, and
/// the checkpoint found by the next open is that of the rows that are there.
#[derive(Debug)]
pub struct TaskStore {
    spec: TaskStoreSpec,
    tables: Vec<Arc<Table>>,
    /// As of everything applied; moved after the rows are visible.
    checkpoint: RwLock<Checkpoint>,
    /// Held by whoever changes rows, and by a flush while it moves them aside.
    writing: Mutex<Writing>,
    /// Held by a flush from begin to end.
    flushing: Mutex<Flushing>,
    /// Whether `flushing` holds a checkpoint whose rows wait to be written.
    unwritten: AtomicBool,
    /// Error of a background flush that does not pass, for the next `apply`.
    failure: Mutex<Option<StoreError>>,
    disk: RwLock<Option<Disk>>,
    opened: Opened,
    budget: Arc<MemoryBudget>,
    clock: Arc<dyn Clock>,
}

/// What a closed or temporary store does not have.
#[derive(Debug)]
struct Disk {
    // Before the directory, whose lock tells that the database is closed. Absent while it is opened anew.
    database: Option<Arc<Database>>,
    directory: TaskDirectory,
}

#[derive(Debug, Default)]
struct Writing {
    /// When the oldest change that RocksDB does not have was applied.
    unflushed_since: Option<Instant>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Flushing {
    /// The checkpoint of frozen rows whose write failed.
    unwritten: Option<Checkpoint>,
    /// Why it failed.
    refused: Option<StoreError>,
}

impl TaskStore {
    /// The task.
    pub fn task(&self) -> TaskId {
        self.spec.task
    }

    /// What the stores are.
    pub fn spec(&self) -> &TaskStoreSpec {
        &self.spec
    }

    /// How the directory was found.
    pub fn opened(&self) -> Opened {
        self.opened
    }

    /// The table of the store at this index of [`TaskStoreSpec::stores`].
    ///
    /// # Panics
    /// When there is no such store, as indexing does; [`TaskStore::tables`] never does.
    pub fn table(&self, store: usize) -> &Arc<Table> {
        &self.tables[store]
    }

    /// All tables, in the order of [`TaskStoreSpec::stores`].
    pub fn tables(&self) -> &[Arc<Table>] {
        &self.tables
    }

    /// The checkpoint as of everything applied, memory included. Read it *before* rows, and they are at least as new.
    pub fn checkpoint(&self) -> Checkpoint {
        self.checkpoint.read().clone()
    }

    /// Looks at the checkpoint without copying it; keep it short, a commit waits.
    pub fn with_checkpoint<T>(&self, look: impl FnOnce(&Checkpoint) -> T) -> T {
        look(&self.checkpoint.read())
    }

    /// One commit, or one restored batch: rows become visible to readers, then the checkpoint moves.
    ///
    /// Fails without applying anything with what a flush in the background ran into since the last call, unless that passes
    /// (see [`TaskStore::check_room`]): the rows before are still in memory and readable, and the batch may be applied again.
    /// While memory tables are over their share of the budget, the largest of the process is flushed first, on this thread.
    pub fn apply(&self, batch: AppliedBatch) -> Result<(), StoreError> {
        if batch.rows.len() > self.tables.len() {
            let (expected, got) = (self.tables.len(), batch.rows.len());
            return Err(StoreError::TooManyStores { task: self.spec.task, expected, got });
        }
        if let Some(error) = self.failure.lock().take() {
            return Err(error);
        }
        if let Err(error) = self.budget.flusher().make_room()
            && !error.is_passing()
        {
            return Err(error);
        }
        let mut writing = self.writing.lock();
        if writing.closed {
            return Err(StoreError::Closed { task: self.spec.task });
        }
        let mut rows = 0;
        for (table, changes) in self.tables.iter().zip(&batch.rows) {
            if !changes.is_empty() {
                table.apply(changes);
                rows += changes.len();
            }
        }
        self.checkpoint.write().apply(batch.checkpoint);
        writing.unflushed_since.get_or_insert_with(|| self.clock.monotonic());
        drop(writing);
        metrics::applied(rows);
        self.budget.flusher().applied(self);
        Ok(())
    }

    /// Whether there is room for a further batch. An error that [passes](StoreError::is_passing) says that the disk takes no
    /// rows (it is full, say) and memory tables have used up their share: ask again before the next batch. `apply` itself
    /// takes a batch all the same, because what is committed has to become visible; who begins a commit asks first.
    pub fn check_room(&self) -> Result<(), StoreError> {
        self.budget.flusher().make_room()
    }

    /// Bytes that all stores of the task take in memory.
    pub fn memory_bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.memory_bytes()).sum()
    }

    /// Flushes, syncs the write-ahead log, marks the directory as closed in order, and closes the database. Reads and
    /// writes are refused from then on; reads that are under way are waited for. The stores are closed even when the flush
    /// fails: rows that were only in memory come back from the changelog. Closing again does nothing.
    pub fn close(self: Arc<Self>) -> Result<(), StoreError> {
        let mut flushing = self.flushing.lock();
        self.writing.lock().closed = true;
        let outcome = self.flush_and_sync(&mut flushing);
        self.release();
        outcome
    }

    /// Whether it was closed; others may hold handles to it yet.
    pub fn is_closed(&self) -> bool {
        self.writing.lock().closed
    }

    /// Closes the database at once and forgets the rows in memory: what dropping the last handle does, for a caller that
    /// cannot know whether it holds the last one.
    pub fn abandon(&self) {
        // A flush under way ends first; it only writes what is committed.
        let _flushing = self.flushing.lock();
        self.writing.lock().closed = true;
        self.release();
    }

    /// Deletes all rows and the checkpoint, to restore from zero.
    pub fn clear(&self) -> Result<(), StoreError> {
        let mut flushing = self.flushing.lock();
        let mut writing = self.writing.lock();
        if writing.closed {
            return Err(StoreError::Closed { task: self.spec.task });
        }
        if let Some(disk) = &mut *self.disk.write() {
            if let Some(database) = &disk.database {
                database.clear(self.persistent().map(|table| table.family()))?;
            }
            let renewed = disk.directory.renew_topic_ids(&self.spec);
            renewed.map_err(|error| disk.directory.store_error(error))?;
        }
        for table in &self.tables {
            table.forget();
        }
        *self.checkpoint.write() = Checkpoint::default();
        *flushing = Flushing::default();
        self.unwritten.store(false, Relaxed);
        writing.unflushed_since = None;
        Ok(())
    }

    /// What RocksDB says of this task's database; `None` when there is none.
    pub(crate) fn database_metrics(&self) -> Option<DatabaseMetrics> {
        let disk = self.disk.read();
        let database = disk.as_ref()?.database.as_ref()?;
        Some(database.metrics(self.persistent().map(|table| table.family())))
    }

    /// When the oldest change that RocksDB does not have was applied, and the time now, by the store's clock.
    pub(crate) fn unflushed_for(&self) -> Option<std::time::Duration> {
        let since = self.writing.lock().unflushed_since?;
        Some(self.clock.monotonic().saturating_duration_since(since))
    }

    fn persistent(&self) -> impl Iterator<Item = &Arc<Table>> + Clone {
        self.tables.iter().filter(|table| table.kind() == crate::spec::StoreKind::Persistent)
    }

    /// Lets go of rows, database and directory.
    fn release(&self) {
        for table in &self.tables {
            table.close();
        }
        *self.disk.write() = None;
    }
}

impl Drop for TaskStore {
    fn drop(&mut self) {
        self.release();
    }
}
