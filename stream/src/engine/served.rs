//! The stores that this instance can be asked for, as readers see them: a map that is replaced as one.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use holdfast_store::Table;
use holdfast_types::{Confirmed, Position, Role, StoreName, TaskId};
use parking_lot::Mutex;

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
        view.publish(position, Vec::new());
        Self { table, task, shared: Arc::new(view) }
    }

    /// What a detached copy reflects from now on.
    pub fn reflects(&self, position: Position) {
        self.shared.publish(position, Vec::new());
    }

    /// The same with what is known of how far it is behind; see [`ServedTable::lag_records`], [`ServedTable::caught_up_at`].
    #[must_use]
    pub fn observed(self, lag_records: i64, caught_up_at: Instant) -> Self {
        self.shared.set_lag(lag_records);
        self.shared.caught_up(caught_up_at);
        self
    }

    /// As of when an active has all that was committed, if the coordinator `confirmed` its membership: a commit that is on its way
    /// may be done, and be seen by others, before its rows are visible here. `None` if it was active in another membership:
    /// nobody knows what its next owner has committed.
    pub fn active_as_of(&self, confirmed: Confirmed) -> Option<Instant> {
        self.shared.active_as_of(confirmed)
    }

    /// Whether the membership in which it is, or was, active has ended, `confirmed` being the last confirmation of the present one
    /// (`None` while there is none): nothing that the coordinator says from now on confirms this copy. One that is active in a newer
    /// membership than was confirmed has its confirmation still to come.
    pub fn membership_is_over(&self, confirmed: Option<Confirmed>) -> bool {
        self.shared.membership_is_over(confirmed)
    }

    /// What this copy is right now.
    pub fn role(&self) -> Role {
        self.shared.role()
    }

    /// Input offsets (last reflected) that the committed rows reflect.
    pub fn position(&self) -> Arc<Position> {
        self.shared.position()
    }

    /// The position, and of an active, next offsets of its changelogs when it reflected that position, store by store (0 without
    /// a changelog): a copy that has followed so far reflects it, too; see [`ServedStores::learn`].
    pub fn reflected(&self) -> (Arc<Position>, Vec<i64>) {
        let active = self.role() == Role::Active;
        let Reflected { position, changelog } = Reflected::clone(&self.shared.commit.load());
        (position, if active { changelog } else { Vec::new() })
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

/// What a task's owner tells readers.
#[derive(Debug)]
pub(crate) struct TaskView {
    role: AtomicU8,
    /// See [`Confirmed::tenure`].
    tenure: AtomicU64,
    commit: ArcSwap<Reflected>,
    /// What the active told of itself, where this copy is not there yet; oldest first.
    learned: Mutex<VecDeque<Reflected>>,
    lag_records: AtomicI64,
    made: Instant,
    /// Nanoseconds after `made`, or before it; [`NEVER`].
    caught_up: AtomicI64,
    /// The same, since when a commit is on its way; [`NEVER`] while none is.
    committing: AtomicI64,
    /// The same, since when another instance is known to be active; [`NEVER`] while none is.
    active_elsewhere: AtomicI64,
}

const NEVER: i64 = i64::MIN;

/// Positions that are remembered until they are reached.
const LEARNED: usize = 16;

/// A position, and the changelogs' next offsets (store by store) from which on rows reflect it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reflected {
    position: Arc<Position>,
    changelog: Vec<i64>,
}

impl Reflected {
    fn is_reached(&self, next: &[i64]) -> bool {
        self.changelog.len() == next.len() && self.changelog.iter().zip(next).all(|(at, next)| at <= next)
    }
}

