//! The leader's part of a rebalance: from all subscriptions to all assignments.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use holdfast_types::{MemberAssignment, TaskId, TopicPartition};

use super::{
    protocol,
    userdata::{AssignmentData, RefusedData, ReservationData, SubscriptionData},
};
use crate::assignor::{self, AssignorSettings, Copies, Member, Reservation};

/// The outcome of a rebalance, ready for SyncGroup.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Assignments {
    /// Member id → bytes of its assignment.
    pub(super) bytes: Vec<(Arc<str>, Bytes)>,
    /// Tasks that their present owners have to release first.
    pub(super) withheld: Vec<TaskId>,
    /// Copies that have to catch up before tasks move to them.
    pub(super) warm_ups: usize,
    /// When another rebalance is wanted at the latest.
    pub(super) follow_up_in: Option<Duration>,
}

/// Assigns all tasks among the members of the group. A member whose subscription cannot be read gets nothing.
pub(super) fn assign(
    subscriptions: Vec<(Arc<str>, Bytes)>,
    settings: &AssignorSettings,
) -> Result<Assignments, String> {
    let (mut ids, mut reads, mut members) = (Vec::new(), Vec::new(), Vec::new());
    for (member_id, bytes) in subscriptions {
        match read(bytes) {
            Ok(member) => {
                ids.push(member_id);
                reads.push(member.reads);
                members.push(member);
            }
            Err(reason) => {
                tracing::error!(%member_id, reason, "a member's subscription cannot be read; it gets no tasks")
            }
        }
    }
    let (members, reserved) = members_of(members, settings.acceptable_recovery_lag);
    let outcome = assignor::assign(&members, &reserved, settings);
    for refused in &outcome.refused {
        let member = members.get(refused.member).map(|member| &member.instance.endpoint);
        tracing::debug!(
            member = member.map(tracing::field::display),
            reason = refused.reason,
            "a sub-topology is refused"
        );
    }

    let partitions: Vec<Vec<TopicPartition>> =
        members.iter().zip(&outcome.tasks).map(|(member, tasks)| inputs(member, &tasks.active)).collect();
    let withheld = outcome.withheld();
    let to = |(member, tasks): (usize, &assignor::MemberTasks)| {
        tasks.promised.iter().map(|task| (*task, member)).collect::<Vec<_>>()
    };
    let promised = outcome.tasks.iter().enumerate().flat_map(to).collect();
    let warm_ups = outcome.tasks.iter().map(|tasks| tasks.warmup.len()).sum();
    let map = members.into_iter().zip(outcome.tasks).map(|(member, tasks)| MemberAssignment {
        instance: member.instance,
        active: tasks.active,
        standby: tasks.standby,
        warmup: tasks.warmup,
    });
    let refused =
        outcome.refused.into_iter().map(|refused| RefusedData { member: refused.member, reason: refused.reason });
    let data = AssignmentData {
        you: 0,
        members: map.collect(),
        promised,
        reserved: outcome.reserved.into_iter().map(ReservationData::from).collect(),
        refused: refused.collect(),
    };
    let user_data = data.encode_for_all(reads).map_err(|error| error.to_string())?;
    let mut bytes = Vec::with_capacity(ids.len());
    for ((member_id, partitions), user_data) in ids.into_iter().zip(partitions).zip(user_data) {
        bytes.push((member_id, protocol::encode_assignment(partitions, user_data).map_err(|error| error.to_string())?));
    }
    Ok(Assignments { bytes, withheld, warm_ups, follow_up_in: outcome.follow_up_in })
}

/// The members as the assignor takes them, and the reservations that any of them remembers.
fn members_of(data: Vec<SubscriptionData>, acceptable_lag: u64) -> (Vec<Member>, Vec<Reservation>) {
    let mut reserved = Vec::new();
    let (mut copies, mut members) = (Vec::new(), Vec::new());
    for data in data {
        reserved.extend(data.reserved.into_iter().map(Reservation::from));
        copies.push(Copies { positions: data.positions, restoring: data.restoring });
        members.push(Member {
            owned: data.owned,
            generation: data.generation,
            followed: data.followed,
            promised: data.promised,
            follows: data.follows,
            draining: data.draining,
            ..Member::new(data.instance, data.subtopologies)
        });
    }
    let reports: Vec<(&Copies, &[TaskId])> =
        copies.iter().zip(&members).map(|(copies, member)| (copies, member.owned.as_slice())).collect();
    let lags = assignor::lags(&reports, acceptable_lag);
    for (member, lags) in members.iter_mut().zip(lags) {
        member.lags = lags;
    }
    (members, reserved)
}

/// What the tasks read, as the member that gets them has their sub-topologies.
fn inputs(member: &Member, tasks: &[TaskId]) -> Vec<TopicPartition> {
    let of = |task: &TaskId| {
        let spec = member.subtopologies.iter().find(|spec| spec.id == task.subtopology);
        let topics = spec.map(|spec| spec.source_topics.as_slice()).unwrap_or_default();
        topics.iter().map(|topic| TopicPartition::new(Arc::clone(topic), task.partition)).collect::<Vec<_>>()
    };
    tasks.iter().flat_map(of).collect()
}

fn read(bytes: Bytes) -> Result<SubscriptionData, String> {
    let user_data = protocol::subscription_user_data(bytes).map_err(|error| error.to_string())?;
    SubscriptionData::decode(&user_data).map_err(|error| error.to_string())
}
