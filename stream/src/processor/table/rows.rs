//! The rows that a task holds in memory: a slab of typed rows, found by key bytes, with lists of what is dirty and unsent.

use std::{
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hashbrown::{DefaultHashBuilder, HashTable};

/// A place in the slab; stays the same while the row is held.
pub(super) type RowId = u32;

/// Keys up to this long are held in the row itself: finding one then touches no other memory.
const INLINE_KEY_BYTES: usize = 30;

/// A row's key.
enum RowKey {
    Inline { length: u8, bytes: [u8; INLINE_KEY_BYTES] },
    Heap(Box<[u8]>),
}

impl RowKey {
    fn new(key: &[u8]) -> Self {
        let mut bytes = [0; INLINE_KEY_BYTES];
        match bytes.get_mut(..key.len()) {
            Some(start) => {
                start.copy_from_slice(key);
                Self::Inline { length: key.len() as u8, bytes }
            }
            None => Self::Heap(key.into()),
        }
    }

    #[inline]
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Heap(key) => key,
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Inline { .. } => 0,
            Self::Heap(key) => key.len(),
        }
    }
}

/// One row.
pub(super) struct Row<R> {
    key: RowKey,
    /// The value now; `None` for a row that does not exist.
    pub(super) value: Option<R>,
    /// The value last sent downstream, where somebody needs it; meaningful only while the row is unsent.
    pub(super) sent: Option<Box<R>>,
    pub(super) timestamp_ms: i64,
    /// The seal that last took the row; it may be evicted once that one is committed.
    seal: u32,
    /// Size of the value when it was last encoded.
    value_bytes: u32,
    flags: u8,
}

const DIRTY: u8 = 1;
const UNSENT: u8 = 2;
/// A value was sent before the row became unsent.
const WAS_SENT: u8 = 4;
/// Used since the eviction's hand last passed.
const REFERENCED: u8 = 8;
/// The place is free.
const VACANT: u8 = 16;

impl<R> Row<R> {
    #[inline]
    pub(super) fn key(&self) -> &[u8] {
        self.key.as_slice()
    }

    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn is_unsent(&self) -> bool {
        self.is(UNSENT)
    }

    pub(super) fn was_sent(&self) -> bool {
        self.is(WAS_SENT)
    }

    /// An estimate: what a value owns on the heap is taken to be as large as its encoding was.
    fn size_bytes(&self) -> usize {
        size_of::<Self>() + size_of::<RowId>() + self.key.heap_bytes() + self.value_bytes as usize
    }
}

/// What a table holds, where its task can read it without reaching the table.
#[derive(Debug, Default)]
pub(crate) struct TableSizes {
    dirty_rows: AtomicUsize,
    dirty_bytes: AtomicUsize,
    cached_bytes: AtomicUsize,
}

impl TableSizes {
    /// Rows that changed since the last seal.
    pub(crate) fn dirty_rows(&self) -> usize {
        self.dirty_rows.load(Ordering::Relaxed)
    }

    /// Their estimated size.
    pub(crate) fn dirty_bytes(&self) -> usize {
        self.dirty_bytes.load(Ordering::Relaxed)
    }

    /// Estimated size of all rows in memory.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.cached_bytes.load(Ordering::Relaxed)
    }
}

/// All rows of one table that are in memory.
pub(super) struct Rows<R> {
    index: HashTable<RowId>,
    slab: Vec<Row<R>>,
    free: Vec<RowId>,
    hasher: DefaultHashBuilder,
    dirty: Vec<RowId>,
    unsent: Vec<RowId>,
    sizes: Arc<TableSizes>,
    /// Seals taken and seals committed; a thread that seals ten times a second takes 13 years to run out.
    seals: u32,
    committed_seals: u32,
    hand: usize,
}

impl<R> Rows<R> {
    pub(super) fn new(sizes: Arc<TableSizes>) -> Self {
        Self {
            index: HashTable::new(),
            slab: Vec::new(),
            free: Vec::new(),
            hasher: DefaultHashBuilder::default(),
            dirty: Vec::new(),
            unsent: Vec::new(),
            sizes,
            seals: 0,
            committed_seals: 0,
            hand: 0,
        }
    }

    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<RowId> {
        self.index.find(hash, |&id| self.slab[id as usize].key() == key).copied()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: RowId) -> &mut Row<R> {
        let row = &mut self.slab[id as usize];
        row.flags |= REFERENCED;
        row
    }

