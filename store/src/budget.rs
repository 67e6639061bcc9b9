//! The memory of a process's state as one budget: who gets which share, who uses how much, and the thread that flushes.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{flusher::Flusher, metrics, rocks::SharedOptions, task_store::TaskStore};

/// Shares of the limit, in percent: block cache and write buffers of all RocksDBs together.
const ROCKSDB_PERCENT: u64 = 36;
/// Committed rows in memory tables, and the batch that carries them into RocksDB.
const MEMORY_TABLES_PERCENT: u64 = 20;
/// Rows, outputs and seals of commits that are not acknowledged yet.
const DIRTY_PERCENT: u64 = 10;
/// Records fetched and not processed yet.
const FETCH_PERCENT: u64 = 8;
// The rest is for what nobody can count: the allocator's slack, compactions, connections and their requests.

/// A crash replays about as many seconds of changelog as rows may wait for RocksDB: long enough that commits of every 100
/// ms merge, short enough that the replay (faster than the input) is a matter of seconds.
pub const DEFAULT_MAX_REPLAY: Duration = Duration::from_secs(10);

/// The one memory budget of a process; every [`TaskStore`] of the process is opened with it.
///
/// It owns the block cache and the write-buffer manager that all RocksDBs share, counts what memory tables take, says how much
/// is left for dirty rows and fetched records (whoever holds those counts them), and runs the thread that flushes memory tables
/// (started with the first store, stopped and joined on drop).
#[derive(Debug)]
pub struct MemoryBudget {
    limits: Limits,
    account: Arc<MemoryAccount>,
    rocks: OnceLock<SharedOptions>,
    flusher: Flusher,
}

/// The split of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// All of it.
    pub(crate) total: u64,
    /// Block cache, which the write buffers are charged to.
    pub(crate) rocksdb: u64,
    /// Memory tables of persistent stores; in-memory stores take from it.
    pub(crate) memory_tables: u64,
    pub(crate) dirty: u64,
    pub(crate) fetch: u64,
}

impl Limits {
    fn of(total: u64) -> Self {
        let share = |percent| total / 100 * percent;
        Self {
            total,
            rocksdb: share(ROCKSDB_PERCENT),
            memory_tables: share(MEMORY_TABLES_PERCENT),
            dirty: share(DIRTY_PERCENT),
            fetch: share(FETCH_PERCENT),
        }
    }

    /// Write buffers: a third of RocksDB's share.
    pub(crate) fn write_buffers(&self) -> u64 {
        self.rocksdb / 3
    }
}

/// What is in use, in bytes; counted by the memory tables.
#[derive(Debug, Default)]
pub(crate) struct MemoryAccount {
    /// Memory tables that a flush empties.
    pub(crate) memory_tables: AtomicI64,
    /// Stores that live in memory only.
    pub(crate) in_memory_stores: AtomicI64,
}

/// What the parts of a budget that live in this crate use, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// The whole budget.
    pub limit_bytes: u64,
    /// RocksDB's block cache, with the write buffers that are charged to it.
    pub block_cache_bytes: u64,
    /// RocksDB's write buffers.
    pub write_buffer_bytes: u64,
    /// Committed rows in memory that RocksDB does not have yet.
    pub memory_table_bytes: u64,
    /// Rows of in-memory stores.
    pub in_memory_store_bytes: u64,
}

impl MemoryUsage {
    /// What is in use in this crate altogether; write buffers are part of the block cache.
    pub fn total_bytes(&self) -> u64 {
        self.block_cache_bytes + self.memory_table_bytes + self.in_memory_store_bytes
    }
}

impl MemoryBudget {
    /// A budget of `limit_bytes` for all state of the process: 36 % for RocksDB (a third of that for write buffers), 20 % for
    /// memory tables, 10 % for dirty rows, 8 % for fetch queues; the rest is slack.
    pub fn new(limit_bytes: u64) -> Arc<Self> {
        Self::with_max_replay(limit_bytes, DEFAULT_MAX_REPLAY)
    }

    /// The same with a bound of one's own on how long a committed row may wait for RocksDB.
    pub fn with_max_replay(limit_bytes: u64, max_replay: Duration) -> Arc<Self> {
        metrics::describe();
        let limits = Limits::of(limit_bytes);
        let account = Arc::new(MemoryAccount::default());
        let flusher = Flusher::new(limits, Arc::clone(&account), max_replay);
        Arc::new(Self { limits, account, rocks: OnceLock::new(), flusher })
    }

    /// Share of memory tables, in bytes. In-memory stores take from it; flushes keep the rest below it.
    pub fn memory_table_limit_bytes(&self) -> u64 {
        self.limits.memory_tables
    }

    /// Share of dirty rows, in bytes: input pauses above it.
    pub fn dirty_limit_bytes(&self) -> u64 {
        self.limits.dirty
    }

    /// Share of fetch queues, in bytes, for all consumers of the process together.
    pub fn fetch_limit_bytes(&self) -> u64 {
        self.limits.fetch
    }

    /// What is in use now.
    pub fn usage(&self) -> MemoryUsage {
        let counted = |counter: &AtomicI64| counter.load(Relaxed).max(0).unsigned_abs();
        let (block_cache_bytes, write_buffer_bytes) = self.rocks.get().map_or((0, 0), SharedOptions::usage);
        MemoryUsage {
            limit_bytes: self.limits.total,
            block_cache_bytes,
            write_buffer_bytes,
            memory_table_bytes: counted(&self.account.memory_tables),
            in_memory_store_bytes: counted(&self.account.in_memory_stores),
        }
    }

    /// Sets the gauges of this budget, of the shared RocksDB parts and of all open stores; called when metrics are scraped.
    pub fn record_metrics(&self) {
        metrics::record(self, &self.flusher.tasks());
    }

    pub(crate) fn account(&self) -> &Arc<MemoryAccount> {
        &self.account
    }

    pub(crate) fn flusher(&self) -> &Flusher {
        &self.flusher
    }

    /// Options that every RocksDB of the process is opened with; made for the first one.
    pub(crate) fn rocks(&self) -> &SharedOptions {
        self.rocks.get_or_init(|| SharedOptions::new(&self.limits))
    }

    pub(crate) fn rocks_if_used(&self) -> Option<&SharedOptions> {
        self.rocks.get()
    }

    pub(crate) fn register(&self, store: &Arc<TaskStore>) {
        self.flusher.register(store);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_is_left_for_what_nobody_counts() {
        let limits = Limits::of(1000);
        let given = limits.rocksdb + limits.memory_tables + limits.dirty + limits.fetch;
        assert!((700..=760).contains(&given), "{given}");
        assert_eq!(limits.write_buffers(), 120);
    }
}
