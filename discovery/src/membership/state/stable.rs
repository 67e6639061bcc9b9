//! Assigned: heartbeats tell when that changes.

use std::time::Instant;

use super::{Action, Machine, Refusal, State, WaitKind};
use crate::wire::error::code;

impl Machine {
    /// Another member joined, left or asked; commits go on under the old generation until the new one begins.
    pub(super) fn rejoin_after(&mut self, now: Instant, generation: i32) {
        self.state = State::JoinDue { at: now, held: Some(generation) };
    }

    /// Asks for the follow-up rebalance when nobody has done so in time.
    pub(super) fn drive_probe(&mut self, now: Instant) {
        if self.probe_due_at().is_some_and(|at| now >= at) {
            let levels = self.level_at.is_some_and(|at| now >= at);
            (self.probe_at, self.level_at) = (None, None);
            self.want_rejoin(if levels {
                "what was given up was let go of long enough ago".to_owned()
            } else {
                "copies may have caught up, or a drained process may not be back in time".to_owned()
            });
        }
    }

    pub(super) fn probe_due_at(&self) -> Option<Instant> {
        let due = self.probe_at.into_iter().chain(self.level_at).min();
        due.filter(|_| matches!(self.state, State::Stable { .. }))
    }

    pub(super) fn on_heartbeat_refused(&mut self, now: Instant, code: i16, out: &mut Vec<Action>) {
        match code {
            code::UNKNOWN_MEMBER_ID | code::FENCED_INSTANCE_ID => {
                self.removed(now, "the coordinator removed this member from the group".to_owned(), out);
            }
            // The group went on without this member: a rebalance ended in which it had no part.
            code::ILLEGAL_GENERATION => {
                self.lose(now, "the group is in a later generation than this member".to_owned(), out);
            }
            other => {
                let reason = format!("heartbeats are refused: {}", Refusal::Code(other));
                self.wait(WaitKind::Refused, reason, out);
            }
        }
    }
}
