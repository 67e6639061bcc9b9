//! Heartbeats, leaving, commits and offset fetches, on the connection that never waits for a rebalance.

use std::{
    sync::{Arc, mpsc::SyncSender},
    time::{Duration, Instant},
};

use holdfast_types::{GroupError, GroupMetadata, OffsetToCommit, TopicPartition};
use kafka_protocol::messages::{
    HeartbeatRequest, LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest, leave_group_request::MemberIdentity,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Dialer, accepted, broken,
    join::{group, text},
};
use crate::{
    membership::{
        offsets,
        state::{Event, Refusal, Ticket},
    },
    metrics,
    wire::error::WireError,
};

/// What the state machine asks for.
#[derive(Debug)]
pub(crate) enum MemberCall {
    Heartbeat { ticket: Ticket, generation: i32, member_id: Arc<str> },
    Leave { member_id: Arc<str>, done: oneshot::Sender<Result<(), Refusal>> },
}

/// What a stream thread asks for, and where it waits for the answer.
#[derive(Debug)]
pub(crate) enum OffsetCall {
    Commit {
        metadata: GroupMetadata,
        offsets: Vec<OffsetToCommit>,
        until: Instant,
        reply: SyncSender<Result<(), GroupError>>,
    },
    Fetch {
        partitions: Vec<TopicPartition>,
        until: Instant,
        reply: SyncSender<Result<offsets::Fetched, GroupError>>,
    },
}

/// Carries the calls out, one after the other; the member's before the threads'.
pub(crate) struct CoordinatorWorker {
    pub(crate) dialer: Dialer,
    pub(crate) group_id: Arc<str>,
    pub(crate) session_timeout: Duration,
    pub(crate) member_calls: mpsc::Receiver<MemberCall>,
    pub(crate) offset_calls: mpsc::Receiver<OffsetCall>,
    pub(crate) events: mpsc::Sender<Event>,
}

impl CoordinatorWorker {
    pub(crate) async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                call = self.member_calls.recv() => match call {
                    Some(call) => self.member_call(call).await,
                    None => return,
                },
                Some(call) = self.offset_calls.recv() => self.offset_call(call).await,
            }
        }
    }

    async fn member_call(&mut self, call: MemberCall) {
        match call {
            MemberCall::Heartbeat { ticket, generation, member_id } => {
                let answer = self.heartbeat(generation, &member_id).await;
                // The driver is gone only when all of it is.
                let _ = self.events.send(Event::HeartbeatAnswered { ticket, answer }).await;
            }
            MemberCall::Leave { member_id, done } => {
                let _ = done.send(self.leave(&member_id).await);
            }
        }
    }

    async fn heartbeat(&mut self, generation: i32, member_id: &str) -> Result<(), Refusal> {
        let group_id = Arc::clone(&self.group_id);
        let build = |_| {
            HeartbeatRequest::default()
                .with_group_id(group(&group_id))
                .with_generation_id(generation)
                .with_member_id(text(member_id))
        };
        // Two attempts fit into a session.
        let after = self.dialer.request_timeout().min(self.session_timeout / 3);
        let started = Instant::now();
        let answer =
            self.dialer.call::<HeartbeatRequest>(i16::MAX, after, build).await.map_err(|error| broken(&error))?;
        metrics::heartbeat_answered(started.elapsed());
        accepted(answer.error_code)
    }

    async fn leave(&mut self, member_id: &str) -> Result<(), Refusal> {
        let group_id = Arc::clone(&self.group_id);
        let build = |version| {
            let request = LeaveGroupRequest::default().with_group_id(group(&group_id));
            if version < 3 {
                return request.with_member_id(text(member_id));
            }
            let mut member = MemberIdentity::default().with_member_id(text(member_id));
            if version >= 5 {
                member = member.with_reason(Some(text("the instance is stopping")));
            }
            request.with_members(vec![member])
        };
        let after = self.dialer.request_timeout();
        let answer =
            self.dialer.call::<LeaveGroupRequest>(i16::MAX, after, build).await.map_err(|error| broken(&error))?;
        accepted(answer.error_code)
    }

    async fn offset_call(&mut self, call: OffsetCall) {
        match call {
            OffsetCall::Commit { metadata, offsets, until, reply } => {
                let started = Instant::now();
                let outcome = self.commit(&metadata, &offsets, until).await;
                metrics::commit_answered(started.elapsed(), outcome.as_ref().err());
                if let Err(GroupError::IllegalGeneration { .. } | GroupError::NotAMember | GroupError::Rebalancing) =
                    outcome
                {
                    // A heartbeat tells what it means. A full queue has one coming anyway.
                    let _ = self.events.try_send(Event::Suspicion);
                }
                // The caller has given up when nobody receives.
                let _ = reply.try_send(outcome);
            }
            OffsetCall::Fetch { partitions, until, reply } => {
                let outcome = self.fetch(&partitions, until).await;
                let _ = reply.try_send(outcome);
            }
        }
    }

    async fn commit(
        &mut self,
        metadata: &GroupMetadata,
        offsets: &[OffsetToCommit],
        until: Instant,
    ) -> Result<(), GroupError> {
        let after = time_left(until)?;
        let build = |_| offsets::commit_request(metadata, offsets);
        let answer = self
            .dialer
            .call::<OffsetCommitRequest>(offsets::NEWEST_COMMIT, after, build)
            .await
            .map_err(|error| unavailable(&error))?;
        offsets::commit_outcome(metadata, &answer)
    }

    async fn fetch(&mut self, partitions: &[TopicPartition], until: Instant) -> Result<offsets::Fetched, GroupError> {
        let after = time_left(until)?.min(self.dialer.request_timeout());
        let group_id = Arc::clone(&self.group_id);
        let build = |version| offsets::fetch_request(&group_id, partitions, version);
        let answer = self
            .dialer
            .call::<OffsetFetchRequest>(offsets::NEWEST_FETCH, after, build)
            .await
            .map_err(|error| unavailable(&error))?;
        offsets::fetch_outcome(partitions, &answer)
    }
}

fn time_left(until: Instant) -> Result<Duration, GroupError> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(GroupError::TimedOut(Duration::ZERO)) } else { Ok(left) }
}

fn unavailable(error: &WireError) -> GroupError {
    match error {
        WireError::TimedOut { after, .. } => GroupError::TimedOut(*after),
        WireError::Unsupported { .. } => GroupError::Refused(error.to_string()),
        other => GroupError::Unavailable(other.to_string()),
    }
}
