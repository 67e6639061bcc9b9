//! An active task: takes fetched records through its graph, and seals what came of them.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_store::TaskStore;
use holdfast_types::{Position, TaskId, TopicPartition};
use tracing::warn;

use super::{ResolvedSink, TaskSeal};
use crate::{
    engine::{TaskView, metrics},
    errors::{DeadLetter, DeadLetterQueue, ErrorHandlers, ErrorKind, ErrorPolicy, ProcessingError},
    kafka::{FetchConsumer, FetchError, FetchQueue, Fetched, StartOffset},
    processor::{Header, Output, SourceRecord, TaskContext, TaskGraph},
};

/// One input partition of a task.
#[derive(Debug)]
pub struct Input {
    /// Index of the source in the sub-topology.
    pub source: usize,
    /// What has been fetched of it.
    pub queue: FetchQueue,
    /// The next offset to process.
    pub next: i64,
    /// `next` as of the last seal.
    pub sealed: i64,
    /// `next` as of the last commit; where there was none yet, where reading began.
    committed: StartOffset,
    /// Up to where records are sealed one by one, to find the one that cannot be committed; 0 mostly.
    pub careful_until: i64,
    retry: Option<Retry>,
}

#[derive(Debug)]
struct Retry {
    attempt: u32,
    not_before: Instant,
}

impl Input {
    /// Reads `queue`, which begins at `start`.
    pub fn new(source: usize, queue: FetchQueue, start: StartOffset) -> Self {
        let mut input = Self { source, queue, next: 0, sealed: 0, committed: start, careful_until: 0, retry: None };
        input.begin_at(start);
        input
    }

    /// The next offset to read as of the last commit; 0 before the first.
    pub fn committed_offset(&self) -> i64 {
        match self.committed {
            StartOffset::At(offset) => offset,
            StartOffset::Beginning | StartOffset::End => 0,
        }
    }

    /// Goes on at `start`, to which the queue was moved.
    pub fn begin_at(&mut self, start: StartOffset) {
        self.next = match start {
            StartOffset::At(offset) => offset,
            StartOffset::Beginning | StartOffset::End => 0,
        };
        self.sealed = self.next;
        self.committed = start;
        self.retry = None;
    }
}

/// A record that was seen to break its task's commit, or that failed after it had changed something: it goes where the
/// policy says as soon as it comes up again, before it reaches a processor.
#[derive(Clone, Debug)]
pub struct PoisonedRecord {
    /// The partition that it comes from.
    pub partition: TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// The error's name, for the dead letter.
    pub exception: String,
    /// The error's words.
    pub message: String,
    /// Whether it is written to the dead-letter topic, or only skipped.
    pub dead_letter: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

/// Why a task cannot simply go on.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The task goes back to its last commit, and does without the poisoned record, if one is named.
    #[error("task {task} goes back to its last commit: {reason}")]
    RollBack {
        /// The task.
        task: TaskId,
        /// The record that broke it, where it is known.
        poison: Option<Box<PoisonedRecord>>,
        /// What happened.
        reason: String,
    },
    /// The policy says that processing stops here.
    #[error("task {task}: {record}: {error}")]
    Fatal {
        /// The task.
        task: TaskId,
        /// Topic, partition and offset.
        record: String,
        /// What happened.
        error: String,
    },
    /// The input cannot be read.
    #[error("task {task}: {source}")]
    Fetch {
        /// The task.
        task: TaskId,
        /// Why.
        source: FetchError,
    },
}

/// What a graph did with a record.
enum Attempt {
    Done,
    Failed { kind: ErrorKind, exception: String, message: String, mutated: bool },
}

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
    handlers: Arc<ErrorHandlers>,
    dead_letter_queue: DeadLetterQueue,
    dead_letters: Vec<DeadLetter>,
    poisoned: BTreeMap<(TopicPartition, i64), PoisonedRecord>,
    position: Position,
    last_record: Option<(TopicPartition, i64)>,
    condemned: bool,
    unsealed_records: u64,
    dropped_told: u64,
    output_bytes: usize,
    outputs_counted: usize,
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
    pub(crate) position: Position,
}

impl ActiveTask {
    pub(crate) fn new(parts: TaskParts) -> Self {
        let TaskParts { store, view, inputs, graph, context, changelogs, sinks, handlers, dead_letter_queue, position } =
            parts;
        Self {
            id: context.task,
            store,
            view,
            inputs,
            graph,
            context,
            changelogs,
            sinks,
            handlers,
            dead_letter_queue,
            dead_letters: Vec::new(),
            poisoned: BTreeMap::new(),
            position,
            last_record: None,
            condemned: false,
            unsealed_records: 0,
            dropped_told: 0,
            output_bytes: 0,
            outputs_counted: 0,
        }
    }

