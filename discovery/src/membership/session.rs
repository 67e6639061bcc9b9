//! What plain threads hold of the driver: the published state, requests to it, and calls that wait for their answer.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use holdfast_types::{
    CommittedOffset, Confirmed, GroupError, GroupMetadata, InstanceInfo, LostTransaction, OffsetToCommit, TaskId,
    TopicPartition, TransactionEnd,
};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
};

use super::{
    eviction::{self, Eviction},
    fencing,
    gate::Gate,
    lost_transaction,
    offsets::Fetched,
    worker::OffsetCall,
};
use crate::{assignor::Copies, wire::cluster::Cluster};

/// Wait between attempts while an open transaction holds an offset back, or the coordinator is away.
const FETCH_BACKOFF: Duration = Duration::from_millis(25);

/// The membership as the driver last left it.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) metadata: Option<GroupMetadata>,
    pub(super) confirmed: Option<Confirmed>,
}

/// What handles ask of the driver. Each kind has one slot, so that nothing piles up: the last one counts.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) rejoin: Option<String>,
    pub(super) caught_up: Option<String>,
    /// A heartbeat now, because somebody waits for its answer.
    pub(super) confirm: bool,
    pub(super) acknowledged: Option<(u64, i32, Vec<TaskId>)>,
    pub(super) surrender: Option<(u64, String)>,
    pub(super) resume: bool,
    pub(super) copies: Option<Copies>,
    pub(super) drain: bool,
    pub(super) leave: Option<SyncSender<Result<(), GroupError>>>,
    /// All handles are gone.
    pub(super) stop: bool,
}

/// Between handles and driver.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) published: ArcSwap<Published>,
    /// Between calls that name the generation of [`Published::metadata`] and the join that ends it.
    pub(super) gate: Gate,
    pub(super) wishes: Mutex<Wishes>,
    pub(super) wished: Notify,
    /// Wakes who waits for [`Published::confirmed`] to move.
    pub(super) confirmed: Arc<Notify>,
}

impl Shared {
    fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.wishes.lock());
        self.wished.notify_one();
    }
}

/// The handles' side. Its drop, with the last handle, ends the driver.
pub(crate) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) calls: mpsc::Sender<OffsetCall>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) group_id: Arc<str>,
    /// See [`GroupConfig::written_topics`](crate::GroupConfig::written_topics).
    pub(super) written_topics: BTreeSet<Arc<str>>,
    pub(super) runtime: Handle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.wish(|wishes| wishes.stop = true);
    }
}

impl Session {
    pub(crate) fn caught_up(&self, reason: &str) {
        self.shared.wish(|wishes| wishes.caught_up = Some(reason.to_owned()));
    }

    pub(crate) fn rejoin(&self, reason: &str) {
        self.shared.wish(|wishes| wishes.rejoin = Some(reason.to_owned()));
    }

    pub(crate) fn confirm_soon(&self) {
        self.shared.wish(|wishes| wishes.confirm = true);
    }

    pub(crate) fn acknowledge(&self, tenure: u64, generation: i32, kept: &[TaskId]) {
        self.shared.wish(|wishes| wishes.acknowledged = Some((tenure, generation, kept.to_vec())));
    }

    pub(crate) fn surrender(&self, tenure: u64, reason: &str) {
        self.shared.wish(|wishes| wishes.surrender = Some((tenure, reason.to_owned())));
    }

    pub(crate) fn resume(&self) {
        self.shared.wish(|wishes| wishes.resume = true);
    }

    pub(crate) fn report(&self, copies: Copies) {
        self.shared.wish(|wishes| wishes.copies = Some(copies));
    }

    pub(crate) fn drain(&self) {
        self.shared.wish(|wishes| wishes.drain = true);
    }

