//! Whether one peer answers: counted refusals, and the time since the first question that it left unanswered.

use std::time::{Duration, Instant};

use super::Condition;

/// Refusals in a row that make a peer gone: one may hit a listener that is just being replaced.
const REFUSALS: u32 = 3;
/// Time without an answer after which a peer is slow. Answers take well under a millisecond.
pub(super) const SLOW_AFTER: Duration = Duration::from_millis(200);
/// What a peer sent before it ended may arrive so much after the first refusal.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// How long is too long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Silence after which a peer is held to be gone.
    pub(super) silent: Duration,
    /// Refusals for so long: one that lives asks itself meanwhile.
    pub(super) refused: Duration,
}

/// One peer's answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Liveness {
    heard: Option<Instant>,
    /// When the first question was sent that nothing was heard after.
    asked: Option<Instant>,
    refusals: u32,
    refused: Option<Instant>,
    /// Whether its address answers, as far as known: one that never did, or that refuses while the peer itself goes on asking,
    /// says nothing about the process behind it (a wrong `peer_advertise`, a network policy).
    answers: bool,
}

impl Liveness {
    /// A question goes out.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    /// It answered a question.
    pub(super) fn answered(&mut self, now: Instant) {
        *self = Self { heard: Some(now), answers: true, ..Self::default() };
    }

    /// It asked itself.
    pub(super) fn heard(&mut self, now: Instant) {
        let refuses = self.refused.is_some_and(|at| now >= at + LAST_WORDS);
        *self = Self { heard: Some(now), answers: self.answers && !refuses, ..Self::default() };
    }

    /// Nobody listens there, or the connection was reset: an answer of a kind, after which silence begins anew.
    pub(super) fn refused(&mut self, now: Instant) {
        self.refusals = self.refusals.saturating_add(1);
        self.refused.get_or_insert(now);
        if self.answers {
            self.asked = None;
        }
    }

    /// Time that passed while this process itself stood still is nobody's silence.
    pub(super) fn forgive(&mut self, stood_still: Duration) {
        self.asked = self.asked.map(|asked| asked + stood_still);
    }

    /// Whether its address answers, as far as known.
    pub(super) fn answers(&self) -> bool {
        self.answers
    }

    /// Whether its address refuses, and nothing was ever heard of it: it died before it could answer, or its address is wrong and
    /// it cannot reach this instance either.
    pub(super) fn refuses_unheard(&self) -> bool {
        self.heard.is_none() && self.refusals >= REFUSALS
    }

    pub(super) fn last_heard(&self) -> Option<Instant> {
        self.heard
    }

    pub(super) fn condition(&self, now: Instant, limits: Limits) -> Condition {
        let since = |at: Option<Instant>| at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let unanswered = since(self.asked);
        if self.answers && self.refusals >= REFUSALS && since(self.refused) >= limits.refused {
            Condition::Refused
        } else if unanswered >= limits.silent {
            Condition::Silent
        } else if self.refusals > 0 || unanswered >= SLOW_AFTER {
            Condition::Slow
        } else {
            Condition::Alive
        }
    }
}
