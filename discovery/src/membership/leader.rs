//! The leader's part of a rebalance: from all subscriptions to all assignments.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use holdfast_types::{MemberAssignment, TaskId};

use super::{
    protocol,
    userdata::{AssignmentData, SubscriptionData},
};
use crate::assignor::{self, Member};

/// The outcome of a rebalance, ready for SyncGroup.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Assignments {
    /// Member id → bytes of its assignment.
    pub(super) bytes: Vec<(Arc<str>, Bytes)>,
    /// Tasks that their present owners have to release first.
    pub(super) withheld: Vec<TaskId>,
}

/// Assigns all tasks among the members of the group. A member whose subscription cannot be read gets nothing.
pub(super) fn assign(subscriptions: Vec<(Arc<str>, Bytes)>) -> Result<Assignments, String> {
    let mut ids = Vec::new();
    let mut members = Vec::new();
    for (member_id, bytes) in subscriptions {
        match read(bytes) {
            Ok(member) => {
                ids.push(member_id);
                members.push(member);
            }
            Err(reason) => {
                tracing::error!(%member_id, reason, "a member's subscription cannot be read; it gets no tasks")
            }
        }
    }
    let tasks = assignor::tasks(&members);
    let owners = assignor::owners(&members);
    let target = assignor::balance(&members, &tasks, &owners);
    let outcome = assignor::hand_over(members.len(), &target, &owners);

    let inputs: HashMap<TaskId, _> = tasks.into_iter().map(|task| (task.spec.id, task.spec.inputs)).collect();
    let map: Vec<MemberAssignment> = members
        .into_iter()
        .zip(outcome.tasks)
        .map(|(member, tasks)| MemberAssignment {
            instance: member.instance,
            active: tasks.active,
            standby: tasks.standby,
        })
        .collect();
    let mut data = AssignmentData { you: 0, members: map };
    let mut bytes = Vec::with_capacity(ids.len());
    for (you, member_id) in ids.into_iter().enumerate() {
        data.you = you;
        let active = data.members.get(you).map(|member| member.active.as_slice()).unwrap_or_default();
        let partitions: Vec<_> = active.iter().filter_map(|task| inputs.get(task)).flatten().cloned().collect();
        let user_data = data.encode().map_err(|error| error.to_string())?;
        bytes.push((member_id, protocol::encode_assignment(partitions, user_data).map_err(|error| error.to_string())?));
    }
    Ok(Assignments { bytes, withheld: outcome.withheld })
}

fn read(bytes: Bytes) -> Result<Member, String> {
    let user_data = protocol::subscription_user_data(bytes).map_err(|error| error.to_string())?;
    let data = SubscriptionData::decode(&user_data).map_err(|error| error.to_string())?;
    Ok(Member {
        instance: data.instance,
        subtopologies: data.subtopologies,
        owned: data.owned,
        generation: data.generation,
    })
}
