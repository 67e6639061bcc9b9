//! A scan: one page of every partition's rows, merged in key order. Each page is consistent per partition (read at once);
//! pages together are not one snapshot. The cursor is the last key and the positions that were reflected.

use std::{collections::VecDeque, ops::Bound, sync::Arc, time::Duration};

use bytes::Bytes;
use holdfast_store::{Row, ScanPage, ScanRange};
use holdfast_stream::engine::ServedTable;

use super::{
    Cluster, Queries, QueryError, ReadOptions, Served, StoreInfo,
    cursor::{Cursor, fnv1a},
    read::{Target, store_error},
};

/// Rows that one partition reads beyond its even share, so that a page is seldom cut short.
const SPARE_ROWS: usize = 64;

/// What to scan. Bounds are inclusive key bytes, `from` ≤ `to` in either direction; a prefix goes without them.
#[derive(Clone, Debug, Default)]
pub struct ScanRequest {
    /// The smallest key.
    pub from: Option<Vec<u8>>,
    /// The largest key.
    pub to: Option<Vec<u8>>,
    /// Only keys that begin so.
    pub prefix: Option<Vec<u8>>,
    /// From the largest key down.
    pub reverse: bool,
    /// Most rows of this page; `None` takes [`QueryLimits::default_scan_rows`](super::QueryLimits).
    pub limit: Option<usize>,
    /// Most bytes of keys and values of this page, below the bound of the service.
    pub max_bytes: Option<usize>,
    /// A former page's cursor.
    pub cursor: Option<String>,
}

/// A page of a scan.
#[derive(Clone, Debug)]
pub struct ScanAnswer {
    /// Rows in key order. There may be fewer than the limit; only a missing cursor means the end.
    pub rows: Vec<(Bytes, Row)>,
    /// Resumes after the last row; `None` at the end.
    pub cursor: Option<String>,
    /// What was read, per partition.
    pub served: Vec<Served>,
}

impl Queries {
    /// One page of rows of all partitions.
    pub async fn scan(
        &self,
        store: &str,
        request: &ScanRequest,
        options: &ReadOptions,
    ) -> Result<ScanAnswer, QueryError> {
        let cluster = self.inner.view.cluster();
        let store = self.find_store(&cluster, store)?;
        let limit = self.scan_limit(request)?;
        let scan = fingerprint(&store, request);
        let cursor = request.cursor.as_deref().map(|text| Cursor::decode(text, scan)).transpose()?;
        let range = range(request, cursor.as_ref())?;
        self.partition(&store, &[])?;

        let mut options = options.clone();
        if let Some(cursor) = &cursor {
            options.min_position.get_or_insert_default().merge(&cursor.min_position);
        }
        let copies = self.scan_copies(&cluster, &store, &options).await?;
        let mut reflected = cursor.map(|cursor| cursor.min_position).unwrap_or_default();
        for (_, served) in &copies {
            reflected.merge(&served.position);
        }
        let (tables, served): (Vec<Arc<ServedTable>>, Vec<Served>) = copies.into_iter().unzip();
        let bytes = self.inner.limits.max_scan_bytes;
        let bytes = request.max_bytes.map_or(bytes, |max| max.min(bytes));
        let reverse = request.reverse;
        let (rows, more) = self
            .on_pool(self.timeout(&options), move || read_page(&tables, &range, limit, bytes, reverse))
            .await?
            .map_err(|source| store_error(&store, source))?;
        let cursor = match rows.last() {
            Some((key, _)) if more => Some(Cursor { scan, last_key: key.to_vec(), min_position: reflected }.encode()),
            None if more => {
                return Err(QueryError::Internal("a page of a scan has no row, and more follow".to_owned()));
            }
            _ => None,
        };
        Ok(ScanAnswer { rows, cursor, served })
    }

    fn scan_limit(&self, request: &ScanRequest) -> Result<usize, QueryError> {
        let limits = &self.inner.limits;
        let limit = request.limit.unwrap_or(limits.default_scan_rows.min(limits.max_scan_rows));
        if limit == 0 || limit > limits.max_scan_rows {
            let expected = format!("1 to {}", limits.max_scan_rows);
            return Err(QueryError::parameter("limit", &expected, &limit.to_string()));
        }
        Ok(limit)
    }

    /// A copy of every partition that may answer: a scan with a partition left out would look complete and not be.
    async fn scan_copies(
        &self,
        cluster: &Cluster,
        store: &Arc<StoreInfo>,
        options: &ReadOptions,
    ) -> Result<Vec<(Arc<ServedTable>, Served)>, QueryError> {
        let partitions = (0..store.partitions).map(|partition| async move {
            match self.target(cluster, store, partition, options)? {
                Target::Local(copy) => {
                    let served = self.admit(cluster, store, partition, &copy, options).await?;
                    Ok((copy, served))
                }
                Target::Remote(owner) => Err(QueryError::OwnerUnreachable {
                    store: store.name.clone(),
                    partition,
                    owner: owner.endpoint.clone(),
                    problem: "scans over several instances are not served by this version".to_owned(),
                }),
            }
        });
        futures::future::try_join_all(partitions).await
    }