    /// Adds a clean row that is not held yet.
    pub(super) fn insert(&mut self, hash: u64, key: &[u8], stored: Option<(R, i64, usize)>) -> RowId {
        let (value, timestamp_ms, value_bytes) = match stored {
            Some((value, timestamp_ms, bytes)) => (Some(value), timestamp_ms, bytes),
            None => (None, i64::MIN, 0),
        };
        let value_bytes = u32::try_from(value_bytes).unwrap_or(u32::MAX);
        let row = Row { key: RowKey::new(key), value, sent: None, timestamp_ms, seal: 0, value_bytes, flags: 0 };
        self.add_cached(row.size_bytes());
        let id = match self.free.pop() {
            Some(id) => {
                self.slab[id as usize] = row;
                id
            }
            None => {
                // A row is far larger than a byte: memory ends before ids do.
                let id = self.slab.len() as RowId;
                if self.slab.len() == self.slab.capacity() {
                    // Doubling would leave up to half of it empty.
                    self.slab.reserve_exact((self.slab.len() / 4).max(64));
                }
                self.slab.push(row);
                id
            }
        };
        self.index.insert_unique(hash, id, |&id| self.hasher.hash_one(self.slab[id as usize].key()));
        id
    }

    /// Notes that the row changed; with `forwards`, that downstream has not heard of it.
    #[inline]
    pub(super) fn mark_changed(&mut self, id: RowId, forwards: bool) {
        let row = &mut self.slab[id as usize];
        if !row.is(DIRTY) {
            row.flags |= DIRTY;
            self.dirty.push(id);
            // Only this task writes them: a load and a store, no locked instruction.
            let sizes = &*self.sizes;
            sizes.dirty_rows.store(self.dirty.len(), Ordering::Relaxed);
            sizes.dirty_bytes.store(sizes.dirty_bytes() + row.size_bytes(), Ordering::Relaxed);
        }
        if forwards && !row.is(UNSENT) {
            row.flags |= UNSENT;
            self.unsent.push(id);
        }
    }

    /// Remembers, before the first change since the row was sent, whether there was a value.
    #[inline]
    pub(super) fn note_sent(row: &mut Row<R>, sent: Option<Box<R>>) {
        if row.value.is_some() {
            row.flags |= WAS_SENT;
        } else {
            row.flags &= !WAS_SENT;
        }
        row.sent = sent;
    }

    /// The rows that downstream has not heard of, in the order of their first change; they count as sent from here on.
    pub(super) fn take_unsent(&mut self) -> Vec<RowId> {
        for &id in &self.unsent {
            self.slab[id as usize].flags &= !UNSENT;
        }
        std::mem::take(&mut self.unsent)
    }

    /// Gives the list of [`Rows::take_unsent`] back, so that its memory is used again.
    pub(super) fn give_unsent(&mut self, mut list: Vec<RowId>) {
        if self.unsent.is_empty() {
            list.clear();
            self.unsent = list;
        }
    }

    /// Takes back those of [`Rows::take_unsent`] from number `from` on: they were not sent after all.
    pub(super) fn keep_unsent(&mut self, mut list: Vec<RowId>, from: usize) {
        list.drain(..from);
        for &id in &list {
            self.slab[id as usize].flags |= UNSENT;
        }
        // Nobody sends to the table that is being sent from.
        list.append(&mut self.unsent);
        self.unsent = list;
    }

