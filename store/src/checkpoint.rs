//! How far a task's stores have come: the positions that travel with rows, in memory and in RocksDB.

use std::collections::BTreeMap;

use holdfast_types::TopicPartition;
use serde::{Deserialize, Serialize};

/// Positions that a task's rows reflect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Per changelog partition, the next offset to restore.
    pub changelog: BTreeMap<TopicPartition, i64>,
    /// Per input partition, the next offset to read.
    pub input: BTreeMap<TopicPartition, i64>,
    /// The task's stream time in milliseconds since the epoch; 0 before the first record.
    pub stream_time_ms: i64,
    /// Wall-clock time, in milliseconds since the epoch, at which the stores were last known to reflect their
    /// changelogs; 0 when never. A directory whose time is older than the changelog's `delete.retention.ms` is rebuilt, so
    /// a task with nothing to apply should move it too (with a batch without rows).
    pub applied_at_ms: i64,
}

/// What one batch changes of a [`Checkpoint`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointDelta {
    /// Changelog entries to overwrite: the next offset to restore.
    pub changelog: Vec<(TopicPartition, i64)>,
    /// Input entries to overwrite: the next offset to read.
    pub input: Vec<(TopicPartition, i64)>,
    /// The new stream time, when it moved.
    pub stream_time_ms: Option<i64>,
    /// The new time of application, when it moved.
    pub applied_at_ms: Option<i64>,
}

impl Checkpoint {
    /// Overwrites what `delta` names.
    pub fn apply(&mut self, delta: CheckpointDelta) {
        overwrite(&mut self.changelog, delta.changelog);
        overwrite(&mut self.input, delta.input);
        self.stream_time_ms = delta.stream_time_ms.unwrap_or(self.stream_time_ms);
        self.applied_at_ms = delta.applied_at_ms.unwrap_or(self.applied_at_ms);
    }

    /// JSON, so that `ldb get checkpoint` tells an operator where a directory stands.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Stored {
            changelog: entries(&self.changelog),
            input: entries(&self.input),
            stream_time_ms: self.stream_time_ms,
            applied_at_ms: self.applied_at_ms,
        })
    }

    /// Reads [`Checkpoint::encode`]'s bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let stored: Stored = serde_json::from_slice(bytes)?;
        Ok(Self {
            changelog: stored.changelog.into_iter().map(Entry::into_pair).collect(),
            input: stored.input.into_iter().map(Entry::into_pair).collect(),
            stream_time_ms: stored.stream_time_ms,
            applied_at_ms: stored.applied_at_ms,
        })
    }
}

fn overwrite(positions: &mut BTreeMap<TopicPartition, i64>, entries: Vec<(TopicPartition, i64)>) {
    for (partition, offset) in entries {
        positions.insert(partition, offset);
    }
}

/// The stored form: JSON has no maps with structured keys.
#[derive(Serialize, Deserialize)]
struct Stored {
    changelog: Vec<Entry>,
    input: Vec<Entry>,
    stream_time_ms: i64,
    applied_at_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    partition: TopicPartition,
    next_offset: i64,
}

impl Entry {
    fn into_pair(self) -> (TopicPartition, i64) {
        (self.partition, self.next_offset)
    }
}

fn entries(positions: &BTreeMap<TopicPartition, i64>) -> Vec<Entry> {
    positions.iter().map(|(partition, &next_offset)| Entry { partition: partition.clone(), next_offset }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_overwrites_what_it_names() {
        let items = TopicPartition::new("items", 0);
        let mut checkpoint = Checkpoint::default();
        checkpoint.apply(CheckpointDelta {
            input: vec![(items.clone(), 5)],
            stream_time_ms: Some(7),
            ..CheckpointDelta::default()
        });
        checkpoint.apply(CheckpointDelta { input: vec![(items.clone(), 9)], ..CheckpointDelta::default() });
        assert_eq!(checkpoint.input, BTreeMap::from([(items, 9)]));
        assert_eq!(checkpoint.stream_time_ms, 7);
    }

    #[test]
    fn stored_bytes_round_trip_and_are_readable() {
        let checkpoint = Checkpoint {
            changelog: BTreeMap::from([(TopicPartition::new("app-counts-changelog", 3), 12)]),
            input: BTreeMap::from([(TopicPartition::new("items", 3), 40)]),
            stream_time_ms: 1,
            applied_at_ms: 2,
        };
        let bytes = checkpoint.encode().unwrap();
        assert_eq!(
            std::str::from_utf8(&bytes).unwrap(),
            r#"{"changelog":[{"topic":"app-counts-changelog","partition":3,"next_offset":12}],"input":[{"topic":"items","partition":3,"next_offset":40}],"stream_time_ms":1,"applied_at_ms":2}"#
        );
        assert_eq!(Checkpoint::decode(&bytes).unwrap(), checkpoint);
        assert!(Checkpoint::decode(&bytes[..20]).is_err());
    }
}