    /// Runs a read that may take long on the blocking pool; the number of such reads is bounded.
    pub(super) async fn on_pool<T: Send + 'static>(
        &self,
        timeout: Duration,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, QueryError> {
        let limit = self.inner.limits.max_concurrent_scans;
        let run = async {
            let permit = Arc::clone(&self.inner.readers).acquire_owned().await;
            let permit = permit.map_err(|_| QueryError::NotReady("the instance is shutting down".to_owned()))?;
            // The permit goes with the read: one that outlives its request still counts.
            let done = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                read()
            });
            done.await.map_err(|error| QueryError::Internal(format!("a read did not end: {error}")))
        };
        match tokio::time::timeout(timeout, run).await {
            Ok(done) => done,
            Err(_) if self.inner.readers.available_permits() == 0 => {
                Err(QueryError::Busy { what: "scans and large batches", limit })
            }
            Err(_) => Err(QueryError::Deadline { timeout }),
        }
    }
}

/// Tells scans apart: a cursor goes on only with what it began with.
fn fingerprint(store: &StoreInfo, request: &ScanRequest) -> u64 {
    fn bound(key: &Option<Vec<u8>>) -> (&[u8], &[u8]) {
        match key {
            Some(key) => (&[1], key),
            None => (&[0], &[]),
        }
    }
    let (has_from, from) = bound(&request.from);
    let (has_to, to) = bound(&request.to);
    let (has_prefix, prefix) = bound(&request.prefix);
    let direction = [u8::from(request.reverse)];
    fnv1a(&[store.name.as_bytes(), has_from, from, has_to, to, has_prefix, prefix, &direction])
}

/// The range of keys that is left to read.
fn range(request: &ScanRequest, cursor: Option<&Cursor>) -> Result<ScanRange, QueryError> {
    let range = match &request.prefix {
        Some(_) if request.from.is_some() || request.to.is_some() => {
            return Err(QueryError::parameter("prefix", "none together with from or to", "both"));
        }
        Some(prefix) => ScanRange::prefix(prefix),
        None => ScanRange {
            from: request.from.clone().map_or(Bound::Unbounded, Bound::Included),
            to: request.to.clone().map_or(Bound::Unbounded, Bound::Included),
            reverse: false,
        },
    };
    if let (Some(smallest), Some(largest)) = (&request.from, &request.to)
        && smallest > largest
    {
        return Err(QueryError::parameter("from", "a key not after to (also when reverse)", "one after it"));
    }
    let range = if request.reverse { range.reversed() } else { range };
    Ok(match cursor {
        Some(cursor) => range.after(&cursor.last_key),
        None => range,
    })
}

type Page = (Vec<(Bytes, Row)>, bool);

/// Reads every partition once and merges. Stops where a partition's part ends before the partition does, because a smaller
/// key might follow there.
fn read_page(
    tables: &[Arc<ServedTable>],
    range: &ScanRange,
    limit: usize,
    max_bytes: usize,
    reverse: bool,
) -> Result<Page, holdfast_store::StoreError> {
    // Keys spread evenly over partitions; with few of them, the whole limit of each costs little.
    let share = limit.min((limit * 2).div_ceil(tables.len().max(1)).saturating_add(SPARE_ROWS));
    let share_bytes = max_bytes.min((max_bytes * 2).div_ceil(tables.len().max(1)));
    let mut parts = Vec::with_capacity(tables.len());
    for copy in tables {
        let ScanPage { rows, more } = copy.table.scan(range, share, share_bytes)?;
        parts.push((VecDeque::from(rows), more));
    }
    let mut rows = Vec::with_capacity(limit.min(share * tables.len()));
    let mut bytes = 0;
    loop {
        // A handful of partitions: looking at each head is faster than a heap.
        let mut best: Option<(usize, &Bytes)> = None;
        for (index, (part, more)) in parts.iter().enumerate() {
            match part.front() {
                Some((key, _)) if best.is_none_or(|(_, first)| if reverse { key > first } else { key < first }) => {
                    best = Some((index, key));
                }
                // What follows there is not known: the page ends here.
                None if *more => return Ok((rows, true)),
                _ => {}
            }
        }
        let Some((index, _)) = best else { return Ok((rows, false)) };
        if rows.len() == limit || (bytes >= max_bytes && !rows.is_empty()) {
            return Ok((rows, true));
        }
        if let Some((key, row)) = parts.get_mut(index).and_then(|(part, _)| part.pop_front()) {
            bytes += key.len() + row.value.len();
            rows.push((key, row));
        }
    }
}
