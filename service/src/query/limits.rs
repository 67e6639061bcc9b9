//! Bounds on what one query may ask, each with its own error.

use std::time::Duration;

use super::{Routing, options::DEFAULT_MAX_STALENESS};

/// Bounds of queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryLimits {
    /// Bytes of an encoded key.
    pub max_key_bytes: usize,
    /// Keys of a batch.
    pub max_batch_keys: usize,
    /// Rows of one page of a scan.
    pub max_scan_rows: usize,
    /// Bytes of keys and values of one page of a scan; one row is always let through.
    pub max_scan_bytes: usize,
    /// Rows of a page when the request names no limit.
    pub default_scan_rows: usize,
    /// Scans and large batches that may read at once.
    pub max_concurrent_scans: usize,
    /// Staleness that a bounded read allows when it names none.
    pub default_max_staleness: Duration,
    /// What happens to a key of another instance when the request does not say.
    pub default_routing: Routing,
    /// Time limit of a request that names none.
    pub default_timeout: Duration,
    /// Longest time limit that a request may name.
    pub max_timeout: Duration,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            max_key_bytes: 16 * 1024,
            max_batch_keys: 1000,
            max_scan_rows: 1000,
            max_scan_bytes: 4 * 1024 * 1024,
            default_scan_rows: 100,
            max_concurrent_scans: 16,
            default_max_staleness: DEFAULT_MAX_STALENESS,
            default_routing: Routing::Proxy,
            default_timeout: Duration::from_secs(10),
            max_timeout: Duration::from_secs(60),
        }
    }
}
