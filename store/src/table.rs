//! What readers and processors see of a store: its committed rows.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
};

use bytes::Bytes;
use holdfast_types::{StoreName, TaskId};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::{
    budget::MemoryAccount,
    error::StoreError,
    memory::{Frozen, FrozenLayer, KeyHasher, MemoryTable, NumberedKey, PackedRow, Tombstones},
    rocks::{Database, family_name},
    row::{Row, RowChange},
    scan::{
        ScanPage, ScanRange,
        merge::{Layer, PageLimits, merge},
    },
    spec::StoreKind,
};

/// Rows that `apply` writes before it lets waiting readers in: about 100 µs.
const ROWS_PER_LOCK: usize = 1024;

/// One store of one task, committed rows only. Reads look into memory first, then into RocksDB.
///
/// A single row is always the latest applied. A scan sees whole commits; of several pages, each is one view.
#[derive(Debug)]
pub struct Table {
    name: StoreName,
    family: String,
    task: TaskId,
    kind: StoreKind,
    hasher: KeyHasher,
    /// Held for writing by a whole batch, and for reading while a scan takes its view: scans see no half of a commit.
    batch: RwLock<()>,
    memory: RwLock<Layers>,
    /// Held by the one scan that makes the order of keys.
    ordering: Mutex<()>,
    /// Emptied when the task's stores are closed, so that a table in somebody's hands does not keep the database open.
    database: RwLock<Option<Arc<Database>>>,
    /// What of `account` is this table's.
    bytes: AtomicI64,
    account: Arc<MemoryAccount>,
}

/// The rows in memory, newest first.
#[derive(Debug)]
struct Layers {
    active: MemoryTable,
    /// On its way into RocksDB; stays until it is there.
    frozen: Option<Arc<Frozen>>,
    /// Whether there was a scan since the active table was new.
    scanned: AtomicBool,
    /// Counts active tables.
    generation: u64,
    closed: bool,
}

impl Layers {
    fn new(active: MemoryTable) -> Self {
        Self { active, frozen: None, scanned: AtomicBool::new(false), generation: 0, closed: false }
    }

    /// Starts a new active table and answers the old one.
    fn replace_active(&mut self) -> MemoryTable {
        self.generation += 1;
        let successor = self.active.successor(self.scanned.swap(false, Relaxed));
        std::mem::replace(&mut self.active, successor)
    }

    fn find(&self, hash: u32, key: &[u8]) -> Option<&PackedRow> {
        let active = self.active.get(hash, key);
        active.or_else(|| self.frozen.as_ref().and_then(|frozen| frozen.table().get(hash, key)))
    }

    fn heap_bytes(&self) -> usize {
        self.active.heap_bytes() + self.frozen.as_ref().map_or(0, |frozen| frozen.table().heap_bytes())
    }
}

impl Table {
    pub(crate) fn new(
        name: StoreName,
        task: TaskId,
        kind: StoreKind,
        database: Option<Arc<Database>>,
        account: Arc<MemoryAccount>,
    ) -> Self {
        // A persistent store without a database is a temporary one: nothing is behind its memory either.
        let kind = if database.is_some() { kind } else { StoreKind::InMemory };
        let (tombstones, database) = match kind {
            StoreKind::Persistent => (Tombstones::Kept, database),
            StoreKind::InMemory => (Tombstones::Dropped, None),
        };
        let active = MemoryTable::new(tombstones);
        Self {
            family: family_name(&name),
            name,
            task,
            kind,
            hasher: KeyHasher::default(),
            batch: RwLock::new(()),
            memory: RwLock::new(Layers::new(active)),
            ordering: Mutex::new(()),
            database: RwLock::new(database),
            bytes: AtomicI64::new(0),
            account,
        }
    }

    /// The store's name.
    pub fn name(&self) -> &StoreName {
        &self.name
    }

    /// Where the rows are; a temporary store is in memory whatever its topology says.
    pub fn kind(&self) -> StoreKind {
        self.kind
    }

