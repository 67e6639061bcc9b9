//! Metrics of the stores: every name, its unit and its help.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use holdfast_types::StoreName;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use rocksdb::statistics::Ticker;

use crate::{
    budget::MemoryBudget,
    rocks::DatabaseMetrics,
    task_store::{FlushReport, TaskStore},
};

/// Bytes of the whole budget.
pub const MEMORY_LIMIT_BYTES: &str = "holdfast_store_memory_limit_bytes";
/// Bytes of the budget that stores use.
pub const MEMORY_USED_BYTES: &str = "holdfast_store_memory_used_bytes";
/// Committed rows in memory that RocksDB does not have yet.
pub const MEMORY_TABLE_BYTES: &str = "holdfast_store_memory_table_bytes";
/// Rows of in-memory stores.
pub const IN_MEMORY_STORE_BYTES: &str = "holdfast_store_in_memory_store_bytes";
/// Stores open, one per task.
pub const OPEN_TASKS: &str = "holdfast_store_open_tasks";
/// Rows that commits and restores made visible.
pub const APPLIED_ROWS: &str = "holdfast_store_applied_rows_total";
/// Rows that flushes wrote to RocksDB.
pub const FLUSHED_ROWS: &str = "holdfast_store_flushed_rows_total";
/// Bytes that flushes wrote to RocksDB.
pub const FLUSHED_BYTES: &str = "holdfast_store_flushed_bytes_total";
/// Time of a flush.
pub const FLUSH_DURATION: &str = "holdfast_store_flush_duration_seconds";
/// Flushes that failed.
pub const FLUSH_FAILURES: &str = "holdfast_store_flush_failures_total";
/// Time that commits waited for memory.
pub const MEMORY_WAIT_DURATION: &str = "holdfast_store_memory_wait_duration_seconds";
/// The block cache, write buffers included.
pub const ROCKSDB_BLOCK_CACHE_BYTES: &str = "holdfast_store_rocksdb_block_cache_bytes";
/// What readers hold of the block cache.
pub const ROCKSDB_BLOCK_CACHE_PINNED_BYTES: &str = "holdfast_store_rocksdb_block_cache_pinned_bytes";
/// Blocks found in the cache.
pub const ROCKSDB_BLOCK_CACHE_HITS: &str = "holdfast_store_rocksdb_block_cache_hits_total";
/// Blocks read from files.
pub const ROCKSDB_BLOCK_CACHE_MISSES: &str = "holdfast_store_rocksdb_block_cache_misses_total";
/// The write buffers of all databases.
pub const ROCKSDB_WRITE_BUFFER_BYTES: &str = "holdfast_store_rocksdb_write_buffer_bytes";
/// Indexes and filters outside of the cache.
pub const ROCKSDB_TABLE_READER_BYTES: &str = "holdfast_store_rocksdb_table_reader_bytes";
/// Files on disk.
pub const ROCKSDB_FILE_BYTES: &str = "holdfast_store_rocksdb_file_bytes";
/// What compactions still have to rewrite.
pub const ROCKSDB_PENDING_COMPACTION_BYTES: &str = "holdfast_store_rocksdb_pending_compaction_bytes";
/// Compactions under way.
pub const ROCKSDB_RUNNING_COMPACTIONS: &str = "holdfast_store_rocksdb_running_compactions";
/// Write buffers on their way into files.
pub const ROCKSDB_RUNNING_FLUSHES: &str = "holdfast_store_rocksdb_running_flushes";
/// Databases whose writes are stopped.
pub const ROCKSDB_STOPPED_DATABASES: &str = "holdfast_store_rocksdb_write_stopped_databases";
/// Databases whose writes are slowed down.
pub const ROCKSDB_DELAYED_DATABASES: &str = "holdfast_store_rocksdb_write_delayed_databases";
/// Time that writes were stalled.
pub const ROCKSDB_STALL_SECONDS: &str = "holdfast_store_rocksdb_stall_seconds_total";
/// Errors of compactions and of write buffers on their way into files.
pub const ROCKSDB_BACKGROUND_ERRORS: &str = "holdfast_store_rocksdb_background_errors";
/// Rows per store, about; label `store`.
pub const APPROXIMATE_ROWS: &str = "holdfast_store_approximate_rows";

