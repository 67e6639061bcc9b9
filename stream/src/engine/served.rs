//! The stores that this instance can be asked for, as readers see them: a map that is replaced as one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
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

    /// The same with what is known of how far it is behind; see [`ServedTable::lag_records`], [`ServedTable::caught_up_at`].
    #[must_use]
    pub fn observed(self, lag_records: i64, caught_up_at: Instant) -> Self {
        self.shared.set_lag(lag_records);
        self.shared.caught_up(caught_up_at);
        self
    }

    /// What this copy is right now.
    pub fn role(&self) -> Role {
        self.shared.role()
    }

    /// Input offsets (last reflected) that the committed rows reflect.
    pub fn position(&self) -> Arc<Position> {
        self.shared.position()
    }

    /// Changelog offsets still to be replayed while restoring or following, 0 when active; −1 when not known.
    pub fn lag_records(&self) -> i64 {
        self.shared.lag_records()
    }

    /// When the brokers were last asked, successfully, how far the changelogs go, of which this copy has everything by now: it
    /// lacks nothing that was committed before. `None` while it never caught up, and for a copy that is neither followed nor
    /// active. An active is caught up when its member was last confirmed instead.
    pub fn caught_up_at(&self) -> Option<Instant> {
        self.shared.caught_up_at()
    }
}

/// One task's copy on this instance, for other instances.
#[derive(Clone, Debug)]
pub struct TaskCopy {
    /// The task.
    pub task: TaskId,
    /// What the copy is right now.
    pub role: Role,
    /// Input offsets (last reflected) that its rows reflect, at least.
    pub position: Arc<Position>,
    /// Changelog offsets that it is behind; `None` when not known.
    pub lag_records: Option<u64>,
    /// As [`ServedTable::caught_up_at`].
    pub caught_up_at: Option<Instant>,
}

/// What a task's owner tells readers.
#[derive(Debug)]
pub(crate) struct TaskView {
    role: AtomicU8,
    position: ArcSwap<Position>,
    lag_records: AtomicI64,
    made: Instant,
    /// Nanoseconds after `made`, or before it; [`NEVER`].
    caught_up: AtomicI64,
}

const NEVER: i64 = i64::MIN;

impl TaskView {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role: AtomicU8::new(code(role)),
            position: ArcSwap::from_pointee(Position::new()),
            lag_records: AtomicI64::new(0),
            made: Instant::now(),
            caught_up: AtomicI64::new(NEVER),
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

    pub(crate) fn lag_records(&self) -> i64 {
        self.lag_records.load(Ordering::Relaxed)
    }

    /// The copy has everything that was committed before `at`.
    pub(crate) fn caught_up(&self, at: Instant) {
        let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let after = match at.checked_duration_since(self.made) {
            Some(after) => nanos(after),
            None => -nanos(self.made - at),
        };
        self.caught_up.store(after, Ordering::Release);
    }

    /// Nothing is known any more of how far behind it is.
    pub(crate) fn lose_track(&self) {
        self.caught_up.store(NEVER, Ordering::Release);
        self.set_lag(-1);
    }

    pub(crate) fn caught_up_at(&self) -> Option<Instant> {
        match self.caught_up.load(Ordering::Acquire) {
            NEVER => None,
            before @ ..0 => self.made.checked_sub(Duration::from_nanos(before.unsigned_abs())),
            after => Some(self.made + Duration::from_nanos(after.unsigned_abs())),
        }
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

    /// Every task that has a copy here, in order.
    pub fn copies(&self) -> Vec<TaskCopy> {
        let map = self.map.load();
        let mut views: Vec<_> =
            map.values().flat_map(HashMap::values).map(|table| (table.task, &table.shared)).collect();
        views.sort_by_key(|(task, _)| *task);
        views.dedup_by_key(|(task, _)| *task);
        let copy = |(task, view): (TaskId, &Arc<TaskView>)| TaskCopy {
            task,
            role: view.role(),
            position: view.position(),
            lag_records: u64::try_from(view.lag_records()).ok(),
            caught_up_at: view.caught_up_at(),
        };
        views.into_iter().map(copy).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_tells_when_its_copy_had_caught_up() {
        let before = Instant::now();
        let view = TaskView::new(Role::Restoring);
        assert_eq!(view.caught_up_at(), None);
        for at in [before, before + Duration::from_secs(1)] {
            view.caught_up(at);
            assert_eq!(view.caught_up_at(), Some(at));
        }
        view.lose_track();
        assert_eq!((view.caught_up_at(), view.lag_records()), (None, -1));
    }
}
