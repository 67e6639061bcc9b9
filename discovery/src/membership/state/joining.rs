//! JoinGroup is out; the coordinator answers when all members have joined, or the rebalance timeout has passed.

use std::{sync::Arc, time::Instant};

use super::{Action, Joined, Machine, Refusal, State, Ticket};
use crate::{membership::leader, wire::error::code};

impl Machine {
    pub(super) fn on_joined(
        &mut self,
        now: Instant,
        ticket: Ticket,
        answer: Result<Joined, Refusal>,
        out: &mut Vec<Action>,
    ) {
        let State::Joining { ticket: expected, held } = self.state else { return };
        if expected != ticket {
            return;
        }
        match answer {
            Ok(joined) => {
                self.link.works();
                self.begin_generation(now, joined, held, out);
            }
            Err(Refusal::MemberIdRequired(member_id)) => {
                self.link.works();
                self.member_id = member_id;
                self.state = State::JoinDue { at: now, held: None };
            }
            Err(Refusal::Code(code::UNKNOWN_MEMBER_ID | code::FENCED_INSTANCE_ID)) => {
                self.link.works();
                self.removed(now, "the coordinator removed this member from the group".to_owned(), out);
            }
            Err(Refusal::Code(code::ILLEGAL_GENERATION | code::REBALANCE_IN_PROGRESS)) => {
                self.link.works();
                self.retry_join(now);
            }
            Err(Refusal::Code(code)) if !code::is_coordinator_away(code) => {
                self.link.works();
                let reason = self.refusal(code);
                self.join_failed(now, reason, out);
            }
            Err(away) => {
                self.retry_join(now);
                self.on_link_failure(now, away.to_string(), out);
            }
        }
    }

    fn begin_generation(&mut self, now: Instant, joined: Joined, held: Option<i32>, out: &mut Vec<Action>) {
        let Joined { generation, member_id, lead } = joined;
        let leads = lead.is_some();
        let assignments = match lead.map(|lead| leader::assign(lead, &self.settings.assignor)).transpose() {
            Ok(None) => {
                self.probe_at = None;
                Vec::new()
            }
            Ok(Some(assignments)) => {
                let (members, withheld) = (assignments.bytes.len(), assignments.withheld.len());
                let warm_ups = assignments.warm_ups;
                tracing::info!(
                    group = %self.settings.group_id, generation, members, withheld, warm_ups, "assigned tasks as the leader"
                );
                // A rebalance takes as long as the heartbeat by which the last member hears of it.
                self.probe_at = assignments.follow_up_in.map(|wait| now + wait.max(self.settings.heartbeat_interval));
                assignments.bytes
            }
            Err(reason) => return self.join_failed(now, format!("tasks cannot be assigned: {reason}"), out),
        };
        if held.is_none() {
            // Counted in from here on; a member that only moves on keeps what its heartbeats said.
            self.confirmed_at = Some(now);
        }
        self.join_failures = 0;
        self.member_id = member_id;
        let ticket = self.ticket();
        self.state = State::Syncing { ticket, generation, sent_at: now };
        tracing::debug!(group = %self.settings.group_id, generation, leads, "generation began");
        out.push(Action::Sync { ticket, generation, member_id: Arc::clone(&self.member_id), assignments });
    }

    /// What an operator needs to know about a refusal that lasts.
    fn refusal(&self, code: i16) -> String {
        let group = &self.settings.group_id;
        let name = Refusal::Code(code);
        match code {
            code::INCONSISTENT_GROUP_PROTOCOL => format!(
                "{name}: group {group} has members that are not Holdfast instances (a Java Kafka Streams or plain consumer \
                 application with the same id); stop them, or choose another application_id"
            ),
            code::GROUP_AUTHORIZATION_FAILED => {
                format!(
                    "{name}: the principal of this connection may not join group {group}; grant it READ on the group"
                )
            }
            code::GROUP_MAX_SIZE_REACHED => {
                format!("{name}: group {group} is full; raise the broker's group.max.size or start fewer instances")
            }
            code::INVALID_SESSION_TIMEOUT => format!(
                "{name}: session_timeout_ms={} is outside the broker's group.min.session.timeout.ms and \
                 group.max.session.timeout.ms",
                self.settings.session_timeout.as_millis()
            ),
            _ => format!("{name}: the coordinator refuses to let this instance join group {group}"),
        }
    }
}
