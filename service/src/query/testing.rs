//! A view over temporary stores, for tests of the router and of what stands on it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_discovery::peers::{Condition, Event, HeldTask, PeerReport, Peers, PeersView, Settings};
use holdfast_store::{AppliedBatch, MemoryBudget, RowChange, StoreKind, StoreSpec, TaskStore, TaskStoreSpec};
use holdfast_stream::{
    codec::{Codec, CodecError, I64, KeyFormat, Utf8, ValueFormat},
    engine::{EngineState, EngineStatus, RestoreStatus, ServedTable, TaskStatus},
};
use holdfast_types::{
    AssignedRole, Assignment, Confirmed, Endpoint, InstanceInfo, MemberAssignment, Position, ProcessId, Role,
    StoreName, SubtopologySpec, TaskId, partition_for,
};
use parking_lot::Mutex;
use uuid::Uuid;

use super::{Cluster, Queries, QueryLimits, StoreInfo, StoreView, describe::TopologyPictures};

/// Partitions of every store in tests.
pub(crate) const PARTITIONS: i32 = 3;

/// A codec as a key format.
#[derive(Debug)]
pub(crate) struct Keys<C>(pub(crate) C, pub(crate) &'static str);

impl<C: Codec + std::fmt::Debug> KeyFormat for Keys<C> {
    fn name(&self) -> &str {
        self.1
    }
    fn parse_text(&self, text: &str) -> Result<Vec<u8>, CodecError> {
        self.0.parse_text(text)
    }
    fn to_json(&self, bytes: &[u8]) -> Result<serde_json::Value, CodecError> {
        self.to_text(bytes).map(serde_json::Value::String)
    }
    fn to_text(&self, bytes: &[u8]) -> Result<String, CodecError> {
        self.0.to_text(bytes)
    }
}

/// Values that are JSON already.
#[derive(Debug)]
pub(crate) struct RawJson;

impl ValueFormat for RawJson {
    fn name(&self) -> &str {
        "json"
    }
    fn write_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        if bytes == b"broken" {
            return Err(CodecError::malformed("JSON", "broken"));
        }
        out.extend_from_slice(bytes);
        Ok(())
    }
}

/// What a test can change while requests run.
#[derive(Debug)]
struct State {
    cluster: Arc<Cluster>,
    /// With the stores that they are of: a store that is dropped closes its tables.
    copies: HashMap<(StoreName, i32), (Arc<ServedTable>, Arc<TaskStore>)>,
    status: Arc<EngineStatus>,
    last_confirmed: Option<Instant>,
    tenure: u64,
    confirm_on_request: bool,
}

/// A view that tests fill.
#[derive(Debug)]
pub(crate) struct FakeView {
    state: Mutex<State>,
    budget: Arc<MemoryBudget>,
}

/// Generation 5 of these members; this instance holds nothing in it.
pub(crate) fn assignment(members: Vec<MemberAssignment>) -> Assignment {
    Assignment { generation: 5, tenure: 0, active: Vec::new(), standby: Vec::new(), warmup: Vec::new(), members }
}

pub(crate) fn member(endpoint: &str, active: Vec<TaskId>, standby: Vec<TaskId>) -> MemberAssignment {
    let endpoint: Endpoint = endpoint.parse().unwrap();
    MemberAssignment {
        instance: InstanceInfo {
            process_id: ProcessId(Uuid::from_u128(u128::from(endpoint.port))),
            peer_endpoint: Endpoint::new(endpoint.host.clone(), endpoint.port + 1),
            endpoint,
            threads: 1,
            tags: [("rack".to_owned(), "r1".to_owned())].into(),
            transactional_ids: Vec::new(),
        },
        active,
        standby,
        warmup: Vec::new(),
    }
}

/// A member at an address of its own, by its port.
pub(crate) fn peer(port: u16) -> MemberAssignment {
    member(&format!("10.0.0.1:{port}"), Vec::new(), Vec::new())
}

/// A position in the input of every store.
pub(crate) fn items(partition: i32, offset: i64) -> Position {
    let mut position = Position::new();
    position.advance(&"items".into(), partition, offset);
    position
}

/// A copy as it is reported.
pub(crate) fn held(task: TaskId, role: Role, staleness_ms: u64) -> HeldTask {
    let staleness = Some(Duration::from_millis(staleness_ms));
    HeldTask { id: task, role, lag_records: None, staleness, position: Position::new(), changelog: Vec::new() }
}

