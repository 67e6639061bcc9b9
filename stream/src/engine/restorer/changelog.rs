//! One changelog partition on its way into a table.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_store::{AppliedBatch, CheckpointDelta, RowChange, TaskStore};
use holdfast_types::{TaskId, TimestampMs, TopicPartition};
use tracing::warn;

use super::RestoreError;
use crate::kafka::{FetchConsumer, FetchError, FetchQueue, Fetched, StartOffset, Waker};

const BATCH_RECORDS: usize = 4096;

/// How far it is.
pub(super) struct ChangelogRestore {
    pub(super) store: usize,
    pub(super) partition: TopicPartition,
    pub(super) queue: Option<FetchQueue>,
    pub(super) next: i64,
    pub(super) end: i64,
}

/// What came of a turn.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Records that were applied.
    pub(super) records: u64,
    /// Nothing more is fetched: the next offset is not in the log. See [`Outside`].
    pub(super) outside: Option<FetchError>,
}

/// Applies up to a batch of fetched records.
pub(super) fn replay_batch(
    task: TaskId,
    changelog: &mut ChangelogRestore,
    store: &Arc<TaskStore>,
    stores: usize,
    now_ms: TimestampMs,
) -> Result<Replayed, RestoreError> {
    let Some(queue) = &mut changelog.queue else { return Ok(Replayed::default()) };
    let mut rows = Vec::new();
    let mut outside = None;
    let before = changelog.next;
    while rows.len() < BATCH_RECORDS && changelog.next < changelog.end {
        match queue.peek() {
            None => break,
            // Fetched anew from the log's beginning, where the checkpoint was outside of it for a moment.
            Some(Fetched::Record(record)) if record.offset() < changelog.next => {}
            Some(Fetched::Record(record)) => {
                changelog.next = record.offset() + 1;
                // A changelog has no null keys; one that somebody else wrote there belongs to no row.
                if let Some(key) = record.key() {
                    rows.push(RowChange {
                        key: Bytes::copy_from_slice(key),
                        value: record.value().map(Bytes::copy_from_slice),
                        timestamp_ms: record.timestamp_ms(),
                        offset: record.offset(),
                    });
                }
            }
            // The broker's own word for how far there is something to read: gets past control records.
            Some(Fetched::End(offset)) => changelog.next = changelog.next.max(offset),
            Some(Fetched::Error(error @ FetchError::OffsetOutOfRange { .. })) => {
                outside = Some(error);
                queue.advance();
                break;
            }
            Some(Fetched::Error(error)) if error.is_passing() => {
                if error.is_denied() {
                    warn!(%task, partition = %changelog.partition, "this user may not read the changelog: the restore waits until it has the Read permission");
                }
            }
            Some(Fetched::Error(source)) => return Err(RestoreError::Fetch { task, source }),
        }
        queue.advance();
    }
    let records = rows.len() as u64;
    if changelog.next > before {
        let mut batch = vec![Vec::new(); stores];
        if let Some(slot) = batch.get_mut(changelog.store) {
            *slot = rows;
        }
        let checkpoint = CheckpointDelta {
            changelog: vec![(changelog.partition.clone(), changelog.next)],
            applied_at_ms: Some(now_ms),
            ..CheckpointDelta::default()
        };
        store.apply(AppliedBatch { rows: batch, checkpoint }).map_err(|source| RestoreError::Store { task, source })?;
    }
    Ok(Replayed { records, outside })
}

/// What the brokers' answer means that the next offset is not in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outside {
    /// Records that the copy has are lost to everybody else, and others may stand at their offsets.
    Lost,
    /// Compaction or retention took the log's beginning away since the checkpoint: the oldest record left comes after everything
    /// that was removed, and holds the newer value of each key.
    Shortened,
    /// The marker of the last transaction is still to come, or the log is there again.
    ForAMoment,
}

impl Outside {
    /// `log` is where it begins and ends now.
    pub(super) fn of(error: &FetchError, next: i64, log: (i64, i64)) -> Self {
        let (begin, end) = log;
        // One more is no surprise: the broker writes the last transaction's marker after it has confirmed the commit.
        match error.is_truncation() || next > end + 1 {
            true => Self::Lost,
            false if next < begin => Self::Shortened,
            false => Self::ForAMoment,
        }
    }
}

