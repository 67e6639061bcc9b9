//! A seal's parts as records to produce, and as rows once they are committed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use holdfast_store::{AppliedBatch, CheckpointDelta, RowChange};
use holdfast_types::{TaskId, TopicPartition};

use super::{Outcome, stop::Stop};
use crate::{
    engine::kept::next_offsets,
    errors::DeadLetter,
    kafka::{BatchProducer, OutRecord, ProduceError},
    task::{Seal, TaskSeal},
};

pub(super) fn produce_part(producer: &mut BatchProducer, part: &TaskSeal) -> Result<(), ProduceError> {
    for (rows, changelog) in part.rows.iter().zip(part.changelogs.iter()) {
        let Some(changelog) = changelog else { continue };
        for row in rows {
            producer.produce(&OutRecord {
                topic: &changelog.topic,
                partition: Some(changelog.partition),
                key: Some(&row.key),
                value: row.value.as_deref(),
                timestamp_ms: row.timestamp_ms,
                headers: &[],
            })?;
        }
    }
    for output in &part.outputs {
        let Some(sink) = part.sinks.get(output.sink) else { continue };
        producer.produce(&OutRecord {
            topic: &sink.topic,
            partition: None,
            key: output.key.as_deref(),
            value: output.value.as_deref(),
            timestamp_ms: output.timestamp_ms,
            headers: &output.headers,
        })?;
    }
    for DeadLetter { topic, key, value, timestamp_ms, headers } in &part.dead_letters {
        producer.produce(&OutRecord {
            topic,
            partition: None,
            key: key.as_deref(),
            value: value.as_deref(),
            timestamp_ms: *timestamp_ms,
            headers,
        })?;
    }
    Ok(())
}

/// The topics that a seal writes to.
pub(super) fn topics(seal: &Seal) -> BTreeSet<&str> {
    let mut topics = BTreeSet::new();
    for part in &seal.tasks {
        let logged = part.rows.iter().zip(part.changelogs.iter()).filter(|(rows, _)| !rows.is_empty());
        topics.extend(logged.filter_map(|(_, changelog)| changelog.as_ref()).map(|changelog| &*changelog.topic));
        topics.extend(part.outputs.iter().filter_map(|output| part.sinks.get(output.sink)).map(|sink| &*sink.topic));
        topics.extend(part.dead_letters.iter().map(|letter| &*letter.topic));
    }
    topics
}

/// Makes the rows visible and moves the checkpoint: they are committed, and survive this process in the changelog.
///
/// `markers` is the number of control records after the last row: with them in the checkpoint, a restart finds itself at the
/// changelog's end without reading.
pub(super) fn apply(seal: &Seal, offsets: &[i64], markers: i64) -> Result<(), Stop> {
    let mut offsets = offsets.iter().copied();
    for part in &seal.tasks {
        let mut checkpoint = CheckpointDelta {
            stream_time_ms: Some(part.stream_time_ms),
            applied_at_ms: Some(part.sealed_at_ms),
            ..CheckpointDelta::default()
        };
        let mut stores = Vec::with_capacity(part.rows.len());
        for (rows, changelog) in part.rows.iter().zip(part.changelogs.iter()) {
            let mut changes = Vec::with_capacity(rows.len());
            let mut last = None;
            for row in rows {
                let offset = if changelog.is_some() { offsets.next().unwrap_or(-1) } else { -1 };
                last = last.max(Some(offset));
                changes.push(RowChange {
                    key: row.key.clone(),
                    value: row.value.clone(),
                    timestamp_ms: row.timestamp_ms,
                    offset,
                });
            }
            if let (Some(changelog), Some(last)) = (changelog, last)
                && last >= 0
            {
                checkpoint.changelog.push((changelog.clone(), last + 1 + markers));
            }
            stores.push(changes);
        }
        // Outputs and dead letters have offsets too, that nobody here needs.
        for _ in 0..part.outputs.len() + part.dead_letters.len() {
            offsets.next();
        }
        checkpoint.input = part.offsets.iter().map(|(partition, offset)| (partition.clone(), *offset)).collect();
        part.store
            .apply(AppliedBatch { rows: stores, checkpoint })
            .map_err(|error| Stop::End(Outcome::Store { task: part.task, error }))?;
        part.view.publish(part.position.clone(), next_offsets(&part.store, &part.changelogs));
        part.view.commit_ends();
    }
    Ok(())
}

