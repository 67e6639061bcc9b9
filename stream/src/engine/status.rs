//! What the engine tells about itself: a snapshot that readiness, metrics and the admin API read.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use holdfast_types::{AssignedRole, Role, StoreName, TaskId, TimestampMs, TopicPartition};
use serde::Serialize;

/// Where the engine is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum EngineState {
    /// Started, without an assignment yet.
    Joining,
    /// At least one task is restoring or opening; the others process.
    Restoring,
    /// Every assigned task processes.
    Running,
    /// The broker, or what the engine needs of it, cannot be reached; reads go on, processing waits.
    Waiting(String),
    /// A topic is not what it was, so that going on would make wrong rows: nothing is processed until an operator has decided;
    /// rows up to the last commit can be read at any age.
    Halted(String),
    /// Shutting down.
    Stopping,
    /// A fatal error: the process should end (or the thread is being replaced, by setting).
    Failed(String),
}

impl EngineState {
    /// Whether this is to be told even while the broker cannot be reached.
    pub fn outweighs_waiting(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Halted(_) | Self::Stopping)
    }
}

/// A snapshot of the whole engine. Replaced as one, several times a second and at every change of state.
#[derive(Clone, Debug, Serialize)]
pub struct EngineStatus {
    /// Where the engine is in its life.
    pub state: EngineState,
    /// Generation of the assignment in force, −1 before the first.
    pub generation: i32,
    /// Every task that is assigned here.
    pub tasks: Vec<TaskStatus>,
    /// One entry per stream thread.
    pub threads: Vec<ThreadStatus>,
    /// How far each copy here is, of those that no task uses too: the sum of its changelogs' offsets.
    #[serde(skip)]
    pub positions: BTreeMap<TaskId, u64>,
    /// Copies that are not assigned here any more, and stay readable until somebody else answers for their tasks.
    #[serde(skip)]
    pub released: Vec<ReleasedCopy>,
}

impl EngineStatus {
    /// The status of an engine that has neither tasks nor threads.
    pub fn of(state: EngineState, generation: i32) -> Self {
        Self {
            state,
            generation,
            tasks: Vec::new(),
            threads: Vec::new(),
            positions: BTreeMap::new(),
            released: Vec::new(),
        }
    }

    /// Released copies whose tasks nobody is known to answer for yet.
    pub fn unanswered(&self) -> usize {
        self.released.iter().filter(|copy| !copy.is_answered_elsewhere).count()
    }
}

/// A copy of a task that is not assigned here any more.
#[derive(Clone, Debug)]
pub struct ReleasedCopy {
    /// The task.
    pub id: TaskId,
    /// Its stores.
    pub stores: Vec<StoreName>,
    /// Whether another instance has told that it processes the task, and answers for it.
    pub is_answered_elsewhere: bool,
}

/// One task as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct TaskStatus {
    /// The task.
    pub id: TaskId,
    /// Restoring, active or standby: what its copy is right now.
    pub role: Role,
    /// What the group wants it to be here.
    pub assigned: AssignedRole,
    /// Index of the stream thread that owns it, once it does.
    pub thread: Option<usize>,
    /// Its stores.
    pub stores: Vec<StoreName>,
    /// Committed next offset per input partition.
    pub committed: BTreeMap<String, i64>,
    /// Records between the committed offset and the end of the input, per input partition, where known.
    pub lag_records: BTreeMap<String, i64>,
    /// Changelog records that a copy which is followed is behind, where known.
    pub changelog_lag: Option<u64>,
    /// Milliseconds since a copy that is followed was last known to have caught up.
    pub staleness_ms: Option<u64>,
    /// Stream time, ms since the epoch; −1 before the first record.
    pub stream_time_ms: TimestampMs,
    /// How the restore stands, while there is one.
    pub restore: Option<RestoreStatus>,
    /// What keeps the task from processing, if anything does.
    pub waiting_for: Option<String>,
}

/// Progress of a restore.
#[derive(Clone, Debug, Serialize)]
pub struct RestoreStatus {
    /// Changelog records replayed so far.
    pub restored_records: u64,
    /// Offsets between where the restore began and the end of the changelogs.
    pub total_records: u64,
    /// Offsets still to replay.
    pub remaining_records: u64,
    /// Estimate from the rate so far; `None` before there is one.
    #[serde(serialize_with = "as_ms")]
    pub eta: Option<Duration>,
}

fn as_ms<S: serde::Serializer>(eta: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match eta {
        Some(eta) => serializer.serialize_some(&u64::try_from(eta.as_millis()).unwrap_or(u64::MAX)),
        None => serializer.serialize_none(),
    }
}

/// One stream thread.
#[derive(Clone, Debug, Serialize)]
pub struct ThreadStatus {
    /// Index from 0.
    pub index: usize,
    /// Whether it runs.
    pub alive: bool,
    /// Milliseconds since its loop last turned: what liveness looks at.
    pub idle_ms: u64,
    /// Tasks that it owns.
    pub tasks: Vec<TaskId>,
    /// Records processed since the start.
    pub processed_records: u64,
}

/// What the engine tells its owner, in order.
#[derive(Clone, Debug)]
pub enum EngineEvent {
    /// An assignment is carried out: what is not in it is committed and released.
    Applied {
        /// The assignment's tenure.
        tenure: u64,
        /// The assignment's generation.
        generation: i32,
    },
    /// A stream thread does not let go of tasks that others are to have: the member is to give up all that it was assigned.
    Surrender {
        /// In which tenure.
        tenure: u64,
        /// What holds it up.
        reason: Arc<str>,
    },
    /// It has let go of them.
    Resumed,
    /// Others answer for more of the released copies; see [`EngineStatus::unanswered`].
    Answered,
    /// This member must join again (it was fenced, or a commit said that the generation is over).
    RejoinNeeded {
        /// What happened.
        reason: Arc<str>,
    },
    /// Copies that are followed here have caught up: the group may have more for them.
    CaughtUp {
        /// Which.
        reason: Arc<str>,
    },
    /// A fatal error, after which the process should end with a non-zero status.
    Fatal {
        /// What happened and what to do.
        reason: Arc<str>,
    },
}

/// Topic partitions in text, for keys of JSON objects.
pub(crate) fn text_keys<'a>(entries: impl IntoIterator<Item = (&'a TopicPartition, &'a i64)>) -> BTreeMap<String, i64> {
    entries.into_iter().map(|(partition, value)| (partition.to_string(), *value)).collect()
}
