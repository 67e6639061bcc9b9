//! Who owns what: plain data that discovery decides and stream and routing carry out.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Endpoint, StoreName, TaskId, TopicPartition};

/// Identity of an instance, kept in its state directory over restarts: the client id of its connections, and part of
/// its transactional ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(pub Uuid);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A sub-topology as the group sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtopologySpec {
    /// Index, the first half of its tasks' ids.
    pub id: u32,
    /// What it is made of (nodes, stores, topics) as a hash: equal on every member that has the same code.
    pub fingerprint: String,
    /// Source topics, repartition topics included.
    pub source_topics: Vec<Arc<str>>,
    /// Stores it owns.
    pub stores: Vec<StoreName>,
    /// Number of tasks: the partitions of its source topics, which are co-partitioned.
    pub partitions: i32,
}

impl SubtopologySpec {
    /// Its tasks.
    pub fn tasks(&self) -> impl Iterator<Item = TaskSpec> + '_ {
        (0..self.partitions).map(|partition| TaskSpec {
            id: TaskId::new(self.id, partition),
            inputs: self.source_topics.iter().map(|topic| TopicPartition::new(Arc::clone(topic), partition)).collect(),
            stateful: !self.stores.is_empty(),
        })
    }
}

/// A task as the assignor sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSpec {
    /// Its id.
    pub id: TaskId,
    /// The partitions that it reads.
    pub inputs: Vec<TopicPartition>,
    /// Whether it owns a store.
    pub stateful: bool,
}

/// An instance as it describes itself to the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// Who it is.
    pub process_id: ProcessId,
    /// Its public listener (REST and gRPC).
    pub endpoint: Endpoint,
    /// Its listener for instances and operators.
    pub peer_endpoint: Endpoint,
    /// Number of stream threads.
    pub threads: u32,
    /// Free tags (`rack`, `zone`).
    pub tags: BTreeMap<String, String>,
    /// Every transactional id that it may have open: whoever finds it dead fences these.
    pub transactional_ids: Vec<String>,
}

/// What one member holds in a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAssignment {
    /// The member.
    pub instance: InstanceInfo,
    /// Tasks that it processes.
    pub active: Vec<TaskId>,
    /// Tasks that it follows.
    pub standby: Vec<TaskId>,
    /// Tasks that it follows until it has caught up, to get them then. Members of earlier builds name none.
    #[serde(default)]
    pub warmup: Vec<TaskId>,
}

/// The outcome of a rebalance: this member's part, and the whole map, so that every member can route every key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The generation that it holds for.
    pub generation: i32,
    /// Counts the times that this process lost its membership, and everything with it. The coordinator accepts from a member
    /// whatever carries its present generation; what was processed in another tenure may be somebody else's meanwhile, and only
    /// this number tells.
    pub tenure: u64,
    /// Tasks that this member processes.
    pub active: Vec<TaskId>,
    /// Tasks that this member follows.
    pub standby: Vec<TaskId>,
    /// Tasks that this member follows until it has caught up: it asks for a rebalance then.
    pub warmup: Vec<TaskId>,
    /// All members with all they hold, this one included.
    pub members: Vec<MemberAssignment>,
}
