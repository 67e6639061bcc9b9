//! Options of every RocksDB in the process: one block cache, one write-buffer manager, settings for point look-ups.

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, LogLevel, Options, WriteBufferManager,
    statistics::{StatsLevel, Ticker},
};

use rustix::process::{Resource, getrlimit};

use crate::budget::Limits;

const MIB: u64 = 1 << 20;

/// Base options; cloned for each database, so that cache, write-buffer manager and statistics are shared.
pub(crate) struct SharedOptions {
    database: Options,
    family: Options,
    cache: Cache,
    write_buffers: WriteBufferManager,
}

impl std::fmt::Debug for SharedOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedOptions").finish_non_exhaustive()
    }
}

impl SharedOptions {
    pub(crate) fn new(limits: &Limits) -> Self {
        let cache = Cache::new_hyper_clock_cache(to_usize(limits.rocksdb), 0);
        // A stall would stop every task of the process, whichever of them wrote too much: the flusher relieves instead.
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            to_usize(limits.write_buffers()),
            false,
            cache.clone(),
        );
        let mut database = verifying_logs();
        database.create_if_missing(true);
        database.create_missing_column_families(true);
        database.set_write_buffer_manager(&write_buffers);
        database.set_max_background_jobs(background_jobs());
        database.set_max_open_files(open_files());
        // The checkpoint's family is written with every flush but hardly fills a buffer: without a bound its old log files
        // would stay, and be replayed at the next start.
        database.set_max_total_wal_size(32 * MIB);
        database.set_bytes_per_sync(MIB);
        database.set_wal_bytes_per_sync(MIB);
        // An iterator that a request drops must not delete files on the request's time.
        database.set_avoid_unnecessary_blocking_io(true);
        database.set_log_level(LogLevel::Warn);
        database.set_keep_log_file_num(2);
        database.set_max_log_file_size(to_usize(MIB));
        database.set_stats_dump_period_sec(0);
        database.set_stats_persist_period_sec(0);
        database.enable_statistics();
        database.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);

        Self { database, family: family(limits, &cache), cache, write_buffers }
    }

    /// Options of a database.
    pub(crate) fn database(&self) -> Options {
        self.database.clone()
    }

    /// Options of a column family, `default` included: one that is opened without them has a cache of its own.
    pub(crate) fn family(&self) -> Options {
        self.family.clone()
    }

    /// Bytes in the block cache and in the write buffers.
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.cache.get_usage() as u64, self.write_buffers.get_usage() as u64)
    }

    /// Bytes of the block cache that readers hold.
    pub(crate) fn pinned_cache_bytes(&self) -> u64 {
        self.cache.get_pinned_usage() as u64
    }

    /// Whether the write buffers of all databases together are nearly full: only the one that writes would flush.
    pub(crate) fn write_buffers_crowded(&self) -> bool {
        self.write_buffers.get_usage() / 4 * 5 > self.write_buffers.get_buffer_size()
    }

    pub(crate) fn ticker(&self, ticker: Ticker) -> u64 {
        self.database.get_ticker_count(ticker)
    }
}

fn family(limits: &Limits, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_format_version(6);
    // Small blocks: a point look-up reads and searches little. A hash index in each costs more than the search it saves.
    table.set_block_size(4 * 1024);
    table.set_block_restart_interval(8);
    // Bloom where files are made often (flushes), Ribbon below: 30 % less memory for the bulk of the keys.
    table.set_hybrid_ribbon_filter(10.0, 1);
    table.set_whole_key_filtering(true);
    table.set_optimize_filters_for_memory(true);
    // Index and filters count into the budget, and stay when data blocks go.
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut family = Options::default();
    family.set_block_based_table_factory(&table);
    family.set_compression_type(DBCompressionType::Lz4);
    // A flush fills about one: its rows go into a file soon, where a look-up is cheaper than in a large write buffer, and
    // little of the log is replayed at the next start.
    family.set_write_buffer_size(to_usize((limits.write_buffers() / 2).clamp(MIB, 16 * MIB)));
    family.set_max_write_buffer_number(3);
    family.set_memtable_whole_key_filtering(true);
    family.set_memtable_prefix_bloom_ratio(0.02);
    family.set_level_compaction_dynamic_level_bytes(true);
    family.set_target_file_size_base(32 * MIB);
    family.set_max_bytes_for_level_base(128 * MIB);
    family
}

/// Flushes and compactions at a time in the whole process; the threads are RocksDB's, shared by all databases.
fn background_jobs() -> i32 {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    i32::try_from(cores).unwrap_or(8).clamp(2, 8)
}

/// Options under which a database whose logs have a hole is not opened: a log that lost its end, by a torn file or with the
/// machine, before one that did not. Rows behind the hole would come back with a checkpoint that is newer than other rows.
fn verifying_logs() -> Options {
    // The crate has no setter for it.
    Options::default().get_options_from_string("track_and_verify_wals=true").unwrap_or_else(|error| {
        tracing::error!(%error, "this build's RocksDB does not check its logs for holes");
        Options::default()
    })
}

/// Files of rows that each database keeps open. An instance may have dozens of databases, and connections need descriptors,
/// too; a file that is not open is opened when it is read.
fn open_files() -> i32 {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    i32::try_from(descriptors / 16).unwrap_or(i32::MAX).clamp(32, 512)
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
