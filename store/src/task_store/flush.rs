//! The way of rows from memory into RocksDB: moved aside, written sorted with their checkpoint, forgotten.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{Disk, Flushing, TaskStore};
use crate::{
    checkpoint::Checkpoint,
    error::StoreError,
    metrics,
    rocks::{Database, SharedOptions},
    spec::StoreKind,
};

/// What a flush did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Rows written, deletions included.
    pub rows: usize,
    /// Size of the batch, in bytes.
    pub bytes: usize,
    /// How long it took.
    pub duration: Duration,
}

impl TaskStore {
    /// Moves everything applied so far from memory into RocksDB, sorted, with its checkpoint in the same batch. Readers
    /// never wait for it, and `apply` only while rows are moved aside. Without a database it does nothing.
    pub fn flush(&self) -> Result<FlushReport, StoreError> {
        let mut flushing = self.flushing.lock();
        self.flush_locked(&mut flushing)
    }

    /// A flush whose error waits for the next `apply`, if it is one that does not pass.
    pub(crate) fn flush_in_background(&self) -> Result<(), StoreError> {
        let outcome = self.flush().map(|_| ());
        // An earlier failure may be over before anybody had to hear of it.
        *self.failure.lock() = outcome.as_ref().err().filter(|error| !error.is_passing()).cloned();
        outcome
    }

    /// Whether a flush has failed and its rows wait to be written.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.unwritten.load(Relaxed)
    }

    /// The last flush of a store that closes.
    pub(super) fn flush_and_sync(&self, flushing: &mut Flushing) -> Result<(), StoreError> {
        self.flush_locked(flushing)?;
        let disk = self.disk.read();
        let Some(Disk { database: Some(database), directory }) = &*disk else { return Ok(()) };
        database.sync()?;
        let marked = directory.mark_closed(self.clock.now_ms());
        marked.map_err(|error| directory.store_error(error))
    }

    /// Bytes that a flush would free.
    pub(crate) fn unflushed_bytes(&self) -> u64 {
        self.persistent().map(|table| table.memory_bytes()).sum()
    }

    /// Whether the write buffers of all databases of the process are nearly full.
    pub(crate) fn write_buffers_crowded(&self) -> bool {
        self.budget.rocks_if_used().is_some_and(SharedOptions::write_buffers_crowded)
    }

    /// Starts to write this task's write buffers to files, when they are the ones that crowd the others.
    pub(crate) fn relieve_write_buffers(&self) {
        let Some(database) = self.database() else { return };
        if let Err(error) = database.relieve_write_buffers(self.persistent().map(|table| table.family())) {
            // The next flush runs into the same, and tells it.
            tracing::debug!(task = %self.spec.task, %error, "write buffers could not be written out");
        }
    }

    /// Bytes of this task's write buffers.
    pub(crate) fn write_buffer_bytes(&self) -> u64 {
        let bytes =
            |database: Arc<Database>| database.write_buffer_bytes(self.persistent().map(|table| table.family()));
        self.database().map_or(0, bytes)
    }

    fn flush_locked(&self, flushing: &mut Flushing) -> Result<FlushReport, StoreError> {
        if let Some(error) = &flushing.refused {
            self.reopen_if_stopped(error)?;
        }
        let Some(database) = self.database() else { return Ok(FlushReport::default()) };
        let started = Instant::now();
        let mut report = FlushReport::default();
        // What an earlier flush could not write goes first: it is older.
        if let Some(checkpoint) = flushing.unwritten.take() {
            self.write_frozen(&database, checkpoint, flushing, &mut report)?;
        }
        if let Some(checkpoint) = self.freeze() {
            self.write_frozen(&database, checkpoint, flushing, &mut report)?;
        }
        report.duration = started.elapsed();
        if report.bytes > 0 {
            metrics::flushed(&report);
        }
        Ok(report)
    }

    /// Moves all rows aside and answers their checkpoint; `None` when nothing was applied since the last time.
    fn freeze(&self) -> Option<Checkpoint> {
        let mut writing = self.writing.lock();
        writing.unflushed_since.take()?;
        for table in self.persistent() {
            table.freeze();
        }
        Some(self.durable_checkpoint())
    }

    fn write_frozen(
        &self,
        database: &Database,
        checkpoint: Checkpoint,
        flushing: &mut Flushing,
        report: &mut FlushReport,
    ) -> Result<(), StoreError> {
        let frozen: Vec<_> = self.persistent().filter_map(|table| Some((table.family(), table.frozen()?))).collect();
        match database.write(frozen.iter().map(|(family, frozen)| (*family, &**frozen)), &checkpoint) {
            Ok(bytes) => {
                report.bytes += bytes;
                report.rows += frozen.iter().map(|(_, frozen)| frozen.table().len()).sum::<usize>();
                for table in self.persistent() {
                    table.thaw();
                }
                flushing.refused = None;
                self.unwritten.store(false, Relaxed);
                Ok(())
            }
            Err(error) => {
                // The rows stay where they are, readable, until a flush gets through.
                flushing.unwritten = Some(checkpoint);
                flushing.refused = Some(error.clone());
                self.unwritten.store(true, Relaxed);
                self.writing.lock().unflushed_since.get_or_insert_with(|| self.clock.monotonic());
                metrics::flush_failed();
                Err(error)
            }
        }
    }

    /// The checkpoint without changelogs whose rows are in memory only: after a restart they are restored whole.
    fn durable_checkpoint(&self) -> Checkpoint {
        let mut checkpoint = self.checkpoint();
        let in_memory = self.spec.stores.iter().filter(|store| store.kind == StoreKind::InMemory);
        let volatile: BTreeSet<_> =
            in_memory.filter_map(|store| store.changelog.as_ref().map(|changelog| &changelog.partition)).collect();
        checkpoint.changelog.retain(|partition, _| !volatile.contains(partition));
        checkpoint
    }

    fn database(&self) -> Option<Arc<Database>> {
        self.disk.read().as_ref()?.database.clone()
    }
}