const BYTES: Option<Unit> = Some(Unit::Bytes);
const COUNT: Option<Unit> = Some(Unit::Count);
const SECONDS: Option<Unit> = Some(Unit::Seconds);

/// Gauges with unit and help.
const GAUGES: &[(&str, Option<Unit>, &str)] = &[
    (
        MEMORY_LIMIT_BYTES,
        BYTES,
        "The budget for state: block cache, write buffers, memory tables, dirty rows, fetch queues",
    ),
    (MEMORY_USED_BYTES, BYTES, "What stores use of the budget; dirty rows and fetch queues count elsewhere"),
    (MEMORY_TABLE_BYTES, BYTES, "Committed rows in memory that RocksDB does not have yet"),
    (IN_MEMORY_STORE_BYTES, BYTES, "Rows of in-memory stores"),
    (OPEN_TASKS, COUNT, "Tasks whose stores are open"),
    (APPROXIMATE_ROWS, COUNT, "Rows in a store, about, over all tasks of this instance"),
    (ROCKSDB_BLOCK_CACHE_BYTES, BYTES, "The shared block cache, write buffers included"),
    (ROCKSDB_BLOCK_CACHE_PINNED_BYTES, BYTES, "What readers hold of the block cache"),
    (ROCKSDB_WRITE_BUFFER_BYTES, BYTES, "Write buffers of all databases"),
    (ROCKSDB_TABLE_READER_BYTES, BYTES, "Indexes and filters outside of the block cache"),
    (ROCKSDB_FILE_BYTES, BYTES, "Files of all databases"),
    (ROCKSDB_PENDING_COMPACTION_BYTES, BYTES, "What compactions still have to rewrite"),
    (ROCKSDB_RUNNING_COMPACTIONS, COUNT, "Compactions under way"),
    (ROCKSDB_RUNNING_FLUSHES, COUNT, "Write buffers on their way into files"),
    (ROCKSDB_STOPPED_DATABASES, COUNT, "Databases whose writes are stopped"),
    (ROCKSDB_DELAYED_DATABASES, COUNT, "Databases whose writes are slowed down"),
    (ROCKSDB_BACKGROUND_ERRORS, COUNT, "Errors of compactions and background flushes in open databases"),
];

/// Counters with unit and help.
const COUNTERS: &[(&str, Option<Unit>, &str)] = &[
    (APPLIED_ROWS, COUNT, "Rows that commits and restores made visible"),
    (FLUSHED_ROWS, COUNT, "Rows that flushes wrote to RocksDB, merged over commits"),
    (FLUSHED_BYTES, BYTES, "Bytes that flushes wrote to RocksDB"),
    (FLUSH_FAILURES, COUNT, "Flushes that failed and are tried again"),
    (ROCKSDB_BLOCK_CACHE_HITS, COUNT, "Blocks found in the block cache"),
    (ROCKSDB_BLOCK_CACHE_MISSES, COUNT, "Blocks read from files"),
    (ROCKSDB_STALL_SECONDS, SECONDS, "Time that writes were stalled by compactions, in whole seconds"),
];

/// Histograms with unit and help.
const HISTOGRAMS: &[(&str, Option<Unit>, &str)] = &[
    (FLUSH_DURATION, SECONDS, "Time to sort and write one task's memory tables"),
    (
        MEMORY_WAIT_DURATION,
        SECONDS,
        "Time that a commit flushed before it went on, because memory tables had used up their share",
    ),
];

/// Registers units and help.
pub(crate) fn describe() {
    for &(name, unit, help) in GAUGES {
        match unit {
            Some(unit) => describe_gauge!(name, unit, help),
            None => describe_gauge!(name, help),
        }
    }
    for &(name, unit, help) in COUNTERS {
        match unit {
            Some(unit) => describe_counter!(name, unit, help),
            None => describe_counter!(name, help),
        }
    }
    for &(name, unit, help) in HISTOGRAMS {
        match unit {
            Some(unit) => describe_histogram!(name, unit, help),
            None => describe_histogram!(name, help),
        }
    }
}

pub(crate) fn applied(rows: usize) {
    counter!(APPLIED_ROWS).increment(rows as u64);
}

