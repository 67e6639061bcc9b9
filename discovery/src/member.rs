//! The handle on this instance's group membership: events out, commits and fetches in.

use std::{fmt, sync::Arc, time::Duration};

use holdfast_types::{
    Assignment, CommittedOffset, Confirmed, GroupError, GroupMetadata, GroupSession, InstanceInfo, LostTransaction,
    OffsetToCommit, TaskId, TopicPartition, TransactionEnd,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
};

use crate::{
    assignor::Copies,
    config::{GroupConfig, StartError},
    membership::{driver, eviction::Eviction, session::Session},
};

/// What happened to the membership. Events are in order; an `Assigned` that was superseded before it was read is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEvent {
    /// A generation began, and this is what the member holds in it. First commit and drop what is no longer in it, then call
    /// [`GroupMember::acknowledge`], then start what is new. Comes at every generation, changed or not.
    Assigned(Assignment),
    /// The member was removed, or has to assume so: drop all tasks without committing. It joins again by itself.
    Lost {
        /// Why, for logs.
        reason: String,
    },
    /// The group cannot be reached or does not let the member in. Said once, until `Recovered`; what was assigned stays
    /// assigned unless `Lost` follows.
    Waiting {
        /// What is wrong, and what to do about it.
        reason: String,
    },
    /// What `Waiting` told of is over.
    Recovered,
}

/// This instance's membership. Clones are handles on the same one; when the last is dropped the member stops without
/// leaving, as a killed process does.
#[derive(Clone)]
pub struct GroupMember {
    session: Arc<Session>,
}

impl GroupMember {
    /// Checks the settings and starts to join, on `runtime`. A broker that is away is no error: the member keeps trying.
    ///
    /// The events must be read: the member holds back (and merges) what is not.
    ///
    /// # Errors
    /// Settings that cannot work, security properties that cannot be honoured, unreadable certificates.
    pub fn start(config: GroupConfig, runtime: Handle) -> Result<(Self, mpsc::Receiver<GroupEvent>), StartError> {
        let resolved = config.resolve()?;
        let (session, events) = driver::start(config, resolved, &runtime);
        Ok((Self { session: Arc::new(session) }, events))
    }

    /// Starts a rebalance as soon as none is going on.
    pub fn rejoin(&self, reason: &str) {
        self.session.rejoin(reason);
    }

    /// A copy of a task here has caught up: starts a rebalance that may give the instance more of it, unless tasks change hands
    /// already, which ends in one. [`GroupMember::report`] its position before.
    pub fn caught_up(&self, reason: &str) {
        self.session.caught_up(reason);
    }

    /// Sends a heartbeat as soon as none is on its way: [`GroupSession::last_confirmed`] then moves past the time of this call.
    /// One serves all that ask while it is awaited.
    pub fn confirm_soon(&self) {
        self.session.confirm_soon();
    }

    /// Wakes all waiters each time that [`GroupSession::last_confirmed`] has moved.
    pub fn confirmations(&self) -> Arc<Notify> {
        self.session.confirmations()
    }

    /// Tells the group that of all that it was assigned so far, the instance now runs `kept` only, and that everything else
    /// is committed and released. Until then no other member is given the rest.
    ///
    /// Call it after each [`GroupEvent::Assigned`], with that assignment's tenure and generation. Released tasks start a
    /// rebalance, in which they are given out.
    pub fn acknowledge(&self, tenure: u64, generation: i32, kept: &[TaskId]) {
        self.session.acknowledge(tenure, generation, kept);
    }

    /// Gives up all that this member was assigned in `tenure` or since, without a commit: the group gives it to others, while
    /// something here does not let go of it. [`GroupEvent::Lost`] follows, and the member joins again, for copies only until it
    /// [resumes](GroupMember::resume).
    pub fn surrender(&self, tenure: u64, reason: &str) {
        self.session.surrender(tenure, reason);
    }

    /// Everything that was surrendered is let go of: the member takes tasks again.
    pub fn resume(&self) {
        self.session.resume();
    }

    /// Tells how far the instance's copies of tasks are. The group learns it when the member joins the next time; call
    /// [`GroupMember::caught_up`] when a warm-up has.
    pub fn report(&self, copies: Copies) {
        self.session.report(copies);
    }

    /// Starts a rebalance that moves all tasks away from this instance and keeps its standby slots for when it comes back.
    /// Release the tasks and call [`GroupMember::leave`] afterwards.
    pub fn drain(&self) {
        self.session.drain();
    }

    /// Removes a member whose process is gone, as its peers found, and with `fence` fences its transactional ids, which aborts
    /// what it left open. `member_id` is the one that it was last known by: a later life of the process is left alone.
    ///
    /// # Errors
    /// The coordinator cannot be reached, does not let this instance look (DESCRIBE on the group), or did not answer in time;
    /// the session timeout removes the member then.
    pub async fn evict(
        &self,
        dead: &InstanceInfo,
        member_id: Option<&str>,
        fence: bool,
        deadline: Duration,
    ) -> Result<Eviction, GroupError> {
        self.session.evict(dead, member_id, fence, deadline).await
    }

    /// Leaves the group, so that others take over at once, and ends the membership. Commit and release all tasks first.
    ///
    /// Blocks for up to `deadline`; not for async threads.
    ///
    /// # Errors
    /// The coordinator did not confirm in time; the member ends all the same, and the session timeout removes it.
    pub fn leave(&self, deadline: Duration) -> Result<(), GroupError> {
        self.session.leave(deadline)
    }
}

impl fmt::Debug for GroupMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupMember").field("metadata", &self.metadata()).finish_non_exhaustive()
    }
}

impl GroupSession for GroupMember {
    fn metadata(&self) -> Option<GroupMetadata> {
        self.session.metadata()
    }

    fn name_generation(&self, patience: Duration, call: &mut dyn FnMut()) {
        self.session.name_generation(patience, call);
    }

    fn last_confirmed(&self) -> Option<Confirmed> {
        self.session.last_confirmed()
    }

    fn commit_offsets(
        &self,
        metadata: &GroupMetadata,
        offsets: &[OffsetToCommit],
        deadline: Duration,
    ) -> Result<(), GroupError> {
        self.session.commit_offsets(metadata, offsets, deadline)
    }

    fn fetch_offsets(
        &self,
        partitions: &[TopicPartition],
        deadline: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>, GroupError> {
        self.session.fetch_offsets(partitions, deadline)
    }

    fn fence(&self, transactional_ids: &[String], deadline: Duration) -> Result<(), GroupError> {
        self.session.fence(transactional_ids, deadline)
    }

    fn transaction_end(
        &self,
        transactional_id: &str,
        deadline: Duration,
    ) -> Result<Option<TransactionEnd>, GroupError> {
        self.session.transaction_end(transactional_id, deadline)
    }

    fn end_transaction(
        &self,
        transactional_id: &str,
        lost: &LostTransaction,
        deadline: Duration,
    ) -> Result<(), GroupError> {
        self.session.end_transaction(transactional_id, lost, deadline)
    }
}
