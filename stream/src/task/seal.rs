//! A seal: everything that one commit writes, frozen. Nothing sealed ever calls a processor again.

use std::{collections::BTreeMap, sync::Arc};

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
    /// The tasks that it holds.
    pub fn task_ids(&self) -> Vec<TaskId> {
        self.tasks.iter().map(|part| part.task).collect()
    }
}
