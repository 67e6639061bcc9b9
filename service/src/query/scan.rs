//! A scan: one page of every partition's rows, wherever the partitions are, merged in key order. Each page is consistent per
//! partition (read at once); pages together are not one snapshot. The cursor is the last key and the positions that were
//! reflected.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::future::{try_join, try_join_all};
use holdfast_store::{Row, ScanPage, ScanRange};
use holdfast_stream::engine::ServedTable;

use super::{
    Cluster, Queries, QueryError, ReadOptions, ScanPart, ScanQuestion, Served, StoreInfo,
    cursor::{Cursor, fnv1a},
    elsewhere::{Groups, Search},
    read::store_error,
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
    /// One page of rows of all partitions, wherever they are. [`Routing`] makes no difference: nobody else has all of them.
    pub async fn scan(
        &self,
        store: &str,
        request: &ScanRequest,
        options: &ReadOptions,
    ) -> Result<ScanAnswer, QueryError> {
        let store = self.store(store)?;
        let limit = self.scan_limit(request)?;
        let scan = fingerprint(&store, request);
        let cursor = request.cursor.as_deref().map(|text| Cursor::decode(text, scan)).transpose()?;
        let range = range(request, cursor.as_ref())?;
        self.partition(&store, &[])?;

        let mut options = options.clone();
        if let Some(cursor) = &cursor {
            options.min_position.get_or_insert_default().merge(&cursor.min_position);
        }
        let bytes = self.inner.limits.max_scan_bytes;
        let max_bytes = request.max_bytes.map_or(bytes, |max| max.min(bytes));
        let question = ScanQuestion { partitions: (0..store.partitions).collect(), range, limit, max_bytes };
        let ScanPart { rows, more, mut served } = self.scan_anywhere(&store, &question, &options).await?;
        served.sort_by_key(|served| served.partition);
        let mut reflected = cursor.map(|cursor| cursor.min_position).unwrap_or_default();
        for served in &served {
            reflected.merge(&served.position);
        }
        let cursor = match rows.last() {
            Some((key, _)) if more => Some(Cursor { scan, last_key: key.to_vec(), min_position: reflected }.encode()),
            None if more => {
                return Err(QueryError::Internal("a page of a scan has no row, and more follow".to_owned()));
            }
            _ => None,
        };
        Ok(ScanAnswer { rows, cursor, served })
    }

    /// Rows of partitions of which copies are here; of all of them, or none.
    pub(crate) async fn scan_here(
        &self,
        store: &str,
        question: &ScanQuestion,
        options: &ReadOptions,
    ) -> Result<ScanPart, QueryError> {
        let cluster = self.inner.view.cluster();
        let store = self.find_store(&cluster, store)?;
        let limits = &self.inner.limits;
        let question = ScanQuestion {
            limit: question.limit.min(limits.max_scan_rows),
            max_bytes: question.max_bytes.min(limits.max_scan_bytes),
            ..question.clone()
        };
        let copies = question.partitions.iter().map(|partition| {
            let copy = self.here(&cluster, &store, *partition, options)?;
            Ok((*partition, copy))
        });
        let copies = copies.collect::<Result<Vec<_>, QueryError>>()?;
        self.read_copies(&cluster, &store, copies, &question, options).await.map_err(|(_, error)| error)
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

    /// The first rows of the question's partitions from whoever holds them. A scan with a partition left out would look
    /// complete and not be: all of them answer, or it fails.
    async fn scan_anywhere(
        &self,
        store: &Arc<StoreInfo>,
        question: &ScanQuestion,
        options: &ReadOptions,
    ) -> Result<ScanPart, QueryError> {
        let mut search = Search::new(self.timeout(options));
        // Partitions whose copy here did not answer: others are asked at once.
        let mut refused = BTreeMap::new();
        loop {
            match self.scan_round(store, question, &refused, options, &search).await {
                Ok(part) => return Ok(part),
                Err((_, error)) if !error.elsewhere_may_help() => return Err(error),
                Err((Some(partition), error)) if !refused.contains_key(&partition) => {
                    refused.insert(partition, error);
                }
                Err((_, error)) => {
                    search.again(self, error).await?;
                    refused.clear();
                }
            }
        }
    }

    /// Asks everybody once: the copies here, and the instances that hold the rest, side by side.
    async fn scan_round(
        &self,
        store: &Arc<StoreInfo>,
        question: &ScanQuestion,
        refused: &BTreeMap<i32, QueryError>,
        options: &ReadOptions,
        search: &Search,
    ) -> Result<ScanPart, HereOrElse> {
        let cluster = self.inner.view.cluster();
        let mut here = Vec::new();
        let mut elsewhere = Groups::new();
        for partition in &question.partitions {
            let error = match (refused.get(partition), self.here(&cluster, store, *partition, options)) {
                (None, Ok(copy)) => {
                    here.push((*partition, copy));
                    continue;
                }
                (Some(error), _) => error.clone(),
                (None, Err(error)) => error,
            };
            let peers = self.candidates(&cluster, store, *partition, options);
            if peers.is_empty() {
                return Err((None, self.owner_gone(&cluster, store, *partition).unwrap_or(error)));
            }
            elsewhere.add(peers, [*partition]);
        }
        if elsewhere.is_empty() {
            return self.read_copies(&cluster, store, here, question, options).await;
        }
        let shared = |partitions: Vec<i32>| question.share(partitions);
        let read = async {
            if here.is_empty() {
                return Ok(ScanPart::default());
            }
            let share = shared(here.iter().map(|(partition, _)| *partition).collect());
            self.read_copies(&cluster, store, here, &share, options).await
        };
        let cluster = &cluster;
        let asked = elsewhere.into_groups().map(|(peers, partitions)| async move {
            let question = shared(partitions);
            let call = |peer| self.scan_of(cluster, peer, store, &question, search.forwarded(options));
            self.ask(cluster, &peers, search, call).await.map_err(|error| (None, error))
        });
        let (read, asked) = try_join(read, try_join_all(asked)).await?;
        let mut served = read.served;
        let mut parts = vec![(VecDeque::from(read.rows), read.more)];
        for part in asked {
            served.extend(part.served);
            parts.push((VecDeque::from(part.rows), part.more));
        }
        let (rows, more) = merge(parts, question.limit, question.max_bytes, question.range.reverse);
        Ok(ScanPart { rows, more, served })
    }

    /// The first rows of copies that are here. An error names the partition whose copy may not answer.
    async fn read_copies(
        &self,
        cluster: &Cluster,
        store: &Arc<StoreInfo>,
        copies: Vec<(i32, Arc<ServedTable>)>,
        question: &ScanQuestion,
        options: &ReadOptions,
    ) -> Result<ScanPart, HereOrElse> {
        let admitted = copies.iter().map(|(partition, copy)| async move {
            self.admit(cluster, store, *partition, copy, options).await.map_err(|error| (Some(*partition), error))
        });
        let served = try_join_all(admitted).await?;
        let tables: Vec<Arc<ServedTable>> = copies.into_iter().map(|(_, copy)| copy).collect();
        let ScanQuestion { range, limit, max_bytes, .. } = question.clone();
        let read = move || read_page(&tables, &range, limit, max_bytes);
        let page = self.on_pool(self.timeout(options), read).await.map_err(|error| (None, error))?;
        let (rows, more) = page.map_err(|source| (None, store_error(store, source)))?;
        Ok(ScanPart { rows, more, served })
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

/// Why there is no page, and the partition whose copy here was the cause, if one was.
type HereOrElse = (Option<i32>, QueryError);

impl ScanQuestion {
    /// The question for some of its partitions only. Keys spread evenly: with few partitions, fewer rows are needed of them.
    fn share(&self, partitions: Vec<i32>) -> Self {
        let (all, some) = (self.partitions.len().max(1), partitions.len());
        let rows = (self.limit * 2 * some).div_ceil(all).saturating_add(SPARE_ROWS);
        let bytes = (self.max_bytes * 2 * some).div_ceil(all);
        Self {
            partitions,
            range: self.range.clone(),
            limit: self.limit.min(rows),
            max_bytes: self.max_bytes.min(bytes),
        }
    }
}

type Page = (Vec<(Bytes, Row)>, bool);

/// Reads every partition once and merges.
fn read_page(
    tables: &[Arc<ServedTable>],
    range: &ScanRange,
    limit: usize,
    max_bytes: usize,
) -> Result<Page, holdfast_store::StoreError> {
    // Keys spread evenly over partitions; with few of them, the whole limit of each costs little.
    let share = limit.min((limit * 2).div_ceil(tables.len().max(1)).saturating_add(SPARE_ROWS));
    let share_bytes = max_bytes.min((max_bytes * 2).div_ceil(tables.len().max(1)));
    let mut parts = Vec::with_capacity(tables.len());
    for copy in tables {
        let ScanPage { rows, more } = copy.table.scan(range, share, share_bytes)?;
        parts.push((VecDeque::from(rows), more));
    }
    Ok(merge(parts, limit, max_bytes, range.reverse))
}

/// Merges parts in key order. Stops where a part ends before its partitions do, because a smaller key might follow there.
fn merge(mut parts: Vec<(VecDeque<(Bytes, Row)>, bool)>, limit: usize, max_bytes: usize, reverse: bool) -> Page {
    let there = parts.iter().map(|(part, _)| part.len()).sum();
    let mut rows = Vec::with_capacity(limit.min(there));
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
                None if *more => return (rows, true),
                _ => {}
            }
        }
        let Some((index, _)) = best else { return (rows, false) };
        if rows.len() == limit || (bytes >= max_bytes && !rows.is_empty()) {
            return (rows, true);
        }
        if let Some((key, row)) = parts.get_mut(index).and_then(|(part, _)| part.pop_front()) {
            bytes += key.len() + row.value.len();
            rows.push((key, row));
        }
    }
}
