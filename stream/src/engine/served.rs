//! The stores that this instance can be asked for, as readers see them: a map that is replaced as one.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU8, Ordering},
};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use holdfast_store::Table;
use holdfast_types::{Position, Role, StoreName, TaskId};

/// A copy of one store's partition that readers may ask.
#[derive(Debug)]
pub struct ServedTable {
    /// Its committed rows.
    pub table: Arc<Table>,
    /// The task that owns it.
    pub task: TaskId,
    shared: Arc<TaskView>,
}

impl ServedTable {
    pub(crate) fn new(table: Arc<Table>, task: TaskId, shared: Arc<TaskView>) -> Self {
        Self { table, task, shared }
    }

    /// A served copy outside an engine, for tests of the serving layer: active, at `position`.
    pub fn detached(table: Arc<Table>, task: TaskId, role: Role, position: Position) -> Self {
        let view = TaskView::new(role);
        view.publish(position);
        Self { table, task, shared: Arc::new(view) }
    }

    /// What this copy is right now.
    pub fn role(&self) -> Role {
        self.shared.role()
    }

    /// Input offsets (last reflected) that the committed rows reflect.
    pub fn position(&self) -> Arc<Position> {
        self.shared.position()
    }

    /// Changelog offsets still to be replayed while restoring, 0 when active; −1 when not known.
    pub fn lag_records(&self) -> i64 {
        self.shared.lag_records.load(Ordering::Relaxed)
    }
}

/// What a task's owner tells readers.
#[derive(Debug)]
pub(crate) struct TaskView {
    role: AtomicU8,
    position: ArcSwap<Position>,
    lag_records: AtomicI64,
}

impl TaskView {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role: AtomicU8::new(code(role)),
            position: ArcSwap::from_pointee(Position::new()),
            lag_records: AtomicI64::new(0),
        }
    }

    pub(crate) fn role(&self) -> Role {
        match self.role.load(Ordering::Acquire) {
            0 => Role::Active,
            1 => Role::Standby,
            _ => Role::Restoring,
        }
    }

    pub(crate) fn position(&self) -> Arc<Position> {
        self.position.load_full()
    }

    pub(crate) fn set_role(&self, role: Role) {
        self.role.store(code(role), Ordering::Release);
    }

    pub(crate) fn publish(&self, position: Position) {
        self.position.store(Arc::new(position));
    }

    pub(crate) fn set_lag(&self, records: i64) {
        self.lag_records.store(records, Ordering::Relaxed);
    }
}

const fn code(role: Role) -> u8 {
    match role {
        Role::Active => 0,
        Role::Standby => 1,
        Role::Restoring => 2,
    }
}

type Map = HashMap<StoreName, HashMap<i32, Arc<ServedTable>>>;

/// Every store's partitions on this instance.
#[derive(Debug, Default)]
pub struct ServedStores {
    map: ArcSwap<Map>,
}

impl ServedStores {
    /// No stores.
    pub fn new() -> Self {
        Self::default()
    }

    /// The copy of `store`'s partition here, if there is one.
    pub fn get(&self, store: &str, partition: i32) -> Option<Arc<ServedTable>> {
        self.map.load().get(store)?.get(&partition).map(Arc::clone)
    }

    /// Every partition of `store` here, in order.
    pub fn partitions(&self, store: &str) -> Vec<(i32, Arc<ServedTable>)> {
        let map = self.map.load();
        let mut partitions: Vec<_> =
            map.get(store).into_iter().flatten().map(|(partition, table)| (*partition, Arc::clone(table))).collect();
        partitions.sort_by_key(|(partition, _)| *partition);
        partitions
    }

    /// Adds copies, replacing those of the same store and partition.
    pub fn insert(&self, tables: Vec<(StoreName, i32, Arc<ServedTable>)>) {
        self.map.rcu(|map| {
            let mut map = Map::clone(map);
            for (store, partition, table) in &tables {
                map.entry(store.clone()).or_default().insert(*partition, Arc::clone(table));
            }
            map
        });
    }

    /// Takes a task's copies away.
    pub fn remove_task(&self, task: TaskId) {
        self.map.rcu(|map| {
            let mut map = Map::clone(map);
            for partitions in map.values_mut() {
                partitions.retain(|_, table| table.task != task);
            }
            map
        });
    }
}
