//! The generation began; SyncGroup brings this member's assignment once the leader has sent all of them.

use std::{
    mem,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_types::{Assignment, TaskId};

use super::{Action, Machine, Refusal, State, Ticket, WaitKind};
use crate::{
    GroupEvent,
    membership::{
        protocol,
        userdata::{AssignmentData, ReservationData},
    },
    wire::error::code,
};

/// How long a member that cannot read what it is assigned stays away: its coming and its going are a rebalance each.
pub(super) const STEPS_OUT_FOR: Duration = Duration::from_secs(30);

impl Machine {
    pub(super) fn on_synced(
        &mut self,
        now: Instant,
        ticket: Ticket,
        answer: Result<Bytes, Refusal>,
        out: &mut Vec<Action>,
    ) {
        let State::Syncing { ticket: expected, generation, sent_at } = self.state else { return };
        if expected != ticket {
            return;
        }
        match answer {
            Ok(bytes) => {
                self.link.works();
                self.confirm(sent_at);
                self.take_assignment(now, sent_at, generation, bytes, out);
            }
            Err(Refusal::Code(code::UNKNOWN_MEMBER_ID | code::FENCED_INSTANCE_ID)) => {
                self.link.works();
                self.removed(now, "the coordinator removed this member during a rebalance".to_owned(), out);
            }
            // The next rebalance overtook this one.
            Err(Refusal::Code(code::REBALANCE_IN_PROGRESS | code::ILLEGAL_GENERATION)) => {
                self.link.works();
                self.state = State::JoinDue { at: now, held: Some(generation) };
            }
            Err(Refusal::Code(code)) if !code::is_coordinator_away(code) => {
                self.link.works();
                self.join_failed(now, format!("the group's assignment is refused: {}", Refusal::Code(code)), out);
            }
            Err(away) => {
                self.retry_join(now);
                self.on_link_failure(now, away.to_string(), out);
            }
        }
    }

    fn take_assignment(&mut self, now: Instant, began: Instant, generation: i32, bytes: Bytes, out: &mut Vec<Action>) {
        let Taken { mut assignment, promised, handing_over, reserved, refused } =
            match read(generation, self.tenure, bytes) {
                Ok(taken) => taken,
                Err(reason) => return self.step_out(now, &reason, out),
            };
        if self.surrendered && !assignment.active.is_empty() {
            // As of a join from before. Nothing here starts them, so others need not wait for what holds the former ones.
            assignment.active.clear();
            self.want_rejoin("tasks were given that cannot be taken now".to_owned());
        }
        self.state = State::Stable { generation };
        self.members = assignment.members.len();
        self.ownership.assigned(generation, &assignment.active);
        let followed = assignment.standby.iter().chain(&assignment.warmup).copied().collect();
        self.following.assigned(now, began, followed, promised, handing_over, reserved);
        if handing_over {
            self.heartbeat.hurry(now);
        }
        self.recovered(out);
        tracing::info!(
            group = %self.settings.group_id,
            generation,
            members = assignment.members.len(),
            active = assignment.active.len(),
            standby = assignment.standby.len(),
            warmup = assignment.warmup.len(),
            "joined the group"
        );
        if refused != self.refused {
            for reason in &refused {
                tracing::warn!(group = %self.settings.group_id, reason, "the group does not run what this instance has");
            }
            self.refused = refused;
        }
        out.push(Action::Emit(GroupEvent::Assigned(assignment)));
    }

    /// Nobody knows what is this member's in the new generation, and a leader that does not write what it reads may not have read
    /// its claims either: what it processes may be somebody else's already. So it drops all of it, and leaves the group for a
    /// while: what the leader meant for it goes to others.
    fn step_out(&mut self, now: Instant, reason: &str, out: &mut Vec<Action>) {
        let problem = format!("the assignment of the group's leader cannot be read: {reason}");
        out.push(Action::Leave { member_id: mem::replace(&mut self.member_id, "".into()) });
        // This generation was never taken: what is lost, if anything, is what was assigned before it.
        self.state = State::JoinDue { at: now, held: None };
        self.lose(now, problem.clone(), out);
        self.state = State::JoinDue { at: now + STEPS_OUT_FOR, held: None };
        let way_out = format!(
            "{problem}; the instance stays out of the group, so that others get its tasks, and tries again every {} s: stop the \
             members of group {} whose builds cannot work together with this one",
            STEPS_OUT_FOR.as_secs(),
            self.settings.group_id
        );
        self.wait(WaitKind::Refused, way_out, out);
    }
}

/// An assignment, and what comes with it.
struct Taken {
    assignment: Assignment,
    promised: Vec<TaskId>,
    /// Whether any task is on its way to anybody.
    handing_over: bool,
    reserved: Vec<ReservationData>,
    /// Why this member gets no tasks of some of its sub-topologies.
    refused: Vec<String>,
}

fn read(generation: i32, tenure: u64, bytes: Bytes) -> Result<Taken, String> {
    if bytes.is_empty() {
        return Err("it has nothing for this member, as if the leader could not read what this one told it".to_owned());
    }
    let user_data = protocol::assignment_user_data(bytes).map_err(|error| error.to_string())?;
    let data = AssignmentData::decode(&user_data).map_err(|error| error.to_string())?;
    let AssignmentData { you, members, promised, reserved, refused } = data;
    let (active, standby, warmup) = match members.get(you) {
        Some(mine) => (mine.active.clone(), mine.standby.clone(), mine.warmup.clone()),
        None => return Err(format!("it names member {you} of {}", members.len())),
    };
    let handing_over = !promised.is_empty();
    let promised = promised.into_iter().filter(|(_, member)| *member == you).map(|(task, _)| task).collect();
    let refused = refused.into_iter().filter(|refused| refused.member == you).map(|refused| refused.reason).collect();
    let assignment = Assignment { generation, tenure, active, standby, warmup, members };
    Ok(Taken { assignment, promised, handing_over, reserved, refused })
}