/// What is known of peers that reported `tasks`, each in a condition.
pub(crate) fn known(peers: &[(u16, Option<Vec<HeldTask>>, Condition)]) -> PeersView {
    let me = member(SELF, Vec::new(), Vec::new()).instance.process_id;
    let now = Instant::now();
    let settings = Settings { me, peer_timeout: Duration::from_secs(3), exactly_once: true };
    let mut machine = Peers::new(settings, now);
    let members = peers.iter().map(|(port, ..)| Arc::new(peer(*port).instance)).collect();
    machine.handle(now, Event::Members { generation: 1, members });
    for (port, tasks, _) in peers {
        let Some(tasks) = tasks.clone() else { continue };
        machine.handle(
            now,
            Event::Heard(PeerReport {
                process_id: peer(*port).instance.process_id,
                incarnation: 1,
                member_id: None,
                generation: 1,
                leaving: false,
                transactional_ids: Vec::new(),
                tasks,
                opinions: Vec::new(),
                evicted: Vec::new(),
            }),
        );
    }
    let mut view = machine.view(now);
    for (port, _, condition) in peers {
        view.worsen(peer(*port).instance.process_id, *condition);
    }
    view
}

/// Address that the fake instance has in the cluster.
pub(crate) const SELF: &str = "127.0.0.1:7070";

impl FakeView {
    /// Stores `Words` (text keys) and `Numbers` (i64 keys), all partitions active here, confirmed now.
    pub(crate) fn new() -> Arc<Self> {
        let store = |name: &str, subtopology, key: Arc<dyn KeyFormat>| StoreInfo {
            name: name.into(),
            persistent: subtopology == 0,
            key,
            value: Arc::new(RawJson),
            subtopology,
            partitions: 0,
            inputs: Vec::new(),
        };
        let spec = |id, store: &str| SubtopologySpec {
            id,
            fingerprint: "f".to_owned(),
            source_topics: vec!["items".into()],
            stores: vec![store.into()],
            partitions: PARTITIONS,
        };
        let tasks: Vec<TaskId> = (0..2).flat_map(|sub| (0..PARTITIONS).map(move |p| TaskId::new(sub, p))).collect();
        let members = vec![member(SELF, tasks.clone(), Vec::new())];
        let assignment = Assignment {
            generation: 4,
            tenure: 0,
            active: tasks.clone(),
            standby: Vec::new(),
            warmup: Vec::new(),
            members,
        };
        let stores =
            vec![store("Words", 0, Arc::new(Keys(Utf8, "utf8"))), store("Numbers", 1, Arc::new(Keys(I64, "i64")))];
        let cluster = Cluster::new(SELF.parse().unwrap(), stores)
            .with_subtopologies(&[spec(0, "Words"), spec(1, "Numbers")])
            .with_assignment(&assignment);
        let status = EngineStatus::of(EngineState::Running, 4);
        let view = Arc::new(Self {
            state: Mutex::new(State {
                cluster: Arc::new(cluster),
                copies: HashMap::new(),
                status: Arc::new(status),
                last_confirmed: Some(Instant::now()),
                tenure: 0,
                confirm_on_request: false,
            }),
            budget: MemoryBudget::new(64 * 1024 * 1024),
        });
        for (index, name) in ["Words", "Numbers"].into_iter().enumerate() {
            for partition in 0..PARTITIONS {
                view.open(name, TaskId::new(index as u32, partition), Role::Active, Vec::new());
            }
        }
        view
    }

