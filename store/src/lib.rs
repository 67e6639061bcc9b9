//! Tables over RocksDB or in memory: keys, batches, scans, positions, directories, the memory budget.
