//! JoinGroup and SyncGroup, on a connection of their own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kafka_protocol::{
    messages::{
        GroupId, JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, join_group_request::JoinGroupRequestProtocol,
        sync_group_request::SyncGroupRequestAssignment,
    },
    protocol::StrBytes,
};
use tokio::sync::mpsc;

use super::{Dialer, accepted, broken};
use crate::{
    membership::{
        protocol::{PROTOCOL_NAME, PROTOCOL_TYPE},
        state::{Event, Joined, Refusal, Ticket},
    },
    wire::error::code,
};

/// How much longer than the rebalance timeout an answer may take: the coordinator's own delays, and the way.
const GRACE: Duration = Duration::from_secs(5);

/// What the state machine asks for.
#[derive(Debug)]
pub(crate) enum JoinCall {
    Join { ticket: Ticket, member_id: Arc<str>, subscription: Bytes, reason: String },
    Sync { ticket: Ticket, generation: i32, member_id: Arc<str>, assignments: Vec<(Arc<str>, Bytes)> },
}

/// Carries the calls out, one after the other.
pub(crate) struct JoinWorker {
    pub(crate) dialer: Dialer,
    pub(crate) group_id: Arc<str>,
    pub(crate) session_timeout: Duration,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) calls: mpsc::Receiver<JoinCall>,
    pub(crate) events: mpsc::Sender<Event>,
}

impl JoinWorker {
    pub(crate) async fn run(mut self) {
        while let Some(call) = self.calls.recv().await {
            let event = match call {
                JoinCall::Join { ticket, member_id, subscription, reason } => {
                    Event::Joined { ticket, answer: self.join(&member_id, &subscription, &reason).await }
                }
                JoinCall::Sync { ticket, generation, member_id, assignments } => {
                    Event::Synced { ticket, answer: self.sync(generation, &member_id, &assignments).await }
                }
            };
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }

    async fn join(&mut self, member_id: &str, subscription: &Bytes, reason: &str) -> Result<Joined, Refusal> {
        let (group_id, session_timeout, rebalance_timeout) =
            (Arc::clone(&self.group_id), self.session_timeout, self.rebalance_timeout);
        let build = |version| {
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(StrBytes::from_static_str(PROTOCOL_NAME))
                .with_metadata(subscription.clone());
            let request = JoinGroupRequest::default()
                .with_group_id(group(&group_id))
                .with_session_timeout_ms(millis(session_timeout))
                .with_member_id(text(member_id))
                .with_protocol_type(StrBytes::from_static_str(PROTOCOL_TYPE))
                .with_protocols(vec![protocol]);
            let request =
                if version >= 1 { request.with_rebalance_timeout_ms(millis(rebalance_timeout)) } else { request };
            if version >= 8 { request.with_reason(Some(text(reason))) } else { request }
        };
        let after = self.rebalance_timeout + GRACE;
        let answer =
            self.dialer.call::<JoinGroupRequest>(i16::MAX, after, build).await.map_err(|error| broken(&error))?;
        if answer.error_code == code::MEMBER_ID_REQUIRED {
            return Err(Refusal::MemberIdRequired(answer.member_id.as_str().into()));
        }
        accepted(answer.error_code)?;
        Ok(joined(answer))
    }

    async fn sync(
        &mut self,
        generation: i32,
        member_id: &str,
        assignments: &[(Arc<str>, Bytes)],
    ) -> Result<Bytes, Refusal> {
        let group_id = Arc::clone(&self.group_id);
        let build = |version| {
            let assignments = assignments.iter().map(|(member_id, bytes)| {
                SyncGroupRequestAssignment::default().with_member_id(text(member_id)).with_assignment(bytes.clone())
            });
            let request = SyncGroupRequest::default()
                .with_group_id(group(&group_id))
                .with_generation_id(generation)
                .with_member_id(text(member_id))
                .with_assignments(assignments.collect());
            if version < 5 {
                return request;
            }
            request
                .with_protocol_type(Some(StrBytes::from_static_str(PROTOCOL_TYPE)))
                .with_protocol_name(Some(StrBytes::from_static_str(PROTOCOL_NAME)))
        };
        let after = self.rebalance_timeout + GRACE;
        let answer =
            self.dialer.call::<SyncGroupRequest>(i16::MAX, after, build).await.map_err(|error| broken(&error))?;
        accepted(answer.error_code)?;
        Ok(answer.assignment)
    }
}

fn joined(answer: JoinGroupResponse) -> Joined {
    let leads = answer.leader == answer.member_id && !answer.skip_assignment;
    let members = answer.members.into_iter().map(|member| (member.member_id.as_str().into(), member.metadata));
    Joined {
        generation: answer.generation_id,
        member_id: answer.member_id.as_str().into(),
        lead: leads.then(|| members.collect()),
    }
}

pub(super) fn group(group_id: &str) -> GroupId {
    GroupId(text(group_id))
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