    /// The row of `key`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        let hash = self.hasher.hash(key);
        {
            let memory = self.memory()?;
            if let Some(found) = memory.find(hash, key) {
                return Ok(found.row());
            }
        }
        // Between the two look-ups a row can only move from memory to RocksDB, or be a newer one there: never vanish.
        match &*self.database.read() {
            Some(database) => database.get(&self.name, &self.family, key),
            None => self.without_database(),
        }
    }

    /// The rows of `keys`, in the order asked; faster than single calls from a handful of keys on.
    pub fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Row>>, StoreError> {
        let mut rows = vec![None; keys.len()];
        let mut missing = Vec::new();
        {
            let memory = self.memory()?;
            for (at, key) in keys.iter().enumerate() {
                match memory.find(self.hasher.hash(key), key) {
                    Some(found) => rows[at] = found.row(),
                    None => missing.push(at),
                }
            }
        }
        if missing.is_empty() || self.kind == StoreKind::InMemory {
            return Ok(rows);
        }
        missing.sort_unstable_by_key(|&at| keys[at]);
        let sorted: Vec<&[u8]> = missing.iter().map(|&at| keys[at]).collect();
        if let Some(database) = &*self.database.read() {
            let found = database.get_sorted(&self.name, &self.family, &sorted)?;
            for (at, row) in missing.into_iter().zip(found) {
                rows[at] = row;
            }
            return Ok(rows);
        }
        self.without_database()
    }

    /// The first rows of `range` in its direction: at most `limit_rows`, and no further row once keys and values reach
    /// `limit_bytes`. The page is one view of the store as of whole commits.
    pub fn scan(&self, range: &ScanRange, limit_rows: usize, limit_bytes: usize) -> Result<ScanPage, StoreError> {
        let (lower, upper) = range.limits();
        if upper.as_ref().is_some_and(|upper| *upper <= lower) {
            return Ok(ScanPage::default());
        }
        let limits = PageLimits { rows: limit_rows, bytes: limit_bytes };
        // Taken before the memory's lock, and kept while the iterator lives.
        let database = self.database.read();
        let mut layers: Vec<Box<dyn Layer + '_>> = Vec::with_capacity(3);
        {
            let (_whole_commits, memory) = self.ordered_memory()?;
            layers.push(Box::new(ActiveLayer::collect(
                &memory.active,
                &lower,
                upper.as_deref(),
                range.reverse,
                limits,
            )));
            if let Some(frozen) = &memory.frozen {
                let frozen = Arc::clone(frozen);
                layers.push(Box::new(FrozenLayer::new(frozen, &lower, upper.as_deref(), range.reverse)));
            }
            // Under the memory's lock, so that the iterator's view is not newer than the rows that hide its own.
            if let Some(database) = &*database {
                layers.push(Box::new(database.layer(&self.name, &self.family, lower, upper, range.reverse)?));
            }
        }
        merge(&mut layers, range.reverse, limits)
    }

    /// About how many rows there are: exact for in-memory stores; for persistent ones RocksDB's estimate and the rows in
    /// memory, some of which are new versions of the same.
    pub fn approximate_rows(&self) -> u64 {
        let live = {
            let memory = self.memory.read();
            memory.active.live() + memory.frozen.as_ref().map_or(0, |frozen| frozen.table().live())
        };
        let stored = self.database.read().as_ref().map_or(0, |database| database.estimated_rows(&self.family));
        live as u64 + stored
    }

    /// Bytes that the store's rows take in memory.
    pub fn memory_bytes(&self) -> u64 {
        self.bytes.load(Relaxed).max(0).unsigned_abs()
    }

    pub(crate) fn family(&self) -> &str {
        &self.family
    }

    /// Makes changes visible, in the order given.
    pub(crate) fn apply(&self, changes: &[RowChange]) {
        let hashes: Vec<u32> = changes.iter().map(|change| self.hasher.hash(&change.key)).collect();
        let _whole_batch = self.batch.write();
        let mut memory = self.memory.write();
        for (hashes, changes) in hashes.chunks(ROWS_PER_LOCK).zip(changes.chunks(ROWS_PER_LOCK)) {
            memory.active.apply(hashes, changes);
            RwLockWriteGuard::bump(&mut memory);
        }
        self.recount(&memory);
    }

    /// Moves the active rows aside for a flush, where they stay visible. Rows that a failed flush left there must have been
    /// written before.
    pub(crate) fn freeze(&self) {
        let mut memory = self.memory.write();
        let full = memory.replace_active();
        memory.frozen = Some(Arc::new(Frozen::new(full)));
        self.recount(&memory);
    }

    /// The rows that [`Table::freeze`] moved aside.
    pub(crate) fn frozen(&self) -> Option<Arc<Frozen>> {
        self.memory.read().frozen.clone()
    }

    /// Forgets the frozen rows, which RocksDB has now.
    pub(crate) fn thaw(&self) {
        let mut memory = self.memory.write();
        let frozen = memory.frozen.take();
        self.recount(&memory);
        drop(memory);
        // Freeing many small allocations takes a while: not under the lock.
        drop(frozen);
    }

    /// Forgets all rows in memory.
    pub(crate) fn forget(&self) {
        let mut memory = self.memory.write();
        let old = (memory.replace_active(), memory.frozen.take());
        self.recount(&memory);
        drop(memory);
        drop(old);
    }

    /// Refuses reads from now on, and lets go of rows and database; waits for reads that are under way.
    pub(crate) fn close(&self) {
        self.memory.write().closed = true;
        self.forget();
        *self.database.write() = None;
    }

    /// Where reads find the database; whoever holds it keeps them waiting.
    pub(crate) fn database_slot(&self) -> RwLockWriteGuard<'_, Option<Arc<Database>>> {
        self.database.write()
    }

    fn memory(&self) -> Result<RwLockReadGuard<'_, Layers>, StoreError> {
        let memory = self.memory.read();
        if memory.closed { Err(StoreError::Closed { task: self.task }) } else { Ok(memory) }
    }

    /// The memory with an order of keys, between two commits.
    fn ordered_memory(&self) -> Result<(RwLockReadGuard<'_, ()>, RwLockReadGuard<'_, Layers>), StoreError> {
        loop {
            let between_commits = self.batch.read();
            let memory = self.memory()?;
            if memory.active.is_ordered() {
                memory.scanned.store(true, Relaxed);
                return Ok((between_commits, memory));
            }
            drop((memory, between_commits));
            self.make_order()?;
        }
    }

    /// Makes the order of keys in memory for the first scan. Copies the keys in pieces and sorts them without a lock, so that
    /// commits and look-ups go on.
    fn make_order(&self) -> Result<(), StoreError> {
        let _alone = self.ordering.lock();
        let (keys, generation) = self.copy_keys()?;
        let copied = keys.len();
        let order = keys.into_iter().collect();
        let mut memory = self.memory.write();
        // A flush that came in between has taken these rows away; the caller looks again.
        if memory.generation == generation {
            memory.active.adopt_order(order, copied);
            self.recount(&memory);
        }
        Ok(())
    }

    /// The first keys of the active table, and its generation: all up to the last moment, or none when rows change places (in
    /// an in-memory store, whose order is made once and for all).
    fn copy_keys(&self) -> Result<(Vec<NumberedKey>, u64), StoreError> {
        let mut keys = Vec::new();
        let generation = self.memory()?.generation;
        loop {
            let memory = self.memory()?;
            let before = keys.len();
            if memory.generation == generation && memory.active.is_append_only() {
                keys.extend(memory.active.keys_from(before, ROWS_PER_LOCK));
            }
            if keys.len() == before {
                return Ok((keys, generation));
            }
        }
    }

    /// A persistent store whose database is gone was closed between two look-ups.
    fn without_database<T: Default>(&self) -> Result<T, StoreError> {
        match self.kind {
            StoreKind::InMemory => Ok(T::default()),
            StoreKind::Persistent => Err(StoreError::Closed { task: self.task }),
        }
    }

    fn recount(&self, memory: &Layers) {
        // An allocation is never larger than an i64 counts.
        let now = memory.heap_bytes() as i64;
        let before = self.bytes.swap(now, Relaxed);
        let counter = match self.kind {
            StoreKind::Persistent => &self.account.memory_tables,
            StoreKind::InMemory => &self.account.in_memory_stores,
        };
        counter.fetch_add(now - before, Relaxed);
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.forget();
    }
}