pub(crate) fn flushed(report: &FlushReport) {
    counter!(FLUSHED_ROWS).increment(report.rows as u64);
    counter!(FLUSHED_BYTES).increment(report.bytes as u64);
    histogram!(FLUSH_DURATION).record(report.duration.as_secs_f64());
}

pub(crate) fn flush_failed() {
    counter!(FLUSH_FAILURES).increment(1);
}

pub(crate) fn waited(duration: Duration) {
    histogram!(MEMORY_WAIT_DURATION).record(duration.as_secs_f64());
}

/// Sets all gauges, and the counters that RocksDB keeps, from what is open now.
pub(crate) fn record(budget: &MemoryBudget, tasks: &[Arc<TaskStore>]) {
    let usage = budget.usage();
    set(MEMORY_LIMIT_BYTES, usage.limit_bytes);
    set(MEMORY_USED_BYTES, usage.total_bytes());
    set(MEMORY_TABLE_BYTES, usage.memory_table_bytes);
    set(IN_MEMORY_STORE_BYTES, usage.in_memory_store_bytes);
    set(ROCKSDB_BLOCK_CACHE_BYTES, usage.block_cache_bytes);
    set(ROCKSDB_WRITE_BUFFER_BYTES, usage.write_buffer_bytes);
    if let Some(rocks) = budget.rocks_if_used() {
        set(ROCKSDB_BLOCK_CACHE_PINNED_BYTES, rocks.pinned_cache_bytes());
        counter!(ROCKSDB_BLOCK_CACHE_HITS).absolute(rocks.ticker(Ticker::BlockCacheHit));
        counter!(ROCKSDB_BLOCK_CACHE_MISSES).absolute(rocks.ticker(Ticker::BlockCacheMiss));
        counter!(ROCKSDB_STALL_SECONDS).absolute(rocks.ticker(Ticker::StallMicros) / 1_000_000);
    }
    let databases: Vec<DatabaseMetrics> = tasks.iter().filter_map(|task| task.database_metrics()).collect();
    let sum = |of: fn(&DatabaseMetrics) -> u64| databases.iter().map(of).sum::<u64>();
    set(OPEN_TASKS, databases.len() as u64);
    set(ROCKSDB_TABLE_READER_BYTES, sum(|database| database.table_reader_bytes));
    set(ROCKSDB_FILE_BYTES, sum(|database| database.file_bytes));
    set(ROCKSDB_PENDING_COMPACTION_BYTES, sum(|database| database.pending_compaction_bytes));
    set(ROCKSDB_RUNNING_COMPACTIONS, sum(|database| database.running_compactions));
    set(ROCKSDB_RUNNING_FLUSHES, sum(|database| database.running_flushes));
    set(ROCKSDB_STOPPED_DATABASES, sum(|database| database.write_stopped));
    set(ROCKSDB_DELAYED_DATABASES, sum(|database| u64::from(database.delayed_write_bytes_per_second > 0)));
    set(ROCKSDB_BACKGROUND_ERRORS, sum(|database| database.background_errors));
    budget.flusher().record_rows();
}

pub(crate) fn record_rows(rows_by_store: &BTreeMap<StoreName, u64>) {
    for (store, &rows) in rows_by_store {
        gauge!(APPROXIMATE_ROWS, "store" => store.to_string()).set(rows as f64);
    }
}

fn set(name: &'static str, value: u64) {
    gauge!(name).set(value as f64);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_say_their_units() {
        let mut names = BTreeSet::new();
        for (kind, metrics) in [("gauge", GAUGES), ("counter", COUNTERS), ("histogram", HISTOGRAMS)] {
            for (name, unit, help) in metrics {
                assert!(name.starts_with("holdfast_store_"), "{name}");
                assert!(names.insert(*name), "{name} is there twice");
                assert!(!help.is_empty(), "{name}");
                let stem = name.strip_suffix("_total").unwrap_or(name);
                assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
                match unit {
                    Some(Unit::Bytes) => assert!(stem.ends_with("_bytes"), "{name}"),
                    Some(Unit::Seconds) => assert!(stem.ends_with("_seconds"), "{name}"),
                    _ => assert!(!stem.ends_with("_bytes") && !stem.ends_with("_seconds"), "{name}"),
                }
            }
        }
    }
}