    pub(super) fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// Takes each dirty row for a new seal: `encode` sees it, and answers the size of its value's encoding.
    pub(super) fn seal<E>(&mut self, mut encode: impl FnMut(&Row<R>) -> Result<usize, E>) -> Result<(), E> {
        self.seals += 1;
        for &id in &self.dirty {
            let row = &mut self.slab[id as usize];
            let value_bytes = u32::try_from(encode(row)?).unwrap_or(u32::MAX);
            let cached = self.sizes.cached_bytes() - row.value_bytes as usize + value_bytes as usize;
            self.sizes.cached_bytes.store(cached, Ordering::Relaxed);
            row.value_bytes = value_bytes;
            row.seal = self.seals;
            row.flags &= !DIRTY;
        }
        self.dirty.clear();
        self.sizes.dirty_rows.store(0, Ordering::Relaxed);
        self.sizes.dirty_bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// The oldest seal that was not committed yet is.
    pub(super) fn committed(&mut self) {
        self.committed_seals = self.seals.min(self.committed_seals + 1);
    }

    fn add_cached(&self, bytes: usize) {
        self.sizes.cached_bytes.store(self.sizes.cached_bytes() + bytes, Ordering::Relaxed);
    }

    /// Drops rows that the store has, those not used lately first, until `target_bytes` are left or nothing can go.
    pub(super) fn evict(&mut self, target_bytes: usize) {
        // Two rounds: the first may only clear marks.
        let mut steps = self.slab.len() * 2;
        while self.sizes.cached_bytes() > target_bytes && steps > 0 {
            steps -= 1;
            if self.hand >= self.slab.len() {
                self.hand = 0;
            }
            let id = self.hand as RowId;
            self.hand += 1;
            let row = &mut self.slab[id as usize];
            if row.is(VACANT | DIRTY | UNSENT) || row.seal > self.committed_seals {
                continue;
            }
            if row.is(REFERENCED) {
                row.flags &= !REFERENCED;
                continue;
            }
            self.remove(id);
        }
    }

    fn remove(&mut self, id: RowId) {
        let row = &mut self.slab[id as usize];
        let (hash, size) = (self.hasher.hash_one(row.key()), row.size_bytes());
        row.key = RowKey::new(&[]);
        row.value = None;
        row.sent = None;
        row.value_bytes = 0;
        row.flags = VACANT;
        if let Ok(entry) = self.index.find_entry(hash, |&held| held == id) {
            entry.remove();
        }
        self.sizes.cached_bytes.store(self.sizes.cached_bytes() - size, Ordering::Relaxed);
        self.free.push(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(rows: &mut Rows<i64>, key: &str) -> RowId {
        let hash = rows.hash(key.as_bytes());
        rows.insert(hash, key.as_bytes(), None)
    }

    fn found(rows: &Rows<i64>, key: &str) -> bool {
        rows.find(rows.hash(key.as_bytes()), key.as_bytes()).is_some()
    }

    #[test]
    fn only_committed_clean_rows_are_evicted() {
        let mut rows = Rows::new(Arc::default());
        let (a, b) = (add(&mut rows, "a"), add(&mut rows, "b"));
        rows.mark_changed(a, false);
        rows.seal(|_| Ok::<_, ()>(8)).unwrap();
        rows.mark_changed(b, false);
        assert!(rows.sizes.dirty_bytes() > 0);
        rows.evict(0);
        assert!(found(&rows, "a") && found(&rows, "b"), "in flight, and dirty");
        rows.committed();
        rows.evict(0);
        assert!(!found(&rows, "a") && found(&rows, "b"), "committed, and dirty");
        rows.seal(|_| Ok::<_, ()>(8)).unwrap();
        assert_eq!(rows.sizes.dirty_bytes(), 0);
        rows.evict(0);
        assert!(found(&rows, "b"));
        rows.committed();
        rows.evict(0);
        assert!(!found(&rows, "b"));
        assert_eq!(rows.sizes.cached_bytes(), 0);
        // Freed places are used again.
        assert!(add(&mut rows, "c") <= b);
        assert!(found(&rows, "c"));
    }

    #[test]
    fn rows_in_use_stay_longest() {
        let mut rows = Rows::new(Arc::default());
        for key in ["a", "b", "c", "d"] {
            add(&mut rows, key);
        }
        let b = rows.find(rows.hash(b"b"), b"b").unwrap();
        rows.get_mut(b).value = Some(1);
        let one = rows.sizes.cached_bytes() / 4;
        rows.evict(one);
        assert!(found(&rows, "b"));
        assert_eq!(rows.sizes.cached_bytes(), one);
    }
}