    /// Rows of `store` by key bytes: each goes to the partition of its key.
    pub(crate) fn fill<'a>(&self, store: &str, subtopology: u32, rows: impl IntoIterator<Item = (&'a [u8], &'a str)>) {
        let mut parts: Vec<Vec<RowChange>> = (0..PARTITIONS).map(|_| Vec::new()).collect();
        for (index, (key, value)) in rows.into_iter().enumerate() {
            parts[partition_for(key, PARTITIONS) as usize].push(RowChange {
                key: Bytes::copy_from_slice(key),
                value: Some(Bytes::copy_from_slice(value.as_bytes())),
                timestamp_ms: 1_000 + index as i64,
                offset: index as i64,
            });
        }
        for (partition, rows) in parts.into_iter().enumerate() {
            self.open(store, TaskId::new(subtopology, partition as i32), Role::Active, rows);
        }
    }

    /// Puts a copy in place of the one that was there.
    pub(crate) fn open(&self, store: &str, task: TaskId, role: Role, rows: Vec<RowChange>) {
        let spec = TaskStoreSpec {
            task,
            fingerprint: "f".to_owned(),
            stores: vec![StoreSpec { name: store.into(), kind: StoreKind::InMemory, changelog: None }],
        };
        let tables = TaskStore::temporary(&self.budget, &spec);
        tables.apply(AppliedBatch { rows: vec![rows], ..AppliedBatch::default() }).unwrap();
        let position = items(task.partition, 41);
        let copy = ServedTable::detached(Arc::clone(tables.table(0)), task, role, position);
        self.state.lock().copies.insert((store.into(), task.partition), (Arc::new(copy), tables));
    }

    /// Follows the input up to `offset`; copies are opened at 41.
    pub(crate) fn reach(&self, store: &str, partition: i32, offset: i64) {
        if let Some((copy, _)) = self.state.lock().copies.get(&(StoreName::from(store), partition)) {
            copy.reflects(items(partition, offset));
        }
    }

    /// Takes a copy away.
    pub(crate) fn close(&self, store: &str, partition: i32) {
        self.state.lock().copies.remove(&(StoreName::from(store), partition));
    }

    pub(crate) fn set_confirmed(&self, at: Option<Instant>) {
        self.state.lock().last_confirmed = at;
    }

    /// The membership was lost, and the group joined again: the copies here are active in the one before.
    pub(crate) fn next_membership(&self) {
        self.state.lock().tenure += 1;
    }

    /// Every request for a heartbeat is answered at once.
    pub(crate) fn confirm_on_request(&self) {
        self.state.lock().confirm_on_request = true;
    }

    pub(crate) fn set_state(&self, state: EngineState) {
        let mut held = self.state.lock();
        held.status = Arc::new(EngineStatus { state, ..EngineStatus::clone(&held.status) });
    }

    /// Reports the engine as in this generation.
    pub(crate) fn set_generation(&self, generation: i32) {
        let mut held = self.state.lock();
        held.status = Arc::new(EngineStatus { generation, ..EngineStatus::clone(&held.status) });
    }

    pub(crate) fn set_cluster(&self, change: impl FnOnce(Cluster) -> Cluster) {
        let mut state = self.state.lock();
        state.cluster = Arc::new(change(Cluster::clone(&state.cluster)));
    }

    /// Reports `task` as restoring.
    pub(crate) fn set_restoring(&self, task: TaskId, remaining_records: u64, eta: Option<Duration>) {
        let mut state = self.state.lock();
        let mut status = EngineStatus::clone(&state.status);
        status.state = EngineState::Restoring;
        status.tasks.push(TaskStatus {
            id: task,
            role: Role::Restoring,
            assigned: AssignedRole::Active,
            thread: Some(0),
            stores: vec!["Words".into()],
            committed: [("items-0".to_owned(), 42)].into(),
            lag_records: [("items-0".to_owned(), 7)].into(),
            changelog_lag: None,
            staleness_ms: None,
            stream_time_ms: 5,
            restore: Some(RestoreStatus {
                restored_records: 1,
                total_records: remaining_records + 1,
                remaining_records,
                eta,
            }),
            waiting_for: None,
        });
        state.status = Arc::new(status);
    }

    pub(crate) fn queries(self: &Arc<Self>) -> Queries {
        self.queries_with(QueryLimits::default())
    }

    pub(crate) fn queries_with(self: &Arc<Self>, limits: QueryLimits) -> Queries {
        let pictures = TopologyPictures {
            text: "Topologies:".to_owned(),
            mermaid: "graph TD".to_owned(),
            dot: "digraph {}".to_owned(),
            json: serde_json::json!({"subtopologies": []}),
        };
        Queries::new(Arc::clone(self) as Arc<dyn StoreView>, limits, pictures)
    }
}

impl StoreView for FakeView {
    fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.state.lock().cluster)
    }
    fn copy(&self, store: &str, partition: i32) -> Option<Arc<ServedTable>> {
        self.state.lock().copies.get(&(StoreName::from(store), partition)).map(|(copy, _)| Arc::clone(copy))
    }
    fn status(&self) -> Arc<EngineStatus> {
        Arc::clone(&self.state.lock().status)
    }
    fn last_confirmed(&self) -> Option<Confirmed> {
        let state = self.state.lock();
        state.last_confirmed.map(|at| Confirmed { at, tenure: state.tenure })
    }
    fn request_confirmation(&self) {
        let mut state = self.state.lock();
        if state.confirm_on_request {
            state.last_confirmed = Some(Instant::now());
        }
    }
}
