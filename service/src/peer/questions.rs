//! What is counted of the questions that are put to peers. Handles are looked up once: a look-up of a metric costs as much as
//! that of a row.

use std::time::{Duration, Instant};

use metrics::{Counter, Histogram};

use crate::{query::QueryError, telemetry::names};

/// The kinds of questions.
pub(super) struct Questions {
    pub(super) get: Kind,
    pub(super) batch: Kind,
    pub(super) scan: Kind,
}

/// The metrics of one kind.
pub(super) struct Kind {
    duration: Histogram,
    answered: Counter,
    refused: Counter,
    unreachable: Counter,
    timed_out: Counter,
    abandoned: Counter,
}

impl Questions {
    pub(super) fn new() -> Self {
        Self { get: Kind::new("get"), batch: Kind::new("batch"), scan: Kind::new("scan") }
    }
}

impl std::fmt::Debug for Questions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Questions").finish_non_exhaustive()
    }
}

impl Kind {
    fn new(kind: &'static str) -> Self {
        let outcome = |outcome: &'static str| metrics::counter!(names::FORWARDS, "kind" => kind, "outcome" => outcome);
        Self {
            duration: metrics::histogram!(names::FORWARD_DURATION, "kind" => kind),
            answered: outcome("answered"),
            refused: outcome("refused"),
            unreachable: outcome("unreachable"),
            timed_out: outcome("timed_out"),
            abandoned: outcome("abandoned"),
        }
    }

    /// A question goes out, with the time that it has.
    pub(super) fn begin(&self, timeout: Option<Duration>) -> Asked<'_> {
        Asked { kind: self, began: Instant::now(), timeout, told: false }
    }
}

/// A question on its way. One that is dropped was waited for in vain, or somebody else answered before.
pub(super) struct Asked<'a> {
    kind: &'a Kind,
    began: Instant,
    timeout: Option<Duration>,
    told: bool,
}

impl Asked<'_> {
    pub(super) fn ended<T>(mut self, outcome: &Result<T, QueryError>) {
        self.told = true;
        let counter = match outcome {
            Ok(_) => &self.kind.answered,
            Err(QueryError::OwnerUnreachable { .. }) => &self.kind.unreachable,
            Err(_) => &self.kind.refused,
        };
        counter.increment(1);
        self.kind.duration.record(self.began.elapsed().as_secs_f64());
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        let elapsed = self.began.elapsed();
        if self.timeout.is_some_and(|timeout| elapsed >= timeout) {
            self.kind.timed_out.increment(1);
            self.kind.duration.record(elapsed.as_secs_f64());
        } else {
            self.kind.abandoned.increment(1);
        }
    }
}