/// A copy of as much of the active table as one page can need: it changes as soon as its lock is gone.
struct ActiveLayer {
    /// In the scan's direction; `None` for deleted rows.
    rows: std::vec::IntoIter<(Bytes, Option<Row>)>,
}

impl ActiveLayer {
    fn collect(table: &MemoryTable, lower: &[u8], upper: Option<&[u8]>, reverse: bool, limits: PageLimits) -> Self {
        let mut rows = Vec::new();
        let mut live = 0;
        let mut bytes = 0;
        let mut range = table.range(lower, upper);
        while let Some(packed) = if reverse { range.next_back() } else { range.next() } {
            let row = packed.row();
            let full = limits.reached(live, bytes);
            if let Some(row) = &row {
                live += 1;
                bytes += packed.key().len() + row.value.len();
            }
            let last = full && row.is_some();
            rows.push((Bytes::copy_from_slice(packed.key()), row));
            // Nothing is in front of these rows, so the page is full when they are; one more tells that there is more.
            if last {
                break;
            }
        }
        Self { rows: rows.into_iter() }
    }
}

impl Layer for ActiveLayer {
    fn key(&self) -> Option<&[u8]> {
        self.rows.as_slice().first().map(|(key, _)| &key[..])
    }

    fn row(&self) -> Result<Option<Row>, StoreError> {
        Ok(self.rows.as_slice().first().and_then(|(_, row)| row.clone()))
    }

    fn advance(&mut self) -> Result<(), StoreError> {
        self.rows.next();
        Ok(())
    }
}
