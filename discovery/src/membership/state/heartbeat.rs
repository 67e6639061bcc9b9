//! Heartbeats: in every state in which a generation is held, also while a rebalance goes on, on their own connection.

use std::time::{Duration, Instant};

use super::{Action, Machine, Refusal, State, Ticket};
use crate::wire::error::code;

/// While tasks change hands, a heartbeat follows the one before so soon for each member of the group: the coordinator gets no more
/// than two hundred a second from all of them.
const HAND_OVER_PER_MEMBER: Duration = Duration::from_millis(5);
/// But no sooner than this, and at least so many times as often as usual.
const HAND_OVER_SOONEST: Duration = Duration::from_millis(50);
const HAND_OVER_FASTER: u32 = 10;

/// When the next heartbeat goes out, or which one is out.
#[derive(Debug)]
pub(super) struct Heartbeat {
    next_at: Instant,
    out: Option<Sent>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    ticket: Ticket,
    at: Instant,
    generation: i32,
}

impl Heartbeat {
    pub(super) fn new(now: Instant) -> Self {
        Self { next_at: now, out: None }
    }

    /// Sends the next one now.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next_at = self.next_at.min(now);
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        self.out.is_none().then_some(self.next_at)
    }
}

impl Machine {
    pub(super) fn drive_heartbeat(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(generation) = self.held() else { return };
        if !self.link.is_up() || self.heartbeat.due_at().is_none_or(|at| now < at) {
            return;
        }
        let ticket = self.ticket();
        self.heartbeat.out = Some(Sent { ticket, at: now, generation });
        self.heartbeat.next_at = now + self.heartbeat_interval(now);
        out.push(Action::Heartbeat { ticket, generation, member_id: self.member_id.clone() });
    }

    /// The rebalance that gives tasks out waits for whoever hears of it last, and nobody processes them meanwhile.
    fn heartbeat_interval(&self, now: Instant) -> Duration {
        let usual = self.settings.heartbeat_interval;
        if !self.following.is_handing_over(now) {
            return usual;
        }
        let members = u32::try_from(self.members).unwrap_or(u32::MAX);
        HAND_OVER_PER_MEMBER.saturating_mul(members).max(HAND_OVER_SOONEST).min(usual / HAND_OVER_FASTER)
    }

    pub(super) fn on_heartbeat(
        &mut self,
        now: Instant,
        ticket: Ticket,
        answer: Result<(), Refusal>,
        out: &mut Vec<Action>,
    ) {
        let Some(sent) = self.heartbeat.out.take_if(|sent| sent.ticket == ticket) else { return };
        let code = match answer {
            Ok(()) => code::NONE,
            Err(Refusal::Code(code)) if code::is_coordinator_away(code) => {
                return self.on_link_failure(now, Refusal::Code(code).to_string(), out);
            }
            Err(Refusal::Code(code)) => code,
            Err(refusal) => return self.on_link_failure(now, refusal.to_string(), out),
        };
        self.link.works();
        match code {
            code::NONE | code::REBALANCE_IN_PROGRESS => {
                self.confirm(sent.at);
                if let State::Stable { generation } = self.state {
                    self.recovered(out);
                    if code == code::REBALANCE_IN_PROGRESS {
                        self.rejoin_after(now, generation);
                    }
                }
            }
            // While a join or sync is out its answer decides: this one may have been overtaken by the new generation.
            _ => {
                if let State::Stable { generation } = self.state
                    && generation == sent.generation
                {
                    self.on_heartbeat_refused(now, code, out);
                }
            }
        }
    }

    /// The coordinator confirmed what was asked at `sent_at`: it counted this member in at some time after that.
    pub(super) fn confirm(&mut self, sent_at: Instant) {
        if self.held().is_some() {
            self.confirmed_at = self.confirmed_at.max(Some(sent_at));
        }
    }
}