impl TaskView {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role: AtomicU8::new(code(role)),
            tenure: AtomicU64::new(0),
            commit: ArcSwap::default(),
            learned: Mutex::default(),
            lag_records: AtomicI64::new(0),
            made: Instant::now(),
            caught_up: AtomicI64::new(NEVER),
            committing: AtomicI64::new(NEVER),
            active_elsewhere: AtomicI64::new(NEVER),
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
        Arc::clone(&self.commit.load().position)
    }

    pub(crate) fn set_role(&self, role: Role) {
        self.role.store(code(role), Ordering::Release);
    }

    /// Rows reflect `position` now; `changelog` as in [`ServedTable::reflected`].
    pub(crate) fn publish(&self, position: Position, changelog: Vec<i64>) {
        self.commit.store(Arc::new(Reflected { position: Arc::new(position), changelog }));
    }

    /// The same rows are to be told by another position: an input began anew.
    pub(crate) fn publish_position(&self, position: Position) {
        let changelog = self.commit.load().changelog.clone();
        self.publish(position, changelog);
    }

    fn learn(&self, position: &Position, changelog: &[i64]) {
        let mut learned = self.learned.lock();
        if learned.len() == LEARNED || learned.back().is_some_and(|last| last.changelog == changelog) {
            // Of the same rows, the later position; else the oldest stays, which is reached first.
            learned.pop_back();
        }
        learned.push_back(Reflected { position: Arc::new(position.clone()), changelog: changelog.to_vec() });
    }

    /// The copy, which is followed, has everything before `next`, store by store.
    pub(crate) fn reach(&self, next: &[i64]) {
        let mut learned = self.learned.lock();
        // Not only the oldest: some are never reached, such as what an active told that had committed nothing yet.
        let last = learned.iter().rposition(|entry| entry.is_reached(next));
        let reached = last.and_then(|last| learned.drain(..=last).next_back());
        drop(learned);
        if let Some(reached) = reached {
            // What an active tells holds for the active only.
            self.commit.store(Arc::new(Reflected { changelog: Vec::new(), ..reached }));
        }
    }

    pub(crate) fn set_lag(&self, records: i64) {
        self.lag_records.store(records, Ordering::Relaxed);
    }

    pub(crate) fn lag_records(&self) -> i64 {
        self.lag_records.load(Ordering::Relaxed)
    }

    /// The copy has everything that was committed before `at`.
    pub(crate) fn caught_up(&self, at: Instant) {
        self.caught_up.store(self.nanos(at), Ordering::Release);
    }

    /// A commit is about to be asked for: from now on others may see rows that are not visible here yet.
    pub(crate) fn commit_begins(&self) {
        // Of several attempts, the first one counts.
        let now = self.nanos(Instant::now());
        let _ = self.committing.compare_exchange(NEVER, now, Ordering::AcqRel, Ordering::Acquire);
    }

    /// What was committed is visible, or nothing was.
    pub(crate) fn commit_ends(&self) {
        self.committing.store(NEVER, Ordering::Release);
    }

    /// Since when a commit is on its way, if one is.
    pub(crate) fn committing_since(&self) -> Option<Instant> {
        self.instant(self.committing.load(Ordering::Acquire))
    }

    /// Another instance tells that it is active, or, with `false`, nobody is known to be any more.
    pub(crate) fn set_active_elsewhere(&self, active: bool) {
        if active {
            // Since it was heard first.
            let now = self.nanos(Instant::now());
            let _ = self.active_elsewhere.compare_exchange(NEVER, now, Ordering::AcqRel, Ordering::Acquire);
        } else {
            self.active_elsewhere.store(NEVER, Ordering::Release);
        }
    }

    /// Since when another instance is known to be active.
    pub(crate) fn active_elsewhere_since(&self) -> Option<Instant> {
        self.instant(self.active_elsewhere.load(Ordering::Acquire))
    }

    /// The membership in which it is this instance's, from now on.
    pub(crate) fn set_tenure(&self, tenure: u64) {
        self.tenure.store(tenure, Ordering::Release);
    }

    /// Since when an active, whose membership was `confirmed`, may miss what was committed.
    pub(crate) fn active_as_of(&self, confirmed: Confirmed) -> Option<Instant> {
        let Confirmed { at, tenure } = confirmed;
        let own = tenure == self.tenure.load(Ordering::Acquire);
        own.then(|| self.committing_since().map_or(at, |since| since.min(at)))
    }

    /// See [`ServedTable::membership_is_over`].
    pub(crate) fn membership_is_over(&self, confirmed: Option<Confirmed>) -> bool {
        confirmed.is_none_or(|confirmed| self.tenure.load(Ordering::Acquire) < confirmed.tenure)
    }

    fn nanos(&self, at: Instant) -> i64 {
        let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        match at.checked_duration_since(self.made) {
            Some(after) => nanos(after),
            None => -nanos(self.made - at),
        }
    }

    fn instant(&self, nanos: i64) -> Option<Instant> {
        match nanos {
            NEVER => None,
            before @ ..0 => self.made.checked_sub(Duration::from_nanos(before.unsigned_abs())),
            after => Some(self.made + Duration::from_nanos(after.unsigned_abs())),
        }
    }

    /// Nothing is known any more of how far behind it is.
    pub(crate) fn lose_track(&self) {
        self.caught_up.store(NEVER, Ordering::Release);
        self.set_lag(-1);
    }

    pub(crate) fn caught_up_at(&self) -> Option<Instant> {
        self.instant(self.caught_up.load(Ordering::Acquire))
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

    /// Another instance tells of its active copy of `task`: its rows reflected `position` when its changelogs stood at
    /// `changelog`. A copy that is followed here reflects the same as soon as it has followed so far.
    pub fn learn(&self, task: TaskId, position: &Position, changelog: &[i64]) {
        let map = self.map.load();
        let copy = map.values().filter_map(|tables| tables.get(&task.partition)).find(|table| table.task == task);
        if let Some(copy) = copy.filter(|copy| copy.role() != Role::Active) {
            copy.shared.learn(position, changelog);
            copy.shared.set_active_elsewhere(true);
        }
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

    fn position(offset: i64) -> Position {
        let mut position = Position::new();
        position.advance(&"items".into(), 0, offset);
        position
    }

    #[test]
    fn a_position_that_an_active_told_holds_when_the_copy_has_followed_so_far() {
        let view = TaskView::new(Role::Standby);
        view.publish(position(1), Vec::new());
        for (offset, changelog) in [(5, [10, 0]), (7, [10, 4]), (9, [20, 6])] {
            view.learn(&position(offset), &changelog);
        }
        for (next, offset) in [([9, 9], 1), ([10, 3], 5), ([19, 5], 7), ([20, 5], 7), ([20, 6], 9)] {
            view.reach(&next);
            assert_eq!(*view.position(), position(offset), "{next:?}");
        }
        // Told by somebody whose task has other stores, or who has committed nothing yet: it says nothing about this one, and
        // keeps nothing from those that are told after it.
        view.learn(&position(99), &[0]);
        view.learn(&position(99), &[]);
        view.reach(&[29, 99]);
        assert_eq!(*view.position(), position(9));
        view.learn(&position(11), &[30, 99]);
        view.reach(&[30, 99]);
        assert_eq!(*view.position(), position(11));
        for offset in 0..100 {
            view.learn(&position(100 + offset), &[offset, 0]);
        }
        assert!(view.learned.lock().len() <= LEARNED);
    }

    #[test]
    fn an_active_is_as_old_as_the_commit_that_is_on_its_way() {
        let view = TaskView::new(Role::Active);
        let at = Instant::now() + Duration::from_secs(1);
        let confirmed = Confirmed { at, tenure: 0 };
        assert_eq!(view.active_as_of(confirmed), Some(at));
        view.commit_begins();
        let since = view.committing_since().unwrap();
        view.commit_begins();
        assert_eq!(view.committing_since(), Some(since), "the first attempt counts");
        assert_eq!(view.active_as_of(confirmed), Some(since));
        let earlier = since.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(view.active_as_of(Confirmed { at: earlier, tenure: 0 }), Some(earlier));
        view.commit_ends();
        assert_eq!(view.active_as_of(confirmed), Some(at));
        // What a later membership is told of says nothing about what was this one's, until the task is processed in it.
        let later = Confirmed { at, tenure: 1 };
        assert_eq!(view.active_as_of(later), None);
        view.set_tenure(1);
        assert_eq!((view.active_as_of(confirmed), view.active_as_of(later)), (None, Some(at)));
    }

    #[test]
    fn a_membership_is_over_when_there_is_none_or_a_later_one() {
        let view = TaskView::new(Role::Active);
        view.set_tenure(1);
        let confirmed = |tenure| Some(Confirmed { at: Instant::now(), tenure });
        for (confirmed, over) in [(None, true), (confirmed(0), false), (confirmed(1), false), (confirmed(2), true)] {
            assert_eq!(view.membership_is_over(confirmed), over, "{confirmed:?}");
        }
    }

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
