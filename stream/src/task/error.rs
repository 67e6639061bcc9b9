//! Why a task cannot simply go on, and the records that it has to do without.

use holdfast_types::{TaskId, TopicPartition};

use crate::{
    errors::{ErrorPolicy, Failure},
    kafka::FetchError,
};

/// Why a task cannot simply go on.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The task goes back to its last commit, and treats one record differently, if one is named.
    #[error("task {task} goes back to its last commit: {reason}")]
    RollBack {
        /// The task.
        task: TaskId,
        /// The record at fault, where it is known.
        marked: Option<Box<MarkedRecord>>,
        /// What happened.
        reason: String,
    },
    /// The policy says that processing stops here.
    #[error("task {task}: {record}: {error}")]
    Fatal {
        /// The task.
        task: TaskId,
        /// Topic, partition and offset.
        record: String,
        /// What happened.
        error: String,
    },
    /// The input cannot be read.
    #[error("task {task}: {source}")]
    Fetch {
        /// The task.
        task: TaskId,
        /// Why.
        source: FetchError,
    },
}

/// A record that broke its task's commit, or failed after it had changed something, or whose dead letter was refused: when it
/// comes up again, it is treated as its mark says.
#[derive(Clone, Debug)]
pub struct MarkedRecord {
    /// The partition that it comes from.
    pub partition: TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// How to treat it.
    pub mark: Mark,
}

/// How a record is treated that is known to make trouble.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Why it does not reach a processor any more; `None` where it was only its dead letter that failed.
    pub poison: Option<Failure>,
    /// What becomes of it when it fails.
    pub burial: Burial,
}

/// What becomes of a record that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Burial {
    /// A dead letter with as much of it as the topic is known to take.
    Letter,
    /// A dead letter with nothing of it but where it stands and why it failed: the topic refused the other.
    BareLetter,
    /// It is skipped: by policy, or because its topic refuses even the smallest dead letter.
    Skip,
}

impl Burial {
    /// What a final policy makes of a record; `None` where it ends the thread.
    pub(super) fn by(policy: &ErrorPolicy) -> Option<Self> {
        match policy {
            ErrorPolicy::DeadLetter => Some(Self::Letter),
            ErrorPolicy::Continue => Some(Self::Skip),
            ErrorPolicy::Fail | ErrorPolicy::Retry { .. } => None,
        }
    }
}
