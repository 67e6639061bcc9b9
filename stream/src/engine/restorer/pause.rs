//! A step that has to wait for something outside: tried again soon, told now and then.

use std::time::{Duration, Instant};

const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What is waited for may change with each attempt; a new reason is told, but not each of several in turns.
const TELL_PAUSE: Duration = Duration::from_secs(10);

/// Whether a task waits, and for what.
#[derive(Debug, Default)]
pub(super) struct Pause {
    told: Option<(String, Instant)>,
    not_before: Option<Instant>,
}

impl Pause {
    /// Whether the next attempt is not due yet.
    pub(super) fn holds(&self) -> bool {
        self.not_before.is_some_and(|at| Instant::now() < at)
    }

    /// Waits before the next attempt; whether that is to be told.
    pub(super) fn begin(&mut self, reason: &str) -> bool {
        let now = Instant::now();
        self.not_before = Some(now + RETRY_PAUSE);
        let tell = self.told.as_ref().is_none_or(|(told, at)| told != reason && now > *at + TELL_PAUSE);
        if tell {
            self.told = Some((reason.to_owned(), now));
        }
        tell
    }

    /// What was waited for is there.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}
