//! What the service tells about itself: where a key lives, the members, the tasks, the graph. Plain data that REST writes as
//! JSON and gRPC as messages, so that both say the same.

use std::collections::BTreeMap;

use holdfast_stream::engine::{EngineState, TaskStatus};
use holdfast_types::{Role, TaskId};
use serde::Serialize;

use super::{Queries, QueryError};

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

/// The answer of `/v1/route`.
#[derive(Clone, Debug, Serialize)]
pub struct RouteExplanation {
    /// The store.
    pub store: String,
    /// The key's text.
    pub key: String,
    /// Its partition.
    pub partition: i32,
    /// The task that owns the partition.
    pub task: TaskId,
    /// `host:port` of the active's public listener.
    pub active: Option<String>,
    /// `host:port` of the standbys' public listeners.
    pub standbys: Vec<String>,
    /// Which instance would be asked first.
    pub would_ask: Option<String>,
    /// Generation of the assignment that says so; −1 before the first.
    pub generation: i32,
    /// The copy that the answering instance holds, if any.
    pub local: Option<LocalCopy>,
}

/// The answering instance's own copy.
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
    /// Whether it is the answering one.
    #[serde(rename = "self")]
    pub is_self: bool,
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

    /// Where `key` (its bytes) lives.
    pub fn explain_route(&self, store: &str, key: &[u8]) -> Result<RouteExplanation, QueryError> {
        let cluster = self.inner.view.cluster();
        let store = self.find_store(&cluster, store)?;
        self.check_key(key)?;
        let partition = self.partition(&store, key)?;
        let task = TaskId::new(store.subtopology, partition);
        let active = cluster.active(&store.name, partition).map(|instance| instance.endpoint.to_string());
        let local = self.inner.view.copy(&store.name, partition).map(|copy| {
            let role = copy.role();
            let staleness = self.staleness(&copy, role, self.inner.clock.monotonic());
            LocalCopy {
                role,
                lag_records: Some(copy.lag_records()).filter(|lag| *lag >= 0),
                position: super::position_text::format(&copy.position()),
                staleness_ms: staleness.map(super::millis),
            }
        });
        let here = local.as_ref().is_some_and(|copy| copy.role == Role::Active);
        Ok(RouteExplanation {
            store: store.name.to_string(),
            key: store.key.to_text(key).unwrap_or_default(),
            partition,
            task,
            would_ask: if here { Some(cluster.instance.to_string()) } else { active.clone() },
            active,
            standbys: cluster.standbys(&store.name, partition).iter().map(|copy| copy.endpoint.to_string()).collect(),
            generation: cluster.generation,
            local,
        })
    }

    /// The members of the group and what each holds.
    pub fn describe_instances(&self) -> InstancesDescription {
        let cluster = self.inner.view.cluster();
        let describe = |member: &holdfast_types::MemberAssignment| InstanceDescription {
            process_id: member.instance.process_id.to_string(),
            endpoint: member.instance.endpoint.to_string(),
            peer_endpoint: member.instance.peer_endpoint.to_string(),
            threads: member.instance.threads,
            active: member.active.clone(),
            standby: member.standby.clone(),
            is_self: cluster.is_self(&member.instance),
            tags: member.instance.tags.clone(),
        };
        InstancesDescription {
            generation: cluster.generation,
            instances: cluster.members.iter().map(describe).collect(),
        }
    }

    /// The tasks of this instance.
    pub fn describe_tasks(&self) -> TasksDescription {
        let status = self.inner.view.status();
        TasksDescription {
            instance: self.inner.view.cluster().instance.to_string(),
            state: status.state.clone(),
            generation: status.generation,
            tasks: status.tasks.clone(),
        }
    }
}
