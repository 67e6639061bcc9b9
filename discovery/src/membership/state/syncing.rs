//! The generation began; SyncGroup brings this member's assignment once the leader has sent all of them.

use std::time::Instant;

use bytes::Bytes;
use holdfast_types::Assignment;

use super::{Action, Machine, Refusal, State, Ticket};
use crate::{
    GroupEvent,
    membership::{protocol, userdata::AssignmentData},
    wire::error::code,
};

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
                self.take_assignment(now, generation, bytes, out);
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

    fn take_assignment(&mut self, now: Instant, generation: i32, bytes: Bytes, out: &mut Vec<Action>) {
        let assignment = match read(generation, bytes) {
            Ok(assignment) => assignment,
            Err(reason) => {
                return self.join_failed(now, format!("the leader's assignment cannot be read: {reason}"), out);
            }
        };
        self.state = State::Stable { generation };
        self.ownership.assigned(generation, &assignment.active);
        self.recovered(out);
        tracing::info!(
            group = %self.settings.group_id,
            generation,
            members = assignment.members.len(),
            active = assignment.active.len(),
            standby = assignment.standby.len(),
            "joined the group"
        );
        out.push(Action::Emit(GroupEvent::Assigned(assignment)));
    }
}

fn read(generation: i32, bytes: Bytes) -> Result<Assignment, String> {
    let user_data = protocol::assignment_user_data(bytes).map_err(|error| error.to_string())?;
    let AssignmentData { you, members } = AssignmentData::decode(&user_data).map_err(|error| error.to_string())?;
    let (active, standby) = match members.get(you) {
        Some(mine) => (mine.active.clone(), mine.standby.clone()),
        None => return Err(format!("it names member {you} of {}", members.len())),
    };
    Ok(Assignment { generation, active, standby, members })
}
