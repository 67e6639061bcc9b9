//! What the router sees of the rest of the process: the copies held here, and who holds the others.

use std::{collections::HashMap, fmt, sync::Arc, time::Instant};

use holdfast_stream::{
    codec::{KeyFormat, ValueFormat},
    engine::{EngineStatus, ServedTable},
};
use holdfast_types::{Assignment, Endpoint, InstanceInfo, MemberAssignment, StoreName, SubtopologySpec, TaskId};

/// The seam between the router and the engine. All calls are cheap and never wait.
pub trait StoreView: Send + Sync + fmt::Debug + 'static {
    /// Who is where, as of the assignment in force.
    fn cluster(&self) -> Arc<Cluster>;
    /// The copy of a partition here, if there is one.
    fn copy(&self, store: &str, partition: i32) -> Option<Arc<ServedTable>>;
    /// The engine's report.
    fn status(&self) -> Arc<EngineStatus>;
    /// When the group coordinator last confirmed this member.
    fn last_confirmed(&self) -> Option<Instant>;
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

/// Who holds a task: indices into [`Cluster::members`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The active, if any.
    pub active: Option<usize>,
    /// The standbys.
    pub standbys: Vec<usize>,
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
    placements: HashMap<TaskId, Placement>,
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
            placements: HashMap::new(),
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
        self
    }

    /// The same under another assignment.
    #[must_use]
    pub fn with_assignment(mut self, assignment: &Assignment) -> Self {
        self.generation = assignment.generation;
        self.members.clone_from(&assignment.members);
        self.placements.clear();
        for (index, member) in assignment.members.iter().enumerate() {
            for task in &member.active {
                self.placements.entry(*task).or_default().active = Some(index);
            }
            for task in &member.standby {
                self.placements.entry(*task).or_default().standbys.push(index);
            }
        }
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

    /// The instance that processes `task`.
    pub fn active(&self, task: TaskId) -> Option<&InstanceInfo> {
        let index = self.placements.get(&task)?.active?;
        self.members.get(index).map(|member| &member.instance)
    }

    /// The instances that follow `task`.
    pub fn standbys(&self, task: TaskId) -> impl Iterator<Item = &InstanceInfo> {
        let indices = self.placements.get(&task).map_or(&[][..], |placement| placement.standbys.as_slice());
        indices.iter().filter_map(|index| self.members.get(*index)).map(|member| &member.instance)
    }

    /// Whether `instance` is this one.
    pub fn is_self(&self, instance: &InstanceInfo) -> bool {
        instance.endpoint == *self.instance
    }
}