impl ChangelogRestore {
    /// Fetches anew; what the copy has is skipped.
    pub(super) fn fetch_from(
        &mut self,
        start: StartOffset,
        consumer: &FetchConsumer,
        waker: &Arc<Waker>,
    ) -> Result<(), FetchError> {
        self.queue = None;
        consumer.unassign(&self.partition)?;
        self.queue = Some(consumer.assign(&self.partition, start, waker)?);
        Ok(())
    }

    pub(super) fn remaining(&self) -> u64 {
        u64::try_from(self.end - self.next).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use holdfast_store::{MemoryBudget, StoreKind, StoreSpec, TaskStoreSpec};
    use rdkafka::{
        ClientConfig,
        mocking::MockCluster,
        producer::{BaseProducer, BaseRecord, Producer},
    };

    use super::*;
    use crate::kafka::{ConnectionSettings, Reads};

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_copy_is_built_anew_only_where_the_log_has_lost_records() {
        let error = |message: &str| FetchError::OffsetOutOfRange {
            partition: TopicPartition::new("changelog", 0),
            message: message.to_owned(),
        };
        let range =
            error("fetch failed due to requested offset not available on the broker: Broker: Offset out of range");
        let lost = error("Partition log truncation detected at offset 50: Local: Partition log truncation detected");
        for (error, next, log, outside) in [
            (&range, 50, (0, 10), Outside::Lost),
            (&range, 12, (0, 10), Outside::Lost),
            (&range, 11, (0, 10), Outside::ForAMoment),
            (&range, 5, (0, 10), Outside::ForAMoment),
            (&range, 5, (6, 10), Outside::Shortened),
            // Others have written as much again.
            (&lost, 5, (0, 10), Outside::Lost),
        ] {
            assert_eq!(Outside::of(error, next, log), outside, "{next} of {log:?}");
        }
    }

    /// With librdkafka's own words for an offset outside of a log.
    #[test]
    fn a_log_that_ends_before_a_copy_shows() {
        let (cluster, partition) = (MockCluster::new(1).unwrap(), TopicPartition::new("changelog", 0));
        cluster.create_topic(&partition.topic, 1, 1).unwrap();
        let servers = cluster.bootstrap_servers();
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &servers).create().unwrap();
        for number in 0..10 {
            let (key, value) = (format!("{number}"), "row".to_owned());
            producer.send(BaseRecord::to(&partition.topic).partition(0).key(&key).payload(&value)).unwrap();
        }
        producer.flush(LIMIT).unwrap();

        let task = TaskId::new(0, 0);
        let store = StoreSpec { name: "store".into(), kind: StoreKind::InMemory, changelog: None };
        let spec = TaskStoreSpec { task, fingerprint: "f".to_owned(), stores: vec![store] };
        let store = TaskStore::temporary(&MemoryBudget::new(1 << 24), &spec);
        let settings = ConnectionSettings { bootstrap_servers: servers, ..ConnectionSettings::default() };
        let consumer = FetchConsumer::new(&settings, "test", Reads::Committed, 1 << 20).unwrap();
        let waker = Arc::new(Waker::default());
        for (next, outside) in [(50, Outside::Lost), (11, Outside::ForAMoment)] {
            let queue = Some(consumer.assign(&partition, StartOffset::At(next), &waker).unwrap());
            let mut changelog = ChangelogRestore { store: 0, partition: partition.clone(), queue, next, end: i64::MAX };
            let began = Instant::now();
            let error = loop {
                assert!(began.elapsed() < LIMIT, "nothing is said of {next}");
                let replayed = replay_batch(task, &mut changelog, &store, 1, 0).unwrap();
                assert_eq!(replayed.records, 0);
                match replayed.outside {
                    Some(error) => break error,
                    None => std::thread::park_timeout(Duration::from_millis(5)),
                }
            };
            let log = consumer.watermarks(&partition, LIMIT).unwrap();
            assert_eq!((Outside::of(&error, next, log), log), (outside, (0, 10)), "{error}");
            changelog.queue = None;
            consumer.unassign(&partition).unwrap();
        }
    }
}
