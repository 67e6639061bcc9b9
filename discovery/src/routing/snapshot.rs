//! One immutable picture of who holds which partition of which store.

use std::{collections::HashMap, sync::Arc};

use holdfast_types::{Assignment, InstanceInfo, ProcessId, StoreName, SubtopologySpec, TaskId, partition_for};

/// Who holds what in one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingSnapshot {
    generation: Option<i32>,
    instances: Vec<Arc<InstanceInfo>>,
    stores: HashMap<StoreName, StoreRoutes>,
}

/// The partitions of one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRoutes {
    partitions: Vec<PartitionRoute>,
}

/// Who holds one partition of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRoute {
    /// The task that owns the partition.
    pub task: TaskId,
    /// The instance that processes it; `None` while it is handed over, or while no member can run it.
    pub active: Option<Arc<InstanceInfo>>,
    /// The instances that follow it.
    pub standbys: Vec<Arc<InstanceInfo>>,
    /// The instances that follow it until they have caught up, to get it then.
    pub warmups: Vec<Arc<InstanceInfo>>,
}

/// The question names something that the topology does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No sub-topology owns such a store.
    #[error("no store {0} in this topology")]
    UnknownStore(String),
    /// The store has fewer partitions.
    #[error("store {store} has partitions 0 to {last}, asked for {partition}")]
    NoSuchPartition {
        /// The store.
        store: StoreName,
        /// What was asked for.
        partition: i32,
        /// The highest one there is.
        last: i32,
    },
}

impl RoutingSnapshot {
    /// The picture before the first assignment: stores and partitions are known, nobody holds them.
    pub fn unassigned(subtopologies: &[SubtopologySpec]) -> Self {
        Self::build(None, &[], subtopologies)
    }

    /// The picture of an assignment.
    pub fn of(assignment: &Assignment, subtopologies: &[SubtopologySpec]) -> Self {
        Self::build(Some(assignment.generation), &assignment.members, subtopologies)
    }

    fn build(
        generation: Option<i32>,
        members: &[holdfast_types::MemberAssignment],
        subtopologies: &[SubtopologySpec],
    ) -> Self {
        let instances: Vec<Arc<InstanceInfo>> =
            members.iter().map(|member| Arc::new(member.instance.clone())).collect();
        let mut active: HashMap<TaskId, &Arc<InstanceInfo>> = HashMap::new();
        let mut standbys: HashMap<TaskId, Vec<Arc<InstanceInfo>>> = HashMap::new();
        let mut warmups: HashMap<TaskId, Vec<Arc<InstanceInfo>>> = HashMap::new();
        for (member, instance) in members.iter().zip(&instances) {
            active.extend(member.active.iter().map(|task| (*task, instance)));
            for task in &member.standby {
                standbys.entry(*task).or_default().push(Arc::clone(instance));
            }
            for task in &member.warmup {
                warmups.entry(*task).or_default().push(Arc::clone(instance));
            }
        }
        let mut stores = HashMap::new();
        for subtopology in subtopologies {
            let route = |partition| {
                let task = TaskId::new(subtopology.id, partition);
                PartitionRoute {
                    task,
                    active: active.get(&task).map(|instance| Arc::clone(instance)),
                    standbys: standbys.get(&task).cloned().unwrap_or_default(),
                    warmups: warmups.get(&task).cloned().unwrap_or_default(),
                }
            };
            let routes = StoreRoutes { partitions: (0..subtopology.partitions).map(route).collect() };
            stores.extend(subtopology.stores.iter().map(|store| (store.clone(), routes.clone())));
        }
        Self { generation, instances, stores }
    }

    /// The generation that this is the picture of; `None` before the first assignment.
    pub fn generation(&self) -> Option<i32> {
        self.generation
    }

    /// All members of the group.
    pub fn instances(&self) -> &[Arc<InstanceInfo>] {
        &self.instances
    }

    /// The member with this process id.
    pub fn instance(&self, process_id: ProcessId) -> Option<&Arc<InstanceInfo>> {
        self.instances.iter().find(|instance| instance.process_id == process_id)
    }

    /// The routes of a store.
    pub fn store(&self, store: &str) -> Option<&StoreRoutes> {
        self.stores.get(store)
    }

    /// All stores, in no particular order.
    pub fn stores(&self) -> impl Iterator<Item = (&StoreName, &StoreRoutes)> {
        self.stores.iter()
    }

    /// The partition of a key, which the caller gives as its codec encodes it, and who holds that partition.
    ///
    /// # Errors
    /// The topology has no such store.
    pub fn route_key(&self, store: &str, key: &[u8]) -> Result<&PartitionRoute, RouteError> {
        let unknown = || RouteError::UnknownStore(store.to_owned());
        let routes = self.stores.get(store).ok_or_else(unknown)?;
        routes.route_key(key).ok_or_else(unknown)
    }

