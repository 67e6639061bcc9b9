//! An active task: takes fetched records through its graph, and seals what came of them.

mod processing;
mod sealing;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use holdfast_store::TaskStore;
use holdfast_types::{Position, TaskId, TopicPartition};

pub(crate) use self::processing::SliceLimits;
use super::{
    Input, Mark, RecordInHand, ResolvedSink, careful::Steps, input::NOT_SEALED, report::Report, watch::Stopwatch,
};
use crate::{
    engine::TaskView,
    errors::{DeadLetter, DeadLetterQueue, ErrorHandlers},
    kafka::{FetchConsumer, FetchError, StartOffset, limits::Limits},
    processor::{Output, TaskContext, TaskGraph},
};

/// A task that processes.
pub struct ActiveTask {
    /// The task.
    pub id: TaskId,
    /// Its rows.
    pub store: Arc<TaskStore>,
    pub(crate) view: Arc<TaskView>,
    /// Its input partitions.
    pub inputs: Vec<Input>,
    graph: TaskGraph,
    context: TaskContext,
    changelogs: Arc<[Option<TopicPartition>]>,
    sinks: Arc<[ResolvedSink]>,
    pub(super) handlers: Arc<ErrorHandlers>,
    dead_letter_queue: DeadLetterQueue,
    limits: Limits,
    dead_letters: Vec<DeadLetter>,
    /// Dead letters of the seal that is on its way.
    sealed_letters: u64,
    pub(super) marked: BTreeMap<(TopicPartition, i64), Mark>,
    position: Position,
    pub(super) last_record: Option<(TopicPartition, i64)>,
    pub(super) condemned: bool,
    pub(super) unsealed_records: u64,
    forwarding: bool,
    pub(super) steps: Steps,
    dropped_told: u64,
    output_bytes: usize,
    outputs_counted: usize,
    letter_bytes: usize,
    pub(super) report: Report,
    hand: Arc<RecordInHand>,
    stopwatch: Stopwatch,
    /// The inputs' partitions, for [`RecordInHand`].
    partitions: Arc<[TopicPartition]>,
}

impl std::fmt::Debug for ActiveTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActiveTask").field("id", &self.id).field("inputs", &self.inputs).finish_non_exhaustive()
    }
}

/// What an active task is made of.
pub(crate) struct TaskParts {
    pub(crate) store: Arc<TaskStore>,
    pub(crate) view: Arc<TaskView>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) graph: TaskGraph,
    pub(crate) context: TaskContext,
    pub(crate) changelogs: Arc<[Option<TopicPartition>]>,
    pub(crate) sinks: Arc<[ResolvedSink]>,
    pub(crate) handlers: Arc<ErrorHandlers>,
    pub(crate) dead_letter_queue: DeadLetterQueue,
    pub(crate) limits: Limits,
    pub(crate) position: Position,
    pub(crate) hand: Arc<RecordInHand>,
    pub(crate) slow_record: Duration,
}

impl ActiveTask {
    pub(crate) fn new(parts: TaskParts) -> Self {
        let mut context = parts.context;
        context.slow_after = parts.slow_record;
        let partitions = parts.inputs.iter().map(|input| input.queue.partition().clone()).collect();
        Self {
            id: context.task,
            report: Report::new(context.task),
            store: parts.store,
            view: parts.view,
            inputs: parts.inputs,
            graph: parts.graph,
            context,
            changelogs: parts.changelogs,
            sinks: parts.sinks,
            handlers: parts.handlers,
            dead_letter_queue: parts.dead_letter_queue,
            limits: parts.limits,
            dead_letters: Vec::new(),
            sealed_letters: 0,
            marked: BTreeMap::new(),
            position: parts.position,
            last_record: None,
            condemned: false,
            unsealed_records: 0,
            forwarding: false,
            steps: Steps::new(),
            dropped_told: 0,
            output_bytes: 0,
            outputs_counted: 0,
            letter_bytes: 0,
            hand: parts.hand,
            stopwatch: Stopwatch::new(parts.slow_record),
            partitions,
        }
    }

    /// Whether the task waits to go back to its last commit.
    pub fn is_condemned(&self) -> bool {
        self.condemned
    }

    /// Goes back to the last commit. No seal of the task may be on its way: `graph` is built over what is committed.
    pub fn rewind(&mut self, graph: TaskGraph, consumer: &FetchConsumer) -> Result<(), FetchError> {
        self.graph = graph;
        self.context.outputs.clear();
        self.context.stream_time_ms = self.store.checkpoint().stream_time_ms;
        self.dead_letters.clear();
        // What readers were told last is what is committed.
        self.position = Position::clone(&self.view.position());
        self.last_record = None;
        self.unsealed_records = 0;
        self.forwarding = false;
        self.output_bytes = 0;
        self.outputs_counted = 0;
        self.letter_bytes = 0;
        self.sealed_letters = 0;
        for input in &mut self.inputs {
            consumer.seek(&mut input.queue, input.committed)?;
            input.begin_at(input.committed);
        }
        self.condemned = false;
        Ok(())
    }

    /// The next offset to process of an input; `None` if the task does not read `partition`.
    pub fn next_offset(&self, partition: &TopicPartition) -> Option<i64> {
        self.inputs.iter().find(|input| input.queue.partition() == partition).map(|input| input.next)
    }

    /// Goes on in an input at `start`: its records before that are gone, or are those of another topic. The offset that the group
    /// holds is no more than a number now, so the next seal commits the new one even if nothing comes.
    pub fn begin_anew(
        &mut self,
        consumer: &FetchConsumer,
        partition: &TopicPartition,
        start: StartOffset,
    ) -> Result<(), FetchError> {
        let Some(input) = self.inputs.iter_mut().find(|input| input.queue.partition() == partition) else {
            return Ok(());
        };
        consumer.assign_again(&mut input.queue, start)?;
        input.begin_at(start);
        input.careful_until = 0;
        if start == StartOffset::Beginning {
            input.sealed = NOT_SEALED;
        }
        self.marked.retain(|(of, _), _| of != partition);
        self.position.forget(&partition.topic, partition.partition);
        self.view.publish_position(self.position.clone());
        Ok(())
    }

    /// Bytes of rows, outputs and dead letters that wait for a seal.
    pub fn dirty_bytes(&mut self) -> usize {
        let fresh = self.context.outputs.get(self.outputs_counted..).unwrap_or_default();
        self.output_bytes += fresh.iter().map(Output::size_bytes).sum::<usize>();
        self.outputs_counted = self.context.outputs.len();
        self.graph.dirty_bytes() + self.output_bytes + self.letter_bytes
    }

    /// Bytes of typed rows that are kept.
    pub fn cached_bytes(&mut self) -> usize {
        self.graph.cached_bytes()
    }

    /// Drops clean rows until no more than `target_bytes` are kept.
    pub fn evict(&mut self, target_bytes: usize) {
        self.graph.evict(target_bytes);
    }
}
