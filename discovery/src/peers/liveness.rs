//! Whether one peer answers: counted refusals, and the time since the first question that it left unanswered.

use std::time::{Duration, Instant};

use super::Condition;

/// Refusals in a row that make a peer gone: one may hit a listener that is just being replaced.
const REFUSALS: u32 = 3;
/// Time without an answer after which a peer is slow. Answers take well under a millisecond.
pub(super) const SLOW_AFTER: Duration = Duration::from_millis(200);

/// One peer's answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Liveness {
    heard: Option<Instant>,
    /// When the first question was sent that nothing was heard after.
    asked: Option<Instant>,
    refusals: u32,
}

impl Liveness {
    /// A question goes out.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    /// It answered, or asked itself.
    pub(super) fn heard(&mut self, now: Instant) {
        *self = Self { heard: Some(now), asked: None, refusals: 0 };
    }

    /// Nobody listens there, or the connection was reset: an answer of a kind, after which silence begins anew.
    pub(super) fn refused(&mut self) {
        self.refusals = self.refusals.saturating_add(1);
        self.asked = None;
    }

    /// Time that passed while this process itself stood still is nobody's silence.
    pub(super) fn forgive(&mut self, stood_still: Duration) {
        self.asked = self.asked.map(|asked| asked + stood_still);
    }

    pub(super) fn last_heard(&self) -> Option<Instant> {
        self.heard
    }

    pub(super) fn condition(&self, now: Instant, timeout: Duration) -> Condition {
        let unanswered = self.asked.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked));
        if self.refusals >= REFUSALS {
            Condition::Refused
        } else if unanswered >= timeout {
            Condition::Silent
        } else if self.refusals > 0 || unanswered >= SLOW_AFTER {
            Condition::Slow
        } else {
            Condition::Alive
        }
    }
}
