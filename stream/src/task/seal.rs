//! A seal: everything that one commit writes, frozen. Nothing sealed ever calls a processor again.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use holdfast_store::TaskStore;
use holdfast_types::{Position, TaskId, TimestampMs, TopicPartition};

use crate::{
    engine::TaskView,
    errors::DeadLetter,
    processor::{Output, SealedRow},
};

/// Where a sink writes, with its topic's name resolved.
#[derive(Clone, Debug)]
pub struct ResolvedSink {
    /// Topic name.
    pub topic: Arc<str>,
}

/// One task's part of a commit.
#[derive(Debug)]
pub struct TaskSeal {
    /// The task.
    pub task: TaskId,
    /// Where its rows become visible.
    pub store: Arc<TaskStore>,
    /// What readers are told with them.
    pub(crate) view: Arc<TaskView>,
    /// Changed rows per store, one per key.
    pub rows: Vec<Vec<SealedRow>>,
    /// Changelog partition per store; `None` where logging is off.
    pub changelogs: Arc<[Option<TopicPartition>]>,
    /// Records for sinks, in the order forwarded.
    pub outputs: Vec<Output>,
    /// The sinks, by the outputs' index.
    pub sinks: Arc<[ResolvedSink]>,
    /// Records that could not be processed.
    pub dead_letters: Vec<DeadLetter>,
    /// Next offset to read per input partition that moved.
    pub offsets: BTreeMap<TopicPartition, i64>,
    /// Last offsets reflected, for readers.
    pub position: Position,
    /// Largest record time stamp seen.
    pub stream_time_ms: TimestampMs,
    /// Wall-clock time of the seal.
    pub sealed_at_ms: TimestampMs,
}

impl TaskSeal {
    /// Whether there is anything to commit.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
            && self.outputs.is_empty()
            && self.dead_letters.is_empty()
            && self.rows.iter().all(Vec::is_empty)
    }

    /// Takes in what the same task sealed later: one part, as if all of it had been sealed then.
    pub fn append(&mut self, later: Self) {
        for (rows, later) in self.rows.iter_mut().zip(later.rows) {
            append_rows(rows, later);
        }
        self.outputs.extend(later.outputs);
        self.dead_letters.extend(later.dead_letters);
        self.offsets.extend(later.offsets);
        self.position = later.position;
        self.stream_time_ms = later.stream_time_ms;
        self.sealed_at_ms = later.sealed_at_ms;
    }

    /// Number of records that it will produce.
    pub fn records(&self) -> usize {
        self.rows.iter().map(Vec::len).sum::<usize>() + self.outputs.len() + self.dead_letters.len()
    }
}

/// One commit of a stream thread: the parts of its tasks, in one transaction.
#[derive(Debug, Default)]
pub struct Seal {
    /// The tenure in which its records were processed, and in which alone it may be committed.
    pub tenure: u64,
    /// Parts with something to commit.
    pub tasks: Vec<TaskSeal>,
}

impl Seal {
    /// Takes in what tasks sealed later.
    pub fn append(&mut self, later: Vec<TaskSeal>) {
        for part in later {
            match self.tasks.iter_mut().find(|earlier| earlier.task == part.task) {
                Some(earlier) => earlier.append(part),
                None => self.tasks.push(part),
            }
        }
    }

    /// The tasks that it holds.
    pub fn task_ids(&self) -> Vec<TaskId> {
        self.tasks.iter().map(|part| part.task).collect()
    }
}

/// Rows of one store that were sealed one after the other, still one per key.
fn append_rows(rows: &mut Vec<SealedRow>, later: Vec<SealedRow>) {
    let newer: HashSet<&[u8]> = later.iter().map(|row| &*row.key).collect();
    rows.retain(|row| !newer.contains(&*row.key));
    rows.extend(later);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &'static str, value: Option<&'static str>) -> SealedRow {
        SealedRow { key: key.into(), value: value.map(Into::into), timestamp_ms: 0 }
    }

    #[test]
    fn of_rows_that_were_sealed_twice_the_later_one_is_written_and_only_once() {
        let mut rows = vec![row("a", Some("1")), row("b", Some("1")), row("c", Some("1"))];
        append_rows(&mut rows, vec![row("d", Some("2")), row("b", None), row("a", Some("2"))]);
        let expected = [row("c", Some("1")), row("d", Some("2")), row("b", None), row("a", Some("2"))];
        assert_eq!(rows, expected);
    }
}
