//! Ending what a broker left open: a transaction that its coordinator holds for ended while a partition still waits for its
//! marker.
//!
//! A coordinator that shuts down drops the markers for partitions that have no leader at that moment, as if their topics
//! were deleted (seen on a single broker, stopped in the middle of a transaction). Offsets then stay unstable, and last
//! stable offsets stay where they are, for ever. A marker of a later transaction of the same producer id ends them too: so
//! an empty transaction reaches every partition that the lost one may have reached, and is aborted. Only where the lost one
//! was surely not committed: of one that may be, other partitions may have their commit markers already.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_types::{GroupMetadata, TopicPartition};

use crate::{
    kafka::{BatchProducer, OutRecord, ProduceError},
    task::Seal,
};

/// Partitions that a transaction reaches, besides the group's offsets.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    partitions: BTreeSet<TopicPartition>,
    /// Topics of which it may have reached any partition.
    topics: BTreeSet<Arc<str>>,
    /// Any partition of which the group holds an offset: it stands for the group's part of the offsets topic.
    offset: Option<TopicPartition>,
}

impl Reach {
    pub(super) fn of_seal(seal: &Seal) -> Self {
        let mut reach = Self::default();
        for part in &seal.tasks {
            reach.partitions.extend(part.changelogs.iter().flatten().cloned());
            reach.topics.extend(part.sinks.iter().map(|sink| Arc::clone(&sink.topic)));
            reach.topics.extend(part.dead_letters.iter().map(|letter| Arc::clone(&letter.topic)));
            reach.offset = reach.offset.or_else(|| part.offsets.keys().next().cloned());
        }
        reach
    }

    pub(super) fn is_empty(&self) -> bool {
        self.partitions.is_empty() && self.topics.is_empty() && self.offset.is_none()
    }
}

/// Reaches, and aborts. An error says why it did not get that far; it may be tried again.
pub(super) fn sweep(
    producer: &mut BatchProducer,
    reach: &Reach,
    group_id: &Arc<str>,
    deadline: Duration,
) -> Result<(), String> {
    producer.begin().map_err(|error| error.to_string())?;
    let reached = touch(producer, reach, group_id, deadline);
    let until = Instant::now() + deadline;
    loop {
        match producer.abort(deadline) {
            Ok(()) => return reached,
            Err(error) if error.retriable && !error.fatal && Instant::now() < until => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn touch(producer: &mut BatchProducer, reach: &Reach, group_id: &Arc<str>, deadline: Duration) -> Result<(), String> {
    let mut partitions: Vec<TopicPartition> = reach.partitions.iter().cloned().collect();
    for topic in &reach.topics {
        let count = producer.partitions(topic, deadline).map_err(|error| error.to_string())?;
        partitions.extend((0..count).map(|partition| TopicPartition::new(Arc::clone(topic), partition)));
    }
    for partition in &partitions {
        // Compacted topics want a key. Nobody ever reads this: it is aborted.
        let record = OutRecord {
            topic: &partition.topic,
            partition: Some(partition.partition),
            key: Some(b"aborted"),
            value: None,
            timestamp_ms: 0,
            headers: &[],
        };
        producer.produce(&record).map_err(|error| error.to_string())?;
    }
    let until = Instant::now() + deadline;
    loop {
        match producer.flush(Duration::from_millis(100)) {
            Ok(()) => break,
            Err(ProduceError::TimedOut(_)) if Instant::now() < until => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    if let Some(offset) = &reach.offset {
        // A member that nobody knows: the coordinator takes the offsets topic into the transaction, and refuses the offset.
        let nobody = GroupMetadata { group_id: Arc::clone(group_id), generation: 0, member_id: "nobody".into() };
        let offsets = [(Arc::clone(&offset.topic), offset.partition, 0, "")];
        match producer.send_offsets(&offsets, &nobody, deadline) {
            Err(error) if error.retriable => return Err(error.to_string()),
            _ => {}
        }
    }
    Ok(())
}
