//! Several keys of one store: grouped by partition, and by the instances that hold them; read together, owners asked side by
//! side; answered in the order asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use futures::future::{join, join_all};
use holdfast_stream::engine::ServedTable;

use super::{
    Answer, Cluster, Queries, QueryError, ReadOptions, Routing, RowRead, Served, StoreInfo,
    elsewhere::{Group, Groups, Search},
    read::{not_mine, store_error},
};

/// Batches up to this size are read where they stand; larger ones on the blocking pool.
const INLINE_KEYS: usize = 32;

/// The outcome for one key of a batch.
pub type Outcome = Result<Answer<RowRead>, QueryError>;

/// A key of a batch that has no outcome yet.
#[derive(Clone, Debug)]
struct Wanted {
    /// Where its outcome goes.
    index: usize,
    partition: i32,
    key: Bytes,
    /// It was asked for here, the last time.
    here: bool,
}

type Outcomes = Vec<(Wanted, Outcome)>;

impl Queries {
    /// The rows of `keys`, one outcome each, in the order asked. A key that cannot be parsed comes in as its error, so that
    /// it fails alone.
    pub async fn batch_get(
        &self,
        store: &str,
        keys: Vec<Result<Bytes, QueryError>>,
        options: &ReadOptions,
    ) -> Result<Vec<Outcome>, QueryError> {
        let limit = self.inner.limits.max_batch_keys;
        if keys.len() > limit {
            return Err(QueryError::TooLarge {
                what: "a batch",
                limit: limit as u64,
                unit: "keys",
                got: keys.len().to_string(),
            });
        }
        let store = self.store(store)?;
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(keys.len());
        let mut wanted = Vec::with_capacity(keys.len());
        for (index, key) in keys.into_iter().enumerate() {
            let checked = key.and_then(|key| {
                self.check_key(&key)?;
                Ok((self.partition(&store, &key)?, key))
            });
            outcomes.push(match checked {
                Ok((partition, key)) => {
                    wanted.push(Wanted { index, partition, key, here: false });
                    None
                }
                Err(error) => Some(Err(error)),
            });
        }
        let mut search = Search::new(self.timeout(options));
        // Partitions whose copy here did not answer: others are asked at once.
        let mut refused = BTreeSet::new();
        while !wanted.is_empty() {
            let round = self.batch_round(&store, std::mem::take(&mut wanted), &refused, options, &search).await;
            let mut passing = None;
            for (key, outcome) in round {
                let Some(slot) = outcomes.get_mut(key.index) else { continue };
                let outcome = match (slot.take(), outcome) {
                    (Some(Err(earlier)), Err(error)) => Err(earlier.or_rather(error)),
                    (_, outcome) => outcome,
                };
                if let Err(error) = &outcome
                    && options.routing == Routing::Proxy
                    && error.elsewhere_may_help()
                {
                    if !key.here {
                        passing = Some(error.clone());
                    }
                    refused.insert(key.partition);
                    wanted.push(key);
                }
                *slot = Some(outcome);
            }
            if let Some(error) = passing {
                if search.again(self, error).await.is_err() {
                    break;
                }
                refused.clear();
            }
        }
        let missing = || Err(QueryError::Internal("a key of the batch was left without an outcome".to_owned()));
        Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect())
    }

    /// Asks for each key once: the copies here, and the instances that hold the rest.
    async fn batch_round(
        &self,
        store: &Arc<StoreInfo>,
        wanted: Vec<Wanted>,
        refused: &BTreeSet<i32>,
        options: &ReadOptions,
        search: &Search,
    ) -> Outcomes {
        let cluster = self.inner.view.cluster();
        let mut by_partition: BTreeMap<i32, Vec<Wanted>> = BTreeMap::new();
        for key in wanted {
            by_partition.entry(key.partition).or_default().push(key);
        }
        let mut here = Vec::new();
        let mut outcomes = Vec::new();
        let mut elsewhere = Groups::new();
        for (partition, mut keys) in by_partition {
            let error = match self.here(&cluster, store, partition, options) {
                Ok(copy) if !refused.contains(&partition) => {
                    keys.iter_mut().for_each(|key| key.here = true);
                    here.push((partition, copy, keys));
                    continue;
                }
                Ok(_) => not_mine(&cluster, store, partition),
                Err(error) => error,
            };
            keys.iter_mut().for_each(|key| key.here = false);
            let error = match options.routing {
                Routing::Local => error,
                Routing::Redirect => self.redirect(&cluster, store, partition, options, error),
                Routing::Proxy => {
                    let peers = self.candidates(&cluster, store, partition, options);
                    if !peers.is_empty() {
                        elsewhere.add(peers, keys);
                        continue;
                    }
                    self.owner_gone(&cluster, store, partition).unwrap_or(error)
                }
            };
            outcomes.extend(keys.into_iter().map(|key| (key, Err(error.clone()))));
        }
        // All together: their waits (a strong read, a position, the way to a peer) must not add up.
        let here = here.into_iter().map(|(partition, copy, keys)| {
            let cluster = &cluster;
            async move { self.batch_here(cluster, store, partition, copy, keys, options).await }
        });
        let elsewhere =
            elsewhere.into_groups().map(|group| self.batch_elsewhere(&cluster, store, group, options, search));
        let (here, elsewhere) = join(join_all(here), join_all(elsewhere)).await;
        outcomes.extend(here.into_iter().chain(elsewhere).flatten());
        outcomes
    }

    /// Keys of a partition that is here.
    async fn batch_here(
        &self,
        cluster: &Cluster,
        store: &Arc<StoreInfo>,
        partition: i32,
        copy: Arc<ServedTable>,
        wanted: Vec<Wanted>,
        options: &ReadOptions,
    ) -> Outcomes {
        let served = match self.admit(cluster, store, partition, &copy, options).await {
            Ok(served) => served,
            Err(error) => return wanted.into_iter().map(|key| (key, Err(error.clone()))).collect(),
        };
        let keys: Vec<Bytes> = wanted.iter().map(|wanted| wanted.key.clone()).collect();
        let count = keys.len();
        let read = move || {
            let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            copy.table.get_many(&keys)
        };
        let rows = if count <= INLINE_KEYS {
            read().map_err(|source| store_error(store, source))
        } else {
            self.on_pool(self.timeout(options), read)
                .await
                .and_then(|rows| rows.map_err(|source| store_error(store, source)))
        };
        wanted.into_iter().zip(spread(rows, count, &served)).collect()
    }

    /// Keys that the same instances hold, in one question.
    async fn batch_elsewhere(
        &self,
        cluster: &Cluster,
        store: &Arc<StoreInfo>,
        (peers, wanted): Group<Wanted>,
        options: &ReadOptions,
        search: &Search,
    ) -> Outcomes {
        let keys: Vec<Bytes> = wanted.iter().map(|wanted| wanted.key.clone()).collect();
        let count = keys.len();
        let call = |peer| self.batch_of(cluster, peer, store, keys.clone(), search.forwarded(options));
        let outcomes = match self.ask(cluster, &peers, search, call).await {
            Ok(outcomes) if outcomes.len() == count => outcomes,
            Ok(outcomes) => {
                let error = QueryError::Internal(format!("{} outcomes for {count} keys", outcomes.len()));
                vec![Err(error); count]
            }
            Err(error) => vec![Err(error); count],
        };
        wanted.into_iter().zip(outcomes).collect()
    }
}

/// Outcomes of which none is of use are one refusal: another replica is asked for all of them.
pub(crate) fn together(outcomes: Vec<Outcome>) -> Result<Vec<Outcome>, QueryError> {
    let refusal = |outcome: &Outcome| outcome.as_ref().err().filter(|error| error.elsewhere_may_help()).cloned();
    match outcomes.iter().map(refusal).collect::<Option<Vec<_>>>().and_then(|refusals| refusals.into_iter().next()) {
        Some(refusal) => Err(refusal),
        None => Ok(outcomes),
    }
}

/// One outcome per key from one read of all.
fn spread(rows: Result<Vec<RowRead>, QueryError>, count: usize, served: &Served) -> Vec<Outcome> {
    match rows {
        Ok(rows) => rows.into_iter().map(|value| Ok(Answer { value, served: served.clone() })).collect(),
        Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
    }
}