/// The last offset that the seal's records have in each partition; `offsets` and `partitions` are by record number.
pub(super) fn written(seal: &Seal, offsets: &[i64], partitions: &[i32]) -> BTreeMap<TopicPartition, i64> {
    let mut written = BTreeMap::new();
    let mut note = |topic: &Arc<str>, partition: i32, offset: i64| {
        let last = written.entry(TopicPartition::new(Arc::clone(topic), partition)).or_insert(offset);
        *last = offset.max(*last);
    };
    let mut acknowledged = partitions.iter().copied().zip(offsets.iter().copied());
    for part in &seal.tasks {
        for (rows, changelog) in part.rows.iter().zip(part.changelogs.iter()) {
            let Some(changelog) = changelog else { continue };
            // One partition, so that the last one is the highest.
            if let Some((_, offset)) = acknowledged.by_ref().take(rows.len()).last() {
                note(&changelog.topic, changelog.partition, offset);
            }
        }
        // There may be one for each input record: by number of sink and partition, not by name.
        let mut outputs: Vec<BTreeMap<i32, i64>> = vec![BTreeMap::new(); part.sinks.len()];
        for (output, (partition, offset)) in part.outputs.iter().zip(acknowledged.by_ref()) {
            if let Some(last) = outputs.get_mut(output.sink) {
                last.insert(partition, offset);
            }
        }
        for (sink, last) in part.sinks.iter().zip(outputs) {
            for (partition, offset) in last {
                note(&sink.topic, partition, offset);
            }
        }
        for (letter, (partition, offset)) in part.dead_letters.iter().zip(acknowledged.by_ref()) {
            note(&letter.topic, partition, offset);
        }
    }
    written
}

/// A record of a batch.
pub(super) struct Located {
    /// Whose it is.
    pub(super) task: TaskId,
    /// What it is, in words.
    pub(super) what: String,
    /// Whether it is a dead letter.
    pub(super) dead_letter: bool,
}

/// Record number `index` of the batch.
pub(super) fn locate(seal: &Seal, index: usize) -> Located {
    let mut before = 0;
    for part in &seal.tasks {
        let mut position = index.saturating_sub(before);
        if position < produced(part) {
            let task = part.task;
            for (rows, changelog) in part.rows.iter().zip(part.changelogs.iter()) {
                let Some(changelog) = changelog else { continue };
                if let Some(row) = rows.get(position) {
                    let bytes = row.value.as_ref().map_or(0, |value| value.len());
                    let what = format!("a row of {bytes} bytes for changelog {changelog}");
                    return Located { task, what, dead_letter: false };
                }
                position -= rows.len();
            }
            if let Some(output) = part.outputs.get(position) {
                let topic = part.sinks.get(output.sink).map_or("?", |sink| &sink.topic);
                return Located { task, what: format!("a record for {topic}"), dead_letter: false };
            }
            let letter = part.dead_letters.get(position - part.outputs.len());
            let what = format!("a dead letter for {}", letter.map_or("?", |letter| &letter.topic));
            return Located { task, what, dead_letter: true };
        }
        before += produced(part);
    }
    let task = seal.tasks.first().map_or(TaskId::new(0, 0), |part| part.task);
    Located { task, what: "a record".to_owned(), dead_letter: false }
}

/// Records that a part produces: rows of stores without a changelog are not among them.
fn produced(part: &TaskSeal) -> usize {
    let rows: usize = part
        .rows
        .iter()
        .zip(part.changelogs.iter())
        .filter(|(_, changelog)| changelog.is_some())
        .map(|(rows, _)| rows.len())
        .sum();
    rows + part.outputs.len() + part.dead_letters.len()
}
