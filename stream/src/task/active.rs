//! An active task: takes fetched records through its graph, and seals what came of them.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_store::TaskStore;
use holdfast_types::{Position, TaskId, TopicPartition};
use tracing::{info, warn};

use super::{
    Burial, Input, Mark, MarkedRecord, RecordInHand, ResolvedSink, TaskError, TaskSeal,
    careful::Steps,
    input::{NOT_SEALED, Retry},
    report::Report,
    watch::Stopwatch,
};
use crate::{
    engine::{TaskView, metrics},
    errors::{self, DeadLetter, DeadLetterQueue, ErrorHandlers, Failure},
    kafka::{
        FetchConsumer, FetchError, Fetched, StartOffset,
        limits::{Limits, Refusal, batch_bytes},
    },
    processor::{Header, Output, SealedRow, SourceRecord, TaskContext, TaskGraph},
};

/// How much a task takes before others have their turn: commits are on time, and a shutdown is heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SliceLimits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

/// A record that the graph did not take.
struct Failed {
    failure: Failure,
    /// Whether it changed something before it failed: then the task must go back.
    half_way: bool,
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

    /// Processes fetched records up to `limits`; returns how many there were.
    pub(crate) fn process(&mut self, limits: &SliceLimits) -> Result<usize, TaskError> {
        let (mut processed, mut bytes) = (0, 0);
        if self.forwarding {
            return Ok(0);
        }
        let began = Instant::now();
        self.stopwatch.start(began);
        self.hand.enter(&self.partitions);
        let mut result = Ok(());
        while processed < limits.records && bytes < limits.bytes && !self.condemned && !self.step_ends() {
            let Some(input) = self.next_input() else { break };
            match self.process_next(input) {
                Ok(Progress::Record(size)) => {
                    processed += 1;
                    bytes += size;
                }
                Ok(Progress::Other) => continue,
                Ok(Progress::Nothing) => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
            if let Some(now) = self.stopwatch.lap(&self.hand) {
                self.look_at_the_clock(input, now);
                if now - began >= limits.time {
                    break;
                }
            }
        }
        self.hand.leave();
        if processed > 0 {
            if let Some(input) = self.next_input().or(Some(0)) {
                self.look_at_the_clock(input, Instant::now());
            }
            metrics::processed(self.id, processed as u64);
            let dropped = self.context.dropped.total();
            if dropped > self.dropped_told {
                metrics::skipped(self.id, dropped - self.dropped_told);
                self.dropped_told = dropped;
            }
        }
        self.report.tell_rest();
        result.map(|()| processed)
    }

    fn look_at_the_clock(&mut self, input: usize, now: Instant) {
        if let Some((took, records)) = self.stopwatch.look(now)
            && let Some(input) = self.inputs.get(input)
        {
            self.report.slow(input.queue.partition(), input.next - 1, records, took);
        }
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
                if std::mem::take(&mut input.denied) {
                    info!(%partition, "the input can be read again");
                }
                return Ok(Progress::Other);
            }
            Some(Fetched::Error(error)) if error.is_passing() => {
                if error.is_denied() && !std::mem::replace(&mut input.denied, true) {
                    warn!(
                        task = %self.id, %partition,
                        "this user may not read the input topic {}: the task waits until it has the Read permission",
                        partition.topic
                    );
                }
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
        if std::mem::take(&mut input.denied) {
            info!(%partition, "the input can be read again");
        }
        if offset < input.next {
            input.queue.advance();
            return Ok(Progress::Other);
        }
        let headers: Vec<Header> = record
            .headers()
            .into_iter()
            .map(|(name, value)| Header { key: name.into(), value: value.map(Bytes::copy_from_slice) })
            .collect();
        // A record without a time stamp takes the task's time, as Kafka Streams' UsePartitionTimeOnInvalidTimestamp does; but
        // never one to come, which a single record from a broken clock may have made the task's.
        let timestamp_ms = match record.timestamp_ms() {
            time if time >= 0 => time,
            _ if self.context.stream_time_ms >= 0 => self.context.stream_time_ms.min(self.context.wall_clock_ms()),
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
        let size = source_record.size_bytes();
        let mark = if self.marked.is_empty() { None } else { self.marked.get(&(partition.clone(), offset)) };
        let burial = match mark {
            Some(Mark { poison: Some(failure), burial }) => Some((failure.clone(), *burial)),
            _ => {
                self.hand.begin(index, offset);
                match attempt(&mut self.graph, input.source, &source_record, &mut self.context) {
                    Ok(()) => None,
                    Err(Failed { failure, half_way }) => {
                        let tried = input.retry.as_ref().map_or(1, |retry| retry.attempt + 1);
                        let policy = match self.handlers.policy(failure.kind).after_attempt(tried) {
                            Ok(pause) if !half_way => {
                                input.retry = Some(Retry { attempt: tried, not_before: Instant::now() + pause });
                                return Ok(Progress::Nothing);
                            }
                            // A half-done attempt cannot be repeated in place.
                            Ok(_) => self.handlers.policy(failure.kind).last(),
                            Err(policy) => policy,
                        };
                        let Some(by_policy) = Burial::by(policy) else {
                            return Err(TaskError::Fatal {
                                task: self.id,
                                record: format!("{partition} offset {offset}"),
                                error: failure.message,
                            });
                        };
                        self.report.failed(&partition, offset, &failure);
                        let burial = mark.map_or(by_policy, |mark| mark.burial);
                        if half_way {
                            let reason = format!("{partition} offset {offset} failed half-way: {}", failure.message);
                            let mark = Mark { poison: Some(failure), burial };
                            let marked = Some(Box::new(MarkedRecord { partition, offset, mark }));
                            return Err(TaskError::RollBack { task: self.id, marked, reason });
                        }
                        Some((failure, burial))
                    }
                }
            }
        };
        if let Some((failure, burial)) = burial {
            let now_ms = self.context.wall_clock_ms();
            let letter = match burial {
                Burial::Letter => Some(self.dead_letter_queue.record(&source_record, &failure, now_ms)),
                Burial::BareLetter => Some(self.dead_letter_queue.bare_record(&source_record, &failure, now_ms)),
                Burial::Skip => None,
            };
            if let Some(letter) = letter {
                self.letter_bytes += letter.size_bytes();
                self.dead_letters.push(letter);
            }
        }
        input.retry = None;
        input.next = offset + 1;
        input.queue.advance();
        self.unsealed_records += 1;
        if input.careful_until > 0 {
            self.last_record = Some((partition, offset));
        }
        Ok(Progress::Record(size))
    }

    /// Whether anything waits to be sealed.
    pub fn has_unsealed(&self) -> bool {
        !self.condemned && self.has_news()
    }

    fn has_news(&self) -> bool {
        self.inputs.iter().any(|input| input.next != input.sealed) || !self.dead_letters.is_empty()
    }

    /// Forwards what tables hold back, then freezes rows, outputs and positions as this task's part of a commit. `None` when
    /// `time` was too short to forward everything: to be called again, and until then the task takes no records.
    pub fn seal(&mut self, time: Duration) -> Result<Option<TaskSeal>, TaskError> {
        self.steps.sealing(self.unsealed_records);
        if !self.forward(time)? {
            return Ok(None);
        }
        let mut rows = Vec::new();
        let graph = &mut self.graph;
        let sealed = match errors::catch(|| graph.seal(&mut rows)) {
            Ok(Ok(())) => self.check(&rows).map_err(Failure::refused_result),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(panic) => Err(Failure::of_panic(&panic)),
        };
        if let Err(failure) = sealed {
            return Err(self.refused(failure));
        }
        self.unsealed_records = 0;
        self.output_bytes = 0;
        self.outputs_counted = 0;
        self.letter_bytes = 0;
        self.sealed_letters = self.dead_letters.len() as u64;
        let mut offsets = BTreeMap::new();
        for input in &mut self.inputs {
            if input.next != input.sealed {
                input.sealed = input.next;
                let partition = input.queue.partition();
                offsets.insert(partition.clone(), input.next);
                if input.next > 0 {
                    self.position.advance(&partition.topic, partition.partition, input.next - 1);
                }
                if input.next >= input.careful_until {
                    input.careful_until = 0;
                }
            }
        }
        Ok(Some(TaskSeal {
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
        }))
    }

    /// Forwards changed rows for about `time`; whether all are.
    fn forward(&mut self, time: Duration) -> Result<bool, TaskError> {
        let began = Instant::now();
        self.hand.enter(&self.partitions);
        // Rows are forwarded in the name of the last record that was processed.
        let last = self.inputs.iter().enumerate().find(|(_, input)| input.next != input.sealed);
        let last = last.map(|(index, input)| (index, input.queue.partition().clone(), input.next - 1));
        if let Some((index, _, offset)) = &last {
            self.hand.begin(*index, *offset);
        }
        let (graph, context) = (&mut self.graph, &mut self.context);
        let forwarded = errors::catch(|| graph.flush(context, Some(began + time)));
        self.hand.leave();
        if let (Some((took, rows)), Some((_, partition, offset))) = (self.context.slow_rows.take(), last) {
            self.report.slow(&partition, offset, u32::try_from(rows).unwrap_or(u32::MAX).max(2), took);
        }
        let failure = match forwarded {
            Ok(Ok(all)) => {
                self.forwarding = !all;
                return Ok(all);
            }
            Ok(Err(error)) => Failure::of(&error),
            Err(panic) => Failure::of_panic(&panic),
        };
        self.forwarding = false;
        Err(self.refused(failure))
    }

    /// Whether a seal waits for rows to be forwarded: the task takes no records meanwhile.
    pub fn is_forwarding(&self) -> bool {
        self.forwarding
    }

    /// Whether every topic takes what it is to get; in words if not.
    fn check(&self, rows: &[Vec<SealedRow>]) -> Result<(), String> {
        let now_ms = self.context.wall_clock_ms();
        let refused = |what: &str, topic: &str, refusal: Refusal| Err(format!("{what} for {topic}: {refusal}"));
        for (rows, changelog) in rows.iter().zip(self.changelogs.iter()) {
            let Some(changelog) = changelog else { continue };
            let limits = self.limits.of(&changelog.topic);
            for row in rows {
                let bytes = batch_bytes(Some(&row.key), row.value.as_deref(), &[]);
                if let Err(refusal) = limits.check(bytes, row.timestamp_ms, now_ms) {
                    return refused("a row", &changelog.topic, refusal);
                }
            }
        }
        let limits: Vec<_> = self.sinks.iter().map(|sink| self.limits.of(&sink.topic)).collect();
        for output in &self.context.outputs {
            let (Some(sink), Some(limits)) = (self.sinks.get(output.sink), limits.get(output.sink)) else { continue };
            let bytes = batch_bytes(output.key.as_deref(), output.value.as_deref(), &output.headers);
            if let Err(refusal) = limits.check(bytes, output.timestamp_ms, now_ms) {
                return refused("a record", &sink.topic, refusal);
            }
        }
        Ok(())
    }

    /// The last seal is committed and visible.
    pub fn committed(&mut self) {
        self.graph.committed();
        if self.sealed_letters > 0 {
            metrics::dead_letters(self.id, std::mem::take(&mut self.sealed_letters));
        }
        self.step_committed();
        for input in &mut self.inputs {
            if input.sealed > 0 {
                input.committed = StartOffset::At(input.sealed);
            }
        }
        // Kept until here: another rewind would meet them again.
        let inputs = &self.inputs;
        self.marked.retain(|(partition, offset), _| {
            inputs.iter().any(|input| input.queue.partition() == partition && *offset >= input.sealed)
        });
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
        self.view.publish(self.position.clone());
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

enum Progress {
    /// A record of so many bytes.
    Record(usize),
    Other,
    Nothing,
}

/// Takes a record through the graph. A panic in a user's closure costs that record, not the thread.
fn attempt(
    graph: &mut TaskGraph,
    source: usize,
    record: &SourceRecord<'_>,
    context: &mut TaskContext,
) -> Result<(), Failed> {
    let failure = match errors::catch(|| graph.process(source, record, context)) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => Failure::of(&error),
        Err(panic) => {
            context.record_panicked();
            Failure::of_panic(&panic)
        }
    };
    Err(Failed { failure, half_way: context.mutated })
}
