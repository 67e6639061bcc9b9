//! The link to the coordinator: whether it is known and answers. Independent of the membership.

use std::time::{Duration, Instant};

use super::{Action, Machine, WaitKind};

/// Failures, or time with failures only, after which the instance is told. A coordinator that moves is silent for less.
const PATIENCE: (u32, Duration) = (3, Duration::from_secs(1));

/// The link.
#[derive(Debug)]
pub(super) struct Link {
    state: LinkState,
    failures: u32,
    failing_since: Option<Instant>,
}

#[derive(Debug)]
enum LinkState {
    /// The coordinator has to be looked for, at the given time.
    Down { retry_at: Instant },
    /// Somebody is looking.
    Seeking,
    /// It is known, and nothing speaks against it.
    Up,
}

impl Link {
    pub(super) fn new(now: Instant) -> Self {
        Self { state: LinkState::Down { retry_at: now }, failures: 0, failing_since: None }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, LinkState::Up)
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        match self.state {
            LinkState::Down { retry_at } => Some(retry_at),
            _ => None,
        }
    }

    /// The coordinator answered, as coordinator.
    pub(super) fn works(&mut self) {
        self.failures = 0;
        self.failing_since = None;
    }
}

impl Machine {
    pub(super) fn on_coordinator_found(&mut self, now: Instant) {
        self.link.state = LinkState::Up;
        // Whether it is the right one is known after its first answer.
        self.heartbeat.hurry(now);
    }

    /// The coordinator does not answer, or is no longer the coordinator, or cannot be found.
    pub(super) fn on_link_failure(&mut self, now: Instant, reason: String, out: &mut Vec<Action>) {
        if let LinkState::Down { .. } = self.link.state {
            return;
        }
        self.link.failures = self.link.failures.saturating_add(1);
        let failing_since = *self.link.failing_since.get_or_insert(now);
        // The first attempt costs no wait: most often the coordinator has just moved.
        let wait = match self.link.failures {
            1 => Duration::ZERO,
            more => self.settings.backoff(more - 1),
        };
        self.link.state = LinkState::Down { retry_at: now + wait };
        let (failures, time) = PATIENCE;
        if self.link.failures >= failures || now.saturating_duration_since(failing_since) >= time {
            self.wait(WaitKind::Unreachable, reason, out);
        } else {
            tracing::debug!(group = %self.settings.group_id, reason, "looking for the group coordinator");
        }
    }

    pub(super) fn drive_link(&mut self, now: Instant, out: &mut Vec<Action>) {
        if let LinkState::Down { retry_at } = self.link.state
            && now >= retry_at
        {
            self.link.state = LinkState::Seeking;
            out.push(Action::FindCoordinator);
        }
    }
}
