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

/// Applies up to a batch of fetched records; how many there were.
pub(super) fn replay_batch(
    task: TaskId,
    changelog: &mut ChangelogRestore,
    store: &Arc<TaskStore>,
    stores: usize,
    consumer: &FetchConsumer,
    waker: &Arc<Waker>,
    now_ms: TimestampMs,
) -> Result<u64, RestoreError> {
    let Some(queue) = &mut changelog.queue else { return Ok(0) };
    let mut rows = Vec::new();
    let mut out_of_range = false;
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
            Some(Fetched::Error(FetchError::OffsetOutOfRange { .. })) => {
                out_of_range = true;
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
    if out_of_range {
        // Compaction or retention took the log's beginning away since the checkpoint: the oldest record left comes after
        // everything that was removed, and holds the newer value of each key.
        warn!(%task, partition = %changelog.partition, "the changelog begins after the checkpoint; reading on from its beginning");
        changelog.queue = None;
        consumer.unassign(&changelog.partition).map_err(|source| RestoreError::Fetch { task, source })?;
        let queue = consumer.assign(&changelog.partition, StartOffset::Beginning, waker);
        changelog.queue = Some(queue.map_err(|source| RestoreError::Fetch { task, source })?);
    }
    Ok(records)
}

impl ChangelogRestore {
    pub(super) fn remaining(&self) -> u64 {
        u64::try_from(self.end - self.next).unwrap_or(0)
    }
}