    /// Processes up to `limit` fetched records; returns how many there were.
    pub fn process(&mut self, limit: usize) -> Result<usize, TaskError> {
        let mut processed = 0;
        while processed < limit && !self.condemned {
            if self.is_careful() && self.unsealed_records > 0 {
                break;
            }
            let Some(input) = self.next_input() else { break };
            match self.process_next(input)? {
                Progress::Record => processed += 1,
                Progress::Other => {}
                Progress::Nothing => break,
            }
        }
        if processed > 0 {
            metrics::processed(self.id, processed as u64);
            let dropped = self.context.dropped.total();
            if dropped > self.dropped_told {
                metrics::skipped(self.id, dropped - self.dropped_told);
                self.dropped_told = dropped;
            }
        }
        Ok(processed)
    }

    /// The input to read next: the one whose next record is oldest, as Kafka Streams chooses among partitions.
    fn next_input(&mut self) -> Option<usize> {
        if let [_] = self.inputs.as_slice() {
            return Some(0);
        }
        let mut best = None;
        for (index, input) in self.inputs.iter_mut().enumerate() {
            let key = match input.queue.peek() {
                None => continue,
                // Ends and errors cost nothing and are dealt with first.
                Some(Fetched::Record(record)) => record.timestamp_ms(),
                Some(_) => i64::MIN,
            };
            if best.is_none_or(|(_, oldest)| key < oldest) {
                best = Some((index, key));
            }
        }
        best.map(|(index, _)| index)
    }

    fn process_next(&mut self, index: usize) -> Result<Progress, TaskError> {
        let Some(input) = self.inputs.get_mut(index) else { return Ok(Progress::Nothing) };
        if input.retry.as_ref().is_some_and(|retry| Instant::now() < retry.not_before) {
            return Ok(Progress::Nothing);
        }
        let partition = input.queue.partition().clone();
        let record = match input.queue.peek() {
            None => return Ok(Progress::Nothing),
            Some(Fetched::End(offset)) => {
                // Control records and aborted ones lie behind the last record: the committed offset gets past them too.
                input.next = input.next.max(offset);
                input.queue.advance();
                return Ok(Progress::Other);
            }
            Some(Fetched::Error(error)) if error.is_passing() => {
                input.queue.advance();
                return Ok(Progress::Other);
            }
            Some(Fetched::Error(source)) => {
                input.queue.advance();
                return Err(TaskError::Fetch { task: self.id, source });
            }
            Some(Fetched::Record(record)) => record,
        };
        let offset = record.offset();
        if offset < input.next {
            input.queue.advance();
            return Ok(Progress::Other);
        }
        let headers: Vec<Header> = record
            .headers()
            .into_iter()
            .map(|(name, value)| Header { key: name.into(), value: value.map(Bytes::copy_from_slice) })
            .collect();
        // A record without a time stamp takes the task's time, as Kafka Streams' UsePartitionTimeOnInvalidTimestamp does.
        let timestamp_ms = match record.timestamp_ms() {
            time if time >= 0 => time,
            _ if self.context.stream_time_ms >= 0 => self.context.stream_time_ms,
            _ => self.context.wall_clock_ms(),
        };
        let source_record = SourceRecord {
            key: record.key(),
            value: record.value(),
            timestamp_ms,
            offset,
            partition: partition.partition,
            topic: &partition.topic,
            headers: &headers,
        };
        if !self.poisoned.is_empty()
            && let Some(poison) = self.poisoned.get(&(partition.clone(), offset))
        {
            if poison.dead_letter {
                let letter = self.dead_letter_queue.record_with(
                    &source_record,
                    &poison.exception,
                    &Told(poison.message.clone()),
                );
                self.dead_letters.push(letter);
                metrics::dead_letters(self.id, 1);
            }
        } else {
            let attempt = attempt(&mut self.graph, input.source, &source_record, &mut self.context);
            if let Attempt::Failed { kind, exception, message, mutated } = attempt {
                let tried = input.retry.as_ref().map_or(1, |retry| retry.attempt + 1);
                let policy = match self.handlers.policy(kind).after_attempt(tried) {
                    Ok(pause) if !mutated => {
                        input.retry = Some(Retry { attempt: tried, not_before: Instant::now() + pause });
                        return Ok(Progress::Nothing);
                    }
                    // A half-done attempt cannot be repeated in place.
                    Ok(_) => &ErrorPolicy::DeadLetter,
                    Err(policy) => policy,
                };
                let dead_letter = match policy {
                    ErrorPolicy::DeadLetter => true,
                    ErrorPolicy::Continue => false,
                    ErrorPolicy::Fail | ErrorPolicy::Retry { .. } => {
                        return Err(TaskError::Fatal {
                            task: self.id,
                            record: format!("{partition} offset {offset}"),
                            error: message,
                        });
                    }
                };
                warn_sparingly(self.id, &partition, offset, kind, &message);
                if mutated {
                    let poison = PoisonedRecord {
                        partition: partition.clone(),
                        offset,
                        exception,
                        message: message.clone(),
                        dead_letter,
                    };
                    let reason = format!("{partition} offset {offset} failed half-way: {message}");
                    return Err(TaskError::RollBack { task: self.id, poison: Some(Box::new(poison)), reason });
                }
                if dead_letter {
                    self.dead_letters.push(self.dead_letter_queue.record_with(
                        &source_record,
                        &exception,
                        &Told(message),
                    ));
                    metrics::dead_letters(self.id, 1);
                }
            }
        }
        input.retry = None;
        input.next = offset + 1;
        input.queue.advance();
        self.unsealed_records += 1;
        if input.careful_until > 0 {
            self.last_record = Some((partition, offset));
        }
        Ok(Progress::Record)
    }

