//! What a commit needs of the consumer group. Discovery implements it; stream threads call it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::TopicPartition;

/// Who commits: rides on transactions and offset commits, and is what fences a member that was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata {
    /// The group, which is the application id.
    pub group_id: Arc<str>,
    /// The generation in force; every rebalance starts a new one.
    pub generation: i32,
    /// The member id that the coordinator gave; never empty (an empty one with generation −1 would commit unfenced).
    pub member_id: Arc<str>,
    /// Which of this process's memberships it is: see [`Assignment::tenure`](crate::Assignment::tenure).
    pub tenure: u64,
}

/// A sign that a membership is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// When the request was *sent* with which the coordinator confirmed the member: it was one at some time after that.
    pub at: Instant,
    /// Which membership it is: it says nothing of tasks that were this instance's in another one.
    pub tenure: u64,
}

/// One input offset to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// The input partition.
    pub partition: TopicPartition,
    /// The next offset to read.
    pub offset: i64,
    /// Free text kept with the offset; Kafka Streams keeps stream time here.
    pub metadata: String,
}

/// One committed offset as the coordinator knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: i64,
    /// The text that was committed with it.
    pub metadata: String,
}

/// Why the group did not do what a task asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The generation is over: commit again under the next one if the task is retained.
    #[error("generation {generation} is over (ILLEGAL_GENERATION)")]
    IllegalGeneration {
        /// The generation under which the call was made.
        generation: i32,
    },
    /// The group is between two generations; the same call succeeds after the sync.
    #[error("the group is rebalancing (REBALANCE_IN_PROGRESS)")]
    Rebalancing,
    /// This member is no longer one: its tasks belong to somebody else.
    #[error("this member was removed from the group (UNKNOWN_MEMBER_ID or FENCED_INSTANCE_ID)")]
    NotAMember,
    /// A transaction that has not ended yet holds an offset back; try again.
    #[error("an open transaction holds the offset of {0} back (UNSTABLE_OFFSET_COMMIT)")]
    Unstable(TopicPartition),
    /// The member has not joined yet, or lost the coordinator; try again.
    #[error("the group coordinator is not reachable: {0}")]
    Unavailable(String),
    /// No answer by the deadline; whether it was carried out is unknown.
    #[error("no answer from the group coordinator within {0:?}")]
    TimedOut(Duration),
    /// The broker refuses for good (authorisation, an offset metadata that is too large, …).
    #[error("the broker refused: {0}")]
    Refused(String),
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionEnd {
    /// Everything in it counts.
    Committed,
    /// Nothing in it was ever read by anybody, or will be.
    Aborted,
}

/// A transaction whose producer was lost, and what is known of the one before it. Markers of both may be missing: a broker that
/// shuts down drops them where a partition has no leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostTransaction {
    /// How it ended, or is to end.
    pub end: TransactionEnd,
    /// Partitions that it may have written to. Too many do no harm, too few leave readers waiting.
    pub partitions: BTreeSet<TopicPartition>,
    /// Topics of which it may have written to any partition.
    pub topics: BTreeSet<Arc<str>>,
    /// The last offsets that committed transactions of the same id wrote: what is open from there or before counts.
    pub committed: BTreeMap<TopicPartition, i64>,
    /// The group whose offsets may be open, and how those end.
    pub group: Option<(Arc<str>, TransactionEnd)>,
}

/// The group membership of this instance, as stream threads see it. All calls are synchronous, bounded by `deadline`, and
/// may be made from any thread that is not an async executor's.
pub trait GroupSession: Send + Sync + std::fmt::Debug {
    /// The generation in force, or `None` before the first join and after the member was removed.
    fn metadata(&self) -> Option<GroupMetadata>;

    /// Makes a call that names the generation of `metadata()` to a coordinator: not while the group is joined, which may end that
    /// generation at any moment. A join that goes on for `patience` is not waited for any longer.
    fn name_generation(&self, patience: Duration, call: &mut dyn FnMut());

    /// The coordinator's last confirmation of this member in `metadata()`'s generation (a heartbeat answered 0 or 27, or a
    /// completed sync). Reads measure their staleness from it.
    fn last_confirmed(&self) -> Option<Confirmed>;

    /// OffsetCommit for the given generation and member (the at-least-once commit).
    fn commit_offsets(
        &self,
        metadata: &GroupMetadata,
        offsets: &[OffsetToCommit],
        deadline: Duration,
    ) -> Result<(), GroupError>;

    /// OffsetFetch with `require_stable`: while an open transaction holds an offset back it answers
    /// [`GroupError::Unstable`] at once, and whoever asks decides how long to try again. The answer is in the order asked;
    /// `None` where nothing was committed.
    fn fetch_offsets(
        &self,
        partitions: &[TopicPartition],
        deadline: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>, GroupError>;

    /// InitProducerId for each id: aborts what a dead process left open, and fences it. Unknown ids are no error.
    fn fence(&self, transactional_ids: &[String], deadline: Duration) -> Result<(), GroupError>;

    /// How the last transaction of an id ended, or will end once it is fenced. To be asked after its producer is gone and
    /// before the id is fenced, which makes the coordinator forget it. `None` where the broker cannot say.
    fn transaction_end(&self, transactional_id: &str, deadline: Duration)
    -> Result<Option<TransactionEnd>, GroupError>;

    /// Ends what is left open of a lost transaction, and of those before it, as each ended elsewhere, and fences the id. May be
    /// repeated after an error.
    fn end_transaction(
        &self,
        transactional_id: &str,
        lost: &LostTransaction,
        deadline: Duration,
    ) -> Result<(), GroupError>;
}
