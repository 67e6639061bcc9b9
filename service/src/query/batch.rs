//! Several keys of one store: grouped by partition, read together, answered in the order asked.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Answer, Cluster, Queries, QueryError, ReadOptions, RowRead, Served, StoreInfo,
    read::{Target, store_error},
};

/// Batches up to this size are read where they stand; larger ones on the blocking pool.
const INLINE_KEYS: usize = 32;

/// The outcome for one key of a batch.
pub type Outcome = Result<Answer<RowRead>, QueryError>;

impl Queries {
    /// The rows of `keys`, one outcome each, in the order asked. A key that cannot be parsed comes in as its error, so that
    /// it fails alone.
    pub async fn batch_get(
        &self,
        store: &str,
        keys: Vec<Result<Vec<u8>, QueryError>>,
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
        let cluster = self.inner.view.cluster();
        let store = self.find_store(&cluster, store)?;
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(keys.len());
        let mut by_partition: BTreeMap<i32, Vec<(usize, Vec<u8>)>> = BTreeMap::new();
        for (index, key) in keys.into_iter().enumerate() {
            let checked = key.and_then(|key| {
                self.check_key(&key)?;
                Ok((self.partition(&store, &key)?, key))
            });
            match checked {
                Ok((partition, key)) => {
                    by_partition.entry(partition).or_default().push((index, key));
                    outcomes.push(None);
                }
                Err(error) => outcomes.push(Some(Err(error))),
            }
        }
        // Partitions together: their waits (a strong read, a position) must not add up.
        let parts = by_partition.into_iter().map(|(partition, keys)| {
            let (indices, keys): (Vec<usize>, Vec<Vec<u8>>) = keys.into_iter().unzip();
            let (cluster, store) = (&cluster, &store);
            async move { (indices, self.batch_partition(cluster, store, partition, keys, options).await) }
        });
        for (indices, answers) in futures::future::join_all(parts).await {
            for (index, answer) in indices.into_iter().zip(answers) {
                if let Some(slot) = outcomes.get_mut(index) {
                    *slot = Some(answer);
                }
            }
        }
        let missing = || Err(QueryError::Internal("a key of the batch was left without an outcome".to_owned()));
        Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect())
    }

    /// One outcome per key, in order.
    async fn batch_partition(
        &self,
        cluster: &Cluster,
        store: &Arc<StoreInfo>,
        partition: i32,
        keys: Vec<Vec<u8>>,
        options: &ReadOptions,
    ) -> Vec<Outcome> {
        let (copy, served) = match self.target(cluster, store, partition, options) {
            Ok(Target::Local(copy)) => match self.admit(cluster, store, partition, &copy, options).await {
                Ok(served) => (copy, served),
                Err(error) => return keys.iter().map(|_| Err(error.clone())).collect(),
            },
            Ok(Target::Remote(_)) => {
                let asked = keys.iter().map(|key| self.get_from(cluster, store, key, options));
                return futures::future::join_all(asked).await;
            }
            Err(error) => return keys.iter().map(|_| Err(error.clone())).collect(),
        };
        let count = keys.len();
        let read = move || {
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            copy.table.get_many(&keys)
        };
        let rows = if count <= INLINE_KEYS {
            read().map_err(|source| store_error(store, source))
        } else {
            self.on_pool(self.timeout(options), read)
                .await
                .and_then(|rows| rows.map_err(|source| store_error(store, source)))
        };
        spread(rows, count, &served)
    }
}

/// One outcome per key from one read of all.
fn spread(rows: Result<Vec<RowRead>, QueryError>, count: usize, served: &Served) -> Vec<Outcome> {
    match rows {
        Ok(rows) => rows.into_iter().map(|value| Ok(Answer { value, served: served.clone() })).collect(),
        Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
    }
}
