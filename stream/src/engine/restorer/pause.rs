//! A step that has to wait for something outside: tried again soon, told once.

use std::time::{Duration, Instant};

const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Whether a task waits, and for what.
#[derive(Debug, Default)]
pub(super) struct Pause {
    reason: Option<String>,
    not_before: Option<Instant>,
}

impl Pause {
    /// Whether the next attempt is not due yet.
    pub(super) fn holds(&self) -> bool {
        self.not_before.is_some_and(|at| Instant::now() < at)
    }

    /// Waits before the next attempt; whether that is news.
    pub(super) fn begin(&mut self, reason: String) -> bool {
        self.not_before = Some(Instant::now() + RETRY_PAUSE);
        self.reason.replace(reason).is_none()
    }

    /// What was waited for is there.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}
