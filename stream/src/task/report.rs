//! What an operator is told of records that fail or are slow: a line for the first, then one in a while for all.

use std::time::{Duration, Instant};

use holdfast_types::{TaskId, TopicPartition};
use tracing::{error, warn};

use crate::{
    engine::metrics,
    errors::{Failure, Sparingly},
};

/// Time between two lines of one task about records that fail.
const PAUSE: Duration = Duration::from_secs(5);
/// Time between two lines of one task about slow records: where processors are short, records are slow all the time.
const SLOW_PAUSE: Duration = Duration::from_secs(60);

/// The lines of one task.
#[derive(Debug)]
pub(super) struct Report {
    task: TaskId,
    failures: Sparingly,
    slow: Sparingly,
    lost: Sparingly,
}

impl Report {
    pub(super) fn new(task: TaskId) -> Self {
        let (failures, lost) = (Sparingly::new(PAUSE), Sparingly::new(PAUSE));
        Self { task, failures, slow: Sparingly::new(SLOW_PAUSE), lost }
    }

    /// A record failed.
    pub(super) fn failed(&mut self, partition: &TopicPartition, offset: i64, failure: &Failure) {
        metrics::failed(self.task, failure.kind);
        if let Some(not_shown) = self.failures.admit(Instant::now()) {
            warn!(
                task = %self.task,
                record = %format_args!("{partition} offset {offset}"),
                kind = failure.kind.as_str(),
                error = failure.message,
                not_shown,
                "a record failed and is handled by the error policy"
            );
        }
    }

    /// A record failed, and its topic refuses even the smallest dead letter: it stands nowhere but in its input topic.
    pub(super) fn lost(&mut self, partition: &TopicPartition, offset: i64, reason: &str) {
        if let Some(not_shown) = self.lost.admit(Instant::now()) {
            error!(
                task = %self.task,
                record = %format_args!("{partition} offset {offset}"),
                error = reason,
                not_shown,
                "a record failed, and the dead-letter topic refuses its dead letter; it is skipped"
            );
        }
    }

    /// Records took long: one of `records` up to `offset`, mostly the one.
    pub(super) fn slow(&mut self, partition: &TopicPartition, offset: i64, records: u32, took: Duration) {
        metrics::slow_record(self.task, took);
        if let Some(not_shown) = self.slow.admit(Instant::now()) {
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            match records {
                1 => warn!(
                    task = %self.task,
                    record = %format_args!("{partition} offset {offset}"),
                    took_ms,
                    not_shown,
                    "a record took long to process"
                ),
                _ => warn!(
                    task = %self.task,
                    record = %format_args!("{partition}, one of {records} up to offset {offset}"),
                    took_ms,
                    not_shown,
                    "a record took long to process"
                ),
            }
        }
    }

    /// Tells of what was held back and is not followed by anything.
    pub(super) fn tell_rest(&mut self) {
        if !self.failures.holds_back() && !self.slow.holds_back() && !self.lost.holds_back() {
            return;
        }
        let now = Instant::now();
        if let Some(not_shown) = self.failures.rest(now) {
            warn!(task = %self.task, not_shown, "more records failed and were handled by the error policy");
        }
        if let Some(not_shown) = self.slow.rest(now) {
            warn!(task = %self.task, not_shown, "more records took long to process");
        }
        if let Some(not_shown) = self.lost.rest(now) {
            error!(task = %self.task, not_shown, "more dead letters were refused by the dead-letter topic");
        }
    }
}