    /// Whether records are sealed one by one.
    pub fn is_careful(&self) -> bool {
        self.inputs.iter().any(|input| input.next < input.careful_until)
            || (self.unsealed_records > 0
                && self.inputs.iter().any(|input| input.careful_until > 0 && input.next <= input.careful_until))
    }

    /// The record that alone made up the last seal while sealing one by one.
    pub fn last_record(&self) -> Option<&(TopicPartition, i64)> {
        self.last_record.as_ref()
    }

    /// Whether anything waits to be sealed.
    pub fn has_unsealed(&self) -> bool {
        !self.condemned && self.has_news()
    }

    fn has_news(&self) -> bool {
        self.inputs.iter().any(|input| input.next != input.sealed) || !self.dead_letters.is_empty()
    }

    /// Forwards what tables hold back, then freezes rows, outputs and positions as this task's part of a commit.
    pub fn seal(&mut self) -> Result<TaskSeal, TaskError> {
        let flushed = catch_unwind(AssertUnwindSafe(|| self.graph.flush(&mut self.context)));
        let mut rows = Vec::new();
        let result = match flushed {
            Ok(Ok(())) => self
                .graph
                .seal(&mut rows)
                .map_err(|error| (error.kind(), error.exception().to_owned(), error.to_string())),
            Ok(Err(error)) => Err((error.kind(), error.exception().to_owned(), error.to_string())),
            Err(panic) => Err((ErrorKind::Processing, PANIC.to_owned(), panic_text(panic.as_ref()))),
        };
        if let Err((kind, exception, message)) = result {
            return Err(self.refused(kind, exception, message));
        }
        self.unsealed_records = 0;
        self.output_bytes = 0;
        self.outputs_counted = 0;
        let mut offsets = BTreeMap::new();
        for input in &mut self.inputs {
            if input.next != input.sealed {
                input.sealed = input.next;
                let partition = input.queue.partition();
                offsets.insert(partition.clone(), input.next);
                self.position.advance(&partition.topic, partition.partition, input.next - 1);
                if input.next >= input.careful_until {
                    input.careful_until = 0;
                }
            }
        }
        Ok(TaskSeal {
            task: self.id,
            store: Arc::clone(&self.store),
            view: Arc::clone(&self.view),
            rows,
            changelogs: Arc::clone(&self.changelogs),
            outputs: std::mem::take(&mut self.context.outputs),
            sinks: Arc::clone(&self.sinks),
            dead_letters: std::mem::take(&mut self.dead_letters),
            offsets,
            position: self.position.clone(),
            stream_time_ms: self.context.stream_time_ms,
            sealed_at_ms: self.context.wall_clock_ms(),
        })
    }

