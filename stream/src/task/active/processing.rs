//! Taking fetched records through the graph, one after the other.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{info, warn};

use super::ActiveTask;
use crate::{
    engine::metrics,
    errors::{self, Failure},
    kafka::Fetched,
    processor::{Header, SourceRecord, TaskContext, TaskGraph},
    task::{Burial, Mark, MarkedRecord, TaskError, input::Retry},
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

impl ActiveTask {
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
