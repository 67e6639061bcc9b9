//! What the router sees of the rest of the process: the copies held here, and who holds the others.

use std::{fmt, sync::Arc};

use hashbrown::HashMap;
use holdfast_discovery::{
    GroupMember,
    routing::{PartitionRoute, RoutingSnapshot},
};
use holdfast_stream::{
    codec::{KeyFormat, ValueFormat},
    engine::{EngineStatus, ServedTable},
};
use holdfast_types::{
    Assignment, Confirmed, Endpoint, GroupSession, InstanceInfo, MemberAssignment, Position, StoreName,
    SubtopologySpec, TaskId,
};
use tokio::sync::Notify;

/// The seam between the router and the engine. All calls are cheap and never wait.
pub trait StoreView: Send + Sync + fmt::Debug + 'static {
    /// Who is where, as of the assignment in force.
    fn cluster(&self) -> Arc<Cluster>;
    /// The copy of a partition here, if there is one.
    fn copy(&self, store: &str, partition: i32) -> Option<Arc<ServedTable>>;
    /// The engine's report.
    fn status(&self) -> Arc<EngineStatus>;
    /// When the heartbeat was sent with which the group coordinator last confirmed this member.
    fn last_confirmed(&self) -> Option<Confirmed>;
    /// Wakes those who wait for [`StoreView::last_confirmed`] to move; one that never does makes them look now and then.
    fn confirmations(&self) -> Arc<Notify> {
        Arc::default()
    }
    /// The membership of the group, once there is one.
    fn group(&self) -> Option<GroupMember> {
        None
    }
    /// The member id that the group coordinator gave.
    fn member_id(&self) -> Option<Arc<str>> {
        Some(self.group()?.metadata()?.member_id)
    }
    /// Another instance's active copy of `task` reflected `position` when its changelogs stood at `changelog`: a copy here that
    /// follows them can tell its position by that.
    fn learn(&self, task: TaskId, position: &Position, changelog: &[i64]) {
        let _ = (task, position, changelog);
    }
    /// Asks for a heartbeat soon, because a strong read waits. Without it the next regular one is waited for.
    fn request_confirmation(&self) {}
}

/// A store that can be queried.
#[derive(Clone, Debug)]
pub struct StoreInfo {
    /// Its name.
    pub name: StoreName,
    /// Whether its rows are on disk.
    pub persistent: bool,
    /// How keys are read and shown.
    pub key: Arc<dyn KeyFormat>,
    /// How values are shown.
    pub value: Arc<dyn ValueFormat>,
    /// The sub-topology that owns it.
    pub subtopology: u32,
    /// Its partitions; 0 until the input topics are known.
    pub partitions: i32,
    /// Topics that its sub-topology reads: what a position of it can name. Empty until they are known.
    pub inputs: Vec<Arc<str>>,
}

/// Who is where: an immutable snapshot, replaced at every assignment.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Public listener of this instance.
    pub instance: Arc<Endpoint>,
    /// Generation of the assignment; −1 before the first.
    pub generation: i32,
    /// All members of the group.
    pub members: Vec<MemberAssignment>,
    stores: Vec<Arc<StoreInfo>>,
    by_name: HashMap<StoreName, usize>,
    subtopologies: Vec<SubtopologySpec>,
    routes: RoutingSnapshot,
}

impl Cluster {
    /// What is known before the input topics are: the stores, without partitions.
    pub fn new(instance: Endpoint, mut stores: Vec<StoreInfo>) -> Self {
        stores.sort_by(|a, b| a.name.cmp(&b.name));
        let by_name = stores.iter().enumerate().map(|(index, store)| (store.name.clone(), index)).collect();
        Self {
            instance: Arc::new(instance),
            generation: -1,
            members: Vec::new(),
            stores: stores.into_iter().map(Arc::new).collect(),
            by_name,
            subtopologies: Vec::new(),
            routes: RoutingSnapshot::default(),
        }
    }

    /// The same with partitions and inputs from the group's sub-topologies.
    #[must_use]
    pub fn with_subtopologies(mut self, subtopologies: &[SubtopologySpec]) -> Self {
        for store in &mut self.stores {
            if let Some(spec) = subtopologies.iter().find(|spec| spec.id == store.subtopology) {
                let store = Arc::make_mut(store);
                store.partitions = spec.partitions;
                store.inputs.clone_from(&spec.source_topics);
            }
        }
        self.subtopologies = subtopologies.to_vec();
        self.routes = RoutingSnapshot::unassigned(subtopologies);
        self
    }

    /// The same under another assignment.
    #[must_use]
    pub fn with_assignment(mut self, assignment: &Assignment) -> Self {
        self.generation = assignment.generation;
        self.members.clone_from(&assignment.members);
        self.routes = RoutingSnapshot::of(assignment, &self.subtopologies);
        self
    }

    /// All stores, in order of name.
    pub fn stores(&self) -> &[Arc<StoreInfo>] {
        &self.stores
    }

    /// The store of that name.
    pub fn store(&self, name: &str) -> Option<&Arc<StoreInfo>> {
        self.by_name.get(name).and_then(|index| self.stores.get(*index))
    }

    /// Who holds a partition of a store.
    pub fn route(&self, store: &str, partition: i32) -> Option<&PartitionRoute> {
        self.routes.route(store, partition).ok()
    }

    /// The instance that processes a partition of a store.
    pub fn active(&self, store: &str, partition: i32) -> Option<&Arc<InstanceInfo>> {
        self.route(store, partition)?.active.as_ref()
    }

    /// The instances that follow a partition of a store.
    pub fn standbys(&self, store: &str, partition: i32) -> &[Arc<InstanceInfo>] {
        self.route(store, partition).map_or(&[], |route| &route.standbys)
    }

    /// Whether `instance` is this one.
    pub fn is_self(&self, instance: &InstanceInfo) -> bool {
        instance.endpoint == *self.instance
    }
}