    /// What follows a result that cannot be committed: by policy the end, or back to the last commit and on one by one until
    /// the record that made it is found.
    pub fn refused(&self, kind: ErrorKind, exception: String, message: String) -> TaskError {
        let handlers_policy = match self.handlers.policy(kind).after_attempt(u32::MAX) {
            Ok(_) => &ErrorPolicy::Fail,
            Err(policy) => policy,
        };
        let dead_letter = match handlers_policy {
            ErrorPolicy::DeadLetter => true,
            ErrorPolicy::Continue => false,
            ErrorPolicy::Fail | ErrorPolicy::Retry { .. } => {
                return TaskError::Fatal {
                    task: self.id,
                    record: "results of the last interval".to_owned(),
                    error: message,
                };
            }
        };
        let poison = self.last_record.clone().filter(|_| self.is_careful()).map(|(partition, offset)| {
            Box::new(PoisonedRecord { partition, offset, exception, message: message.clone(), dead_letter })
        });
        TaskError::RollBack { task: self.id, poison, reason: message }
    }

    /// The last seal is committed and visible.
    pub fn committed(&mut self) {
        self.graph.committed();
        for input in &mut self.inputs {
            if input.sealed > 0 {
                input.committed = StartOffset::At(input.sealed);
            }
        }
        // Kept until here: another rewind would meet them again.
        let inputs = &self.inputs;
        self.poisoned.retain(|(partition, offset), _| {
            inputs.iter().any(|input| input.queue.partition() == partition && *offset >= input.sealed)
        });
    }

    /// Marks the task to go back to its last commit, with one record poisoned, or one by one until the culprit is found.
    /// Until then it neither processes nor seals.
    pub fn condemn(&mut self, poison: Option<PoisonedRecord>) {
        self.condemned = true;
        match poison {
            Some(poison) => {
                self.poisoned.insert((poison.partition.clone(), poison.offset), poison);
            }
            None => {
                for input in &mut self.inputs {
                    input.careful_until = input.careful_until.max(input.next);
                }
            }
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
        self.output_bytes = 0;
        self.outputs_counted = 0;
        for input in &mut self.inputs {
            consumer.seek(&mut input.queue, input.committed)?;
            input.begin_at(input.committed);
        }
        self.condemned = false;
        Ok(())
    }

    /// Bytes of rows and outputs that wait for a seal.
    pub fn dirty_bytes(&mut self) -> usize {
        let fresh = self.context.outputs.get(self.outputs_counted..).unwrap_or_default();
        self.output_bytes += fresh.iter().map(Output::size_bytes).sum::<usize>();
        self.outputs_counted = self.context.outputs.len();
        self.graph.dirty_bytes() + self.output_bytes
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

enum Progress {
    Record,
    Other,
    Nothing,
}

const PANIC: &str = "holdfast.PanicError";

fn attempt(graph: &mut TaskGraph, source: usize, record: &SourceRecord<'_>, context: &mut TaskContext) -> Attempt {
    // A panic in a user's closure costs that record, not the thread. The graph is dropped afterwards: its rows may be half
    // changed, which is why the attempt counts as one that mutated.
    match catch_unwind(AssertUnwindSafe(|| graph.process(source, record, context))) {
        Ok(Ok(())) => Attempt::Done,
        Ok(Err(error)) => Attempt::Failed {
            kind: error.kind(),
            exception: error.exception().to_owned(),
            message: describe(&error),
            mutated: context.mutated,
        },
        Err(panic) => Attempt::Failed {
            kind: ErrorKind::Processing,
            exception: PANIC.to_owned(),
            message: panic_text(panic.as_ref()),
            mutated: true,
        },
    }
}

fn describe(error: &ProcessingError) -> String {
    error.to_string()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a closure panicked: {}", text.unwrap_or("without a message"))
}

/// A line for the operator, at most one a second and task kind: a flood of bad records must not become a flood of logs.
fn warn_sparingly(task: TaskId, partition: &TopicPartition, offset: i64, kind: ErrorKind, message: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT_MS: AtomicU64 = AtomicU64::new(0);
    static SUPPRESSED: AtomicU64 = AtomicU64::new(0);
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let now = START.get_or_init(Instant::now).elapsed();
    let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let due = NEXT_MS.load(Ordering::Relaxed);
    if now_ms < due
        || NEXT_MS
            .compare_exchange(
                due,
                now_ms + Duration::from_secs(1).as_millis() as u64,
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .is_err()
    {
        SUPPRESSED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let suppressed = SUPPRESSED.swap(0, Ordering::Relaxed);
    warn!(%task, record = %format_args!("{partition} offset {offset}"), kind = kind.as_str(), error = message, suppressed,
        "a record failed and is handled by the error policy");
}