    pub(crate) fn leave(&self, deadline: Duration) -> Result<(), GroupError> {
        let (reply, answer) = sync_channel(1);
        self.shared.wish(|wishes| wishes.leave = Some(reply));
        match answer.recv_timeout(deadline) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(GroupError::TimedOut(deadline)),
            // The driver has ended: there is no membership to leave.
            Err(RecvTimeoutError::Disconnected) => Ok(()),
        }
    }

    pub(crate) fn metadata(&self) -> Option<GroupMetadata> {
        self.shared.published.load().metadata.clone()
    }

    pub(crate) fn name_generation(&self, patience: Duration, call: &mut dyn FnMut()) {
        self.shared.gate.name_generation(patience, call);
    }

    pub(crate) fn last_confirmed(&self) -> Option<Confirmed> {
        self.shared.published.load().confirmed
    }

    pub(crate) fn confirmations(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.confirmed)
    }

    pub(crate) fn commit_offsets(
        &self,
        metadata: &GroupMetadata,
        offsets: &[OffsetToCommit],
        deadline: Duration,
    ) -> Result<(), GroupError> {
        if offsets.is_empty() {
            return Ok(());
        }
        self.call(deadline, deadline, |until, reply| OffsetCall::Commit {
            metadata: metadata.clone(),
            offsets: offsets.to_vec(),
            until,
            reply,
        })
    }

    pub(crate) fn fetch_offsets(
        &self,
        partitions: &[TopicPartition],
        deadline: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>, GroupError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let until = Instant::now() + deadline;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let outcome = self.call(left, deadline, |until, reply| OffsetCall::Fetch {
                partitions: partitions.to_vec(),
                until,
                reply,
            });
            let failure = match outcome {
                Ok(Fetched::Offsets(offsets)) => return Ok(offsets),
                // The caller has more to do meanwhile than to wait for somebody's transaction.
                Ok(Fetched::Unstable(partition)) => return Err(GroupError::Unstable(partition)),
                Err(error @ (GroupError::Unavailable(_) | GroupError::TimedOut(_))) => error,
                Err(error) => return Err(error),
            };
            if until.saturating_duration_since(Instant::now()) <= FETCH_BACKOFF {
                return Err(failure);
            }
            thread::sleep(FETCH_BACKOFF);
        }
    }

    pub(crate) fn fence(&self, transactional_ids: &[String], deadline: Duration) -> Result<(), GroupError> {
        let (cluster, ids) = (Arc::clone(&self.cluster), transactional_ids.to_vec());
        self.run(deadline, async move { fencing::fence(&cluster, &ids, deadline).await })
    }

    pub(crate) fn transaction_end(
        &self,
        transactional_id: &str,
        deadline: Duration,
    ) -> Result<Option<TransactionEnd>, GroupError> {
        let (cluster, id) = (Arc::clone(&self.cluster), transactional_id.to_owned());
        self.run(deadline, async move { lost_transaction::end_of(&cluster, &id, deadline).await })
    }

    pub(crate) fn end_transaction(
        &self,
        transactional_id: &str,
        lost: &LostTransaction,
        deadline: Duration,
    ) -> Result<(), GroupError> {
        let (cluster, id, lost) = (Arc::clone(&self.cluster), transactional_id.to_owned(), lost.clone());
        self.run(deadline, async move { lost_transaction::finish(&cluster, &id, &lost, deadline).await })
    }

    /// Waits for what needs connections of its own.
    fn run<T: Send + 'static>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<T, GroupError>> + Send + 'static,
    ) -> Result<T, GroupError> {
        let (reply, answer) = sync_channel(1);
        self.runtime.spawn(async move {
            // The caller has given up when nobody receives.
            let _ = reply.try_send(call.await);
        });
        answer.recv_timeout(deadline).unwrap_or(Err(GroupError::TimedOut(deadline)))
    }

    pub(crate) async fn evict(
        &self,
        dead: &InstanceInfo,
        member_id: Option<&str>,
        fence: bool,
        deadline: Duration,
    ) -> Result<Eviction, GroupError> {
        eviction::evict(&self.cluster, &self.group_id, dead, member_id, fence, &self.written_topics, deadline).await
    }

    /// Hands a call to the connection's worker and waits for its answer for up to `left`.
    fn call<T>(
        &self,
        left: Duration,
        deadline: Duration,
        build: impl FnOnce(Instant, SyncSender<Result<T, GroupError>>) -> OffsetCall,
    ) -> Result<T, GroupError> {
        let (reply, answer) = sync_channel(1);
        self.calls.try_send(build(Instant::now() + left, reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                GroupError::Unavailable("too many calls are waiting for the group coordinator".to_owned())
            }
            mpsc::error::TrySendError::Closed(_) => GroupError::NotAMember,
        })?;
        match answer.recv_timeout(left) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(GroupError::TimedOut(deadline)),
            Err(RecvTimeoutError::Disconnected) => Err(GroupError::NotAMember),
        }
    }
}
