//! What the service tells about itself: the members, the tasks, the graph. Plain data that REST writes as
//! JSON and gRPC as messages, so that both say the same.

use std::collections::BTreeMap;

use holdfast_discovery::peers::{HeldTask, PeerView};
use holdfast_stream::engine::{EngineState, TaskStatus};
use holdfast_types::{Role, TaskId};
use serde::Serialize;

use super::Queries;

/// The graph as pictures, made once.
#[derive(Clone, Debug, Default)]
pub struct TopologyPictures {
    /// Kafka Streams' text.
    pub text: String,
    /// Mermaid.
    pub mermaid: String,
    /// Graphviz.
    pub dot: String,
    /// JSON.
    pub json: serde_json::Value,
}

/// A store in `/v1/stores`.
#[derive(Clone, Debug, Serialize)]
pub struct StoreDescription {
    /// Its name.
    pub name: String,
    /// `key_value`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `persistent` or `in_memory`.
    pub storage: &'static str,
    /// The key format's name.
    pub key_format: String,
    /// The value format's name.
    pub value_format: String,
    /// Number of partitions; 0 until the input topics are known.
    pub partitions: i32,
    /// Index of the sub-topology that owns it.
    pub subtopology: u32,
}

/// A copy.
#[derive(Clone, Debug, Serialize)]
pub struct LocalCopy {
    /// Its role.
    pub role: Role,
    /// Changelog records behind, where known.
    pub lag_records: Option<i64>,
    /// Position as text.
    pub position: String,
    /// Milliseconds since it was last known to be caught up.
    pub staleness_ms: Option<u64>,
}

/// The answer of `/v1/instances`.
#[derive(Clone, Debug, Serialize)]
pub struct InstancesDescription {
    /// Generation of the assignment; −1 before the first.
    pub generation: i32,
    /// The members of the group.
    pub instances: Vec<InstanceDescription>,
}

/// A member of the group.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceDescription {
    /// Identity over restarts.
    pub process_id: String,
    /// `host:port` of the public listener.
    pub endpoint: String,
    /// `host:port` of the listener for instances and operators.
    pub peer_endpoint: String,
    /// Stream threads.
    pub threads: u32,
    /// Tasks that it processes.
    pub active: Vec<TaskId>,
    /// Tasks that it follows.
    pub standby: Vec<TaskId>,
    /// Tasks that it follows until it has caught up.
    pub warmup: Vec<TaskId>,
    /// Whether it is the answering one.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// How the answering instance finds it: `alive`, `slow`, `silent`, `refused`.
    pub condition: &'static str,
    /// Milliseconds since it was heard last; absent for the answering one, and before that.
    pub heard_ms_ago: Option<u64>,
    /// Free tags.
    pub tags: BTreeMap<String, String>,
}

/// The answer of `/v1/tasks`.
#[derive(Clone, Debug, Serialize)]
pub struct TasksDescription {
    /// `host:port` of the answering instance.
    pub instance: String,
    /// Where the engine is in its life.
    #[serde(flatten)]
    pub state: EngineState,
    /// Generation that the engine carries out; −1 before the first.
    pub generation: i32,
    /// The tasks.
    pub tasks: Vec<TaskStatus>,
    /// The other members' copies, as they last reported.
    pub others: Vec<MemberTasks>,
}

/// What another member holds, as it last reported.
#[derive(Clone, Debug, Serialize)]
pub struct MemberTasks {
    /// `host:port` of its public listener.
    pub instance: String,
    /// Milliseconds since it was heard last.
    pub heard_ms_ago: Option<u64>,
    /// Its copies.
    pub tasks: Vec<MemberTask>,
}

/// A copy of a task at another member.
#[derive(Clone, Debug, Serialize)]
pub struct MemberTask {
    /// The task.
    pub id: TaskId,
    /// The copy.
    #[serde(flatten)]
    pub copy: LocalCopy,
}

impl From<&HeldTask> for LocalCopy {
    fn from(held: &HeldTask) -> Self {
        Self {
            role: held.role,
            lag_records: held.lag_records.and_then(|lag| i64::try_from(lag).ok()),
            position: super::position_text::format(&held.position),
            staleness_ms: held.staleness.map(super::millis),
        }
    }
}

impl Queries {
    /// Every store that can be queried.
    pub fn describe_stores(&self) -> Vec<StoreDescription> {
        let describe = |store: &std::sync::Arc<super::StoreInfo>| StoreDescription {
            name: store.name.to_string(),
            kind: "key_value",
            storage: if store.persistent { "persistent" } else { "in_memory" },
            key_format: store.key.name().to_owned(),
            value_format: store.value.name().to_owned(),
            partitions: store.partitions,
            subtopology: store.subtopology,
        };
        self.inner.view.cluster().stores().iter().map(describe).collect()
    }

    /// The members of the group and what each holds.
    pub fn describe_instances(&self) -> InstancesDescription {
        let cluster = self.inner.view.cluster();
        let peers = self.inner.forward.peers();
        let describe = |member: &holdfast_types::MemberAssignment| InstanceDescription {
            process_id: member.instance.process_id.to_string(),
            endpoint: member.instance.endpoint.to_string(),
            peer_endpoint: member.instance.peer_endpoint.to_string(),
            threads: member.instance.threads,
            active: member.active.clone(),
            standby: member.standby.clone(),
            warmup: member.warmup.clone(),
            is_self: cluster.is_self(&member.instance),
            condition: peers.condition(member.instance.process_id).as_str(),
            heard_ms_ago: self.heard_ms_ago(peers.get(member.instance.process_id)),
            tags: member.instance.tags.clone(),
        };
        InstancesDescription {
            generation: cluster.generation,
            instances: cluster.members.iter().map(describe).collect(),
        }
    }

    fn heard_ms_ago(&self, peer: Option<&PeerView>) -> Option<u64> {
        Some(super::millis(self.inner.clock.monotonic().saturating_duration_since(peer?.heard?)))
    }

    /// The tasks of this instance, and what the others reported of theirs.
    pub fn describe_tasks(&self) -> TasksDescription {
        let status = self.inner.view.status();
        let peers = self.inner.forward.peers();
        let mut others: Vec<MemberTasks> = peers.iter().map(|peer| self.member_tasks(peer)).collect();
        others.sort_by(|a, b| a.instance.cmp(&b.instance));
        TasksDescription {
            instance: self.inner.view.cluster().instance.to_string(),
            state: status.state.clone(),
            generation: status.generation,
            tasks: status.tasks.clone(),
            others,
        }
    }

    fn member_tasks(&self, peer: &PeerView) -> MemberTasks {
        let held = peer.report.as_ref().map_or(&[][..], |report| &report.tasks);
        MemberTasks {
            instance: peer.instance.endpoint.to_string(),
            heard_ms_ago: self.heard_ms_ago(Some(peer)),
            tasks: held.iter().map(|held| MemberTask { id: held.id, copy: LocalCopy::from(held) }).collect(),
        }
    }
}
