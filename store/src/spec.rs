//! What a task's stores are: the plain data that opens them, and the batches that change them.

use holdfast_types::{StoreName, TaskId, TopicPartition};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{checkpoint::CheckpointDelta, row::RowChange};

/// Where a store keeps its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// In RocksDB, with what is new in memory: survives a restart.
    Persistent,
    /// In memory only: restored whole from its changelog after a restart.
    InMemory,
}

/// The changelog of one store of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangelogSpec {
    /// The partition that belongs to the task.
    pub partition: TopicPartition,
    /// The topic's id, where the broker tells it: a different one than last time means that the topic was recreated.
    pub topic_id: Option<Uuid>,
}

/// One store of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// Its name; in RocksDB, its column family.
    pub name: StoreName,
    /// Where it keeps its rows.
    pub kind: StoreKind,
    /// Its changelog; `None` when it has none.
    pub changelog: Option<ChangelogSpec>,
}

/// All stores of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStoreSpec {
    /// The task.
    pub task: TaskId,
    /// What its sub-topology is made of, as a hash: a directory made by another one is refused.
    pub fingerprint: String,
    /// Its stores; [`TaskStore::table`](crate::TaskStore::table) and [`AppliedBatch::rows`] index into this list.
    pub stores: Vec<StoreSpec>,
}

/// One commit, or one restored batch: rows become visible, then the checkpoint moves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedBatch {
    /// Changes per store, by index into [`TaskStoreSpec::stores`]; fewer lists than stores are fine. Of several changes of
    /// a key, the last one counts.
    pub rows: Vec<Vec<RowChange>>,
    /// What moves of the checkpoint.
    pub checkpoint: CheckpointDelta,
}