    /// Who holds a partition.
    ///
    /// # Errors
    /// The topology has no such store, or the store no such partition.
    pub fn route(&self, store: &str, partition: i32) -> Result<&PartitionRoute, RouteError> {
        let (name, routes) =
            self.stores.get_key_value(store).ok_or_else(|| RouteError::UnknownStore(store.to_owned()))?;
        let found = usize::try_from(partition).ok().and_then(|index| routes.partitions.get(index));
        found.ok_or_else(|| RouteError::NoSuchPartition {
            store: name.clone(),
            partition,
            last: routes.partition_count() - 1,
        })
    }
}

impl StoreRoutes {
    /// Number of partitions.
    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// By partition.
    pub fn partitions(&self) -> &[PartitionRoute] {
        &self.partitions
    }

    /// Who holds the partition of a key; `None` only for a store without partitions.
    pub fn route_key(&self, key: &[u8]) -> Option<&PartitionRoute> {
        let partition = partition_for(key, self.partition_count());
        self.partitions.get(usize::try_from(partition).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_types::{Endpoint, MemberAssignment};
    use uuid::Uuid;

    use super::*;

    fn instance(number: u128) -> InstanceInfo {
        let port = 7000 + u16::try_from(number).unwrap();
        InstanceInfo {
            process_id: ProcessId(Uuid::from_u128(number)),
            endpoint: Endpoint::new("127.0.0.1", port),
            peer_endpoint: Endpoint::new("127.0.0.1", port + 1000),
            threads: 1,
            tags: Default::default(),
            transactional_ids: Vec::new(),
        }
    }

    fn specs() -> Vec<SubtopologySpec> {
        let spec = |id, stores: &[&str], partitions| SubtopologySpec {
            id,
            fingerprint: String::new(),
            source_topics: vec!["items".into()],
            stores: stores.iter().map(|store| StoreName::from(*store)).collect(),
            partitions,
        };
        vec![spec(0, &["by-store", "totals"], 2), spec(1, &["by-item"], 3), spec(2, &[], 5)]
    }

    fn assignment() -> Assignment {
        let task = |text: &str| text.parse().unwrap();
        let member = |number, active: &[&str], standby: &[&str]| MemberAssignment {
            instance: instance(number),
            active: active.iter().map(|text| task(text)).collect(),
            standby: standby.iter().map(|text| task(text)).collect(),
            warmup: Vec::new(),
        };
        let members = vec![member(1, &["0_0", "1_1", "2_0"], &["0_1"]), member(2, &["0_1", "1_0"], &["0_0", "1_1"])];
        Assignment { generation: 7, tenure: 0, active: Vec::new(), standby: Vec::new(), warmup: Vec::new(), members }
    }

    #[test]
    fn partitions_lead_to_their_holders() {
        let snapshot = RoutingSnapshot::of(&assignment(), &specs());
        assert_eq!(snapshot.generation(), Some(7));
        assert_eq!(snapshot.instances().len(), 2);
        let ports = |store: &str, partition: i32| {
            let route = snapshot.route(store, partition).unwrap();
            let standbys: Vec<u16> = route.standbys.iter().map(|instance| instance.endpoint.port).collect();
            (route.task.to_string(), route.active.as_ref().map(|instance| instance.endpoint.port), standbys)
        };
        assert_eq!(ports("by-store", 0), ("0_0".to_owned(), Some(7001), vec![7002]));
        assert_eq!(ports("totals", 1), ("0_1".to_owned(), Some(7002), vec![7001]));
        assert_eq!(ports("by-item", 1), ("1_1".to_owned(), Some(7001), vec![7002]));
        // Withheld while it is handed over.
        assert_eq!(ports("by-item", 2), ("1_2".to_owned(), None, vec![]));
    }

    #[test]
    fn a_key_goes_where_kafkas_partitioner_puts_it() {
        let snapshot = RoutingSnapshot::of(&assignment(), &specs());
        for key in ["Store_1", "Store_2", "", "äöü"] {
            let route = snapshot.route_key("by-item", key.as_bytes()).unwrap();
            assert_eq!(route.task, TaskId::new(1, partition_for(key.as_bytes(), 3)), "{key}");
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let snapshot = RoutingSnapshot::unassigned(&specs());
        assert_eq!(snapshot.generation(), None);
        assert_eq!(snapshot.route("by-item", 0).unwrap().active, None);
        assert_eq!(snapshot.store("by-store").unwrap().partition_count(), 2);
        assert_eq!(snapshot.route_key("none", b"x"), Err(RouteError::UnknownStore("none".to_owned())));
        for partition in [-1, 3] {
            let error = snapshot.route("by-item", partition).unwrap_err();
            assert_eq!(error.to_string(), format!("store by-item has partitions 0 to 2, asked for {partition}"));
        }
    }
}
