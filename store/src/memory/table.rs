//! The hash map of rows, with an order of keys that exists from the first scan on.

use std::{
    collections::BTreeMap,
    ops::{Bound, Bound::Included},
};

use hashbrown::HashTable;

use super::{PackedRow, packed::heap_bytes, spread};
use crate::row::RowChange;

/// Changes whose memory is fetched together.
const LOOK_AHEAD: usize = 32;

/// A key and the number of its row.
pub(crate) type NumberedKey = (Box<[u8]>, u32);

/// What a deletion leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tombstones {
    /// A mark that hides the row in RocksDB.
    Kept,
    /// Nothing: there is no layer behind this one.
    Dropped,
}

/// Rows in order of arrival, found by a hash table of row numbers.
#[derive(Debug)]
pub(crate) struct MemoryTable {
    rows: Vec<PackedRow>,
    /// Hash of the key and number of the row: growing needs no key, and a look-up reads only the right one.
    numbers: HashTable<(u32, u32)>,
    vacant: Vec<u32>,
    order: Option<BTreeMap<Box<[u8]>, u32>>,
    tombstones: Tombstones,
    live: usize,
    row_heap_bytes: usize,
    order_heap_bytes: usize,
}

impl MemoryTable {
    pub(crate) fn new(tombstones: Tombstones) -> Self {
        Self {
            rows: Vec::new(),
            numbers: HashTable::new(),
            vacant: Vec::new(),
            order: None,
            tombstones,
            live: 0,
            row_heap_bytes: 0,
            order_heap_bytes: 0,
        }
    }

    /// An empty table that takes over from this one: ordered from the start where scans are in use, so that no later
    /// scan has to stop the commit path to sort.
    pub(crate) fn successor(&self, scanned: bool) -> Self {
        Self { order: (self.order.is_some() && scanned).then(BTreeMap::new), ..Self::new(self.tombstones) }
    }

    /// Applies changes in order; `hashes` are those of their keys.
    pub(crate) fn apply(&mut self, hashes: &[u32], changes: &[RowChange]) {
        for (hashes, changes) in hashes.chunks(LOOK_AHEAD).zip(changes.chunks(LOOK_AHEAD)) {
            self.touch(hashes);
            for (&hash, change) in hashes.iter().zip(changes) {
                self.apply_one(hash, change);
            }
        }
    }

    /// Loads what the next changes will look at into the processor's cache. One after the other, each row costs three
    /// cache misses in sequence; here those of several rows overlap, which makes applying about twice as fast.
    fn touch(&self, hashes: &[u32]) {
        let mut numbers = [0; LOOK_AHEAD];
        for (number, &hash) in numbers.iter_mut().zip(hashes) {
            let candidate = self.numbers.find(spread(hash), |&(kept, _)| kept == hash);
            *number = candidate.map_or(0, |&(_, number)| number);
        }
        let touched = numbers.iter().filter_map(|&number| self.rows.get(number as usize)?.first_byte());
        std::hint::black_box(touched.fold(0, u8::wrapping_add));
    }

    fn apply_one(&mut self, hash: u32, change: &RowChange) {
        let found = self
            .numbers
            .find(spread(hash), |&(kept, number)| kept == hash && self.rows[number as usize].key() == &change.key[..]);
        match found.map(|&(_, number)| number) {
            Some(number) if change.value.is_none() && self.tombstones == Tombstones::Dropped => {
                self.remove(hash, number)
            }
            Some(number) => self.replace(number, change),
            None if change.value.is_none() && self.tombstones == Tombstones::Dropped => {}
            None => self.insert(hash, change),
        }
    }

    fn insert(&mut self, hash: u32, change: &RowChange) {
        let row = PackedRow::new(change);
        self.row_heap_bytes += row.heap_bytes();
        self.live += usize::from(change.value.is_some());
        let number = match self.vacant.pop() {
            Some(number) => {
                self.rows[number as usize] = row;
                number
            }
            None => {
                if self.rows.len() == self.rows.capacity() {
                    // Doubling would leave up to half of it empty.
                    self.rows.reserve_exact((self.rows.len() / 4).max(64));
                }
                self.rows.push(row);
                // 2^32 rows would be 200 GiB and more; the budget flushes long before.
                (self.rows.len() - 1) as u32
            }
        };
        self.numbers.insert_unique(spread(hash), (hash, number), |&(kept, _)| spread(kept));
        if let Some(order) = &mut self.order {
            self.order_heap_bytes += order_entry_bytes(&change.key);
            order.insert(Box::from(&change.key[..]), number);
        }
    }

    fn replace(&mut self, number: u32, change: &RowChange) {
        let row = &mut self.rows[number as usize];
        self.row_heap_bytes -= row.heap_bytes();
        self.live -= usize::from(row.stored().is_some());
        row.replace(change);
        self.row_heap_bytes += row.heap_bytes();
        self.live += usize::from(change.value.is_some());
    }

    fn remove(&mut self, hash: u32, number: u32) {
        let row = std::mem::replace(&mut self.rows[number as usize], PackedRow::vacant());
        self.row_heap_bytes -= row.heap_bytes();
        self.live -= usize::from(row.stored().is_some());
        if let Ok(entry) = self.numbers.find_entry(spread(hash), |&(_, candidate)| candidate == number) {
            entry.remove();
        }
        if let Some(order) = &mut self.order {
            self.order_heap_bytes -= order_entry_bytes(row.key());
            order.remove(row.key());
        }
        self.vacant.push(number);
    }

    /// The row of `key`, a deleted one included.
    pub(crate) fn get(&self, hash: u32, key: &[u8]) -> Option<&PackedRow> {
        let &(_, number) = self
            .numbers
            .find(spread(hash), |&(kept, number)| kept == hash && self.rows[number as usize].key() == key)?;
        Some(&self.rows[number as usize])
    }

    /// Number of keys, deleted ones included.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Number of rows that are not deleted.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// What the table takes of the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.row_heap_bytes
            + self.order_heap_bytes
            + self.numbers.allocation_size()
            + self.rows.capacity() * size_of::<PackedRow>()
            + self.vacant.capacity() * size_of::<u32>()
    }

    pub(crate) fn is_ordered(&self) -> bool {
        self.order.is_some()
    }

    /// Whether rows keep their numbers, so that their keys can be read in pieces.
    pub(crate) fn is_append_only(&self) -> bool {
        self.tombstones == Tombstones::Kept
    }

    /// The keys of up to `most` rows from number `from` on, with the numbers.
    pub(crate) fn keys_from(&self, from: usize, most: usize) -> impl Iterator<Item = NumberedKey> {
        let rows = self.rows.iter().zip(0_u32..).skip(from).take(most);
        // A vacant place has no entry in the hash table, and must have none here.
        rows.filter(|(row, _)| !row.is_vacant()).map(|(row, number)| (Box::from(row.key()), number))
    }

    /// Takes an order of the rows below number `ordered`, adds the others, and keeps it up from then on.
    pub(crate) fn adopt_order(&mut self, mut order: BTreeMap<Box<[u8]>, u32>, ordered: usize) {
        if self.order.is_none() {
            order.extend(self.keys_from(ordered, usize::MAX));
            self.order_heap_bytes = order.keys().map(|key| order_entry_bytes(key)).sum();
            self.order = Some(order);
        }
    }

    /// The rows in `lower..upper`, in key order; nothing while [`MemoryTable::is_ordered`] says no.
    pub(crate) fn range<'a>(
        &'a self,
        lower: &'a [u8],
        upper: Option<&'a [u8]>,
    ) -> impl DoubleEndedIterator<Item = &'a PackedRow> {
        // The map panics on an inverted range.
        let ordered = upper.is_none_or(|upper| lower < upper);
        let upper = upper.map_or(Bound::Unbounded, Bound::Excluded);
        let order = self.order.as_ref().filter(|_| ordered);
        let entries = order.map(|order| order.range::<[u8], _>((Included(lower), upper)));
        entries.into_iter().flatten().map(|(_, &number)| self.row(number))
    }

    pub(super) fn row(&self, number: u32) -> &PackedRow {
        &self.rows[number as usize]
    }

    /// Numbers of all rows in key order.
    pub(super) fn sorted(&self) -> Vec<u32> {
        if let Some(order) = &self.order {
            return order.values().copied().collect();
        }
        // Keys of one store tend to begin alike: comparing the eight bytes behind what they share settles most pairs
        // without touching the keys.
        let shared = self.shared_prefix_bytes();
        let mut numbers: Vec<(u64, u32)> =
            self.numbers.iter().map(|&(_, number)| (prefix(&self.row(number).key()[shared..]), number)).collect();
        numbers.sort_unstable_by(|(a_prefix, a), (b_prefix, b)| {
            a_prefix.cmp(b_prefix).then_with(|| self.row(*a).key().cmp(self.row(*b).key()))
        });
        numbers.into_iter().map(|(_, number)| number).collect()
    }

    fn shared_prefix_bytes(&self) -> usize {
        let mut keys = self.numbers.iter().map(|&(_, number)| self.row(number).key());
        let Some(first) = keys.next() else { return 0 };
        let mut shared = first.len();
        for key in keys {
            shared = first[..shared].iter().zip(key).take_while(|(a, b)| a == b).count();
            if shared == 0 {
                break;
            }
        }
        shared
    }
}

/// The first eight bytes as a number that sorts as they do; a shorter key sorts before or equal.
fn prefix(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = key.len().min(8);
    bytes[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(bytes)
}

/// A key of its own and its share of a B-tree node (filled to about two thirds).
fn order_entry_bytes(key: &[u8]) -> usize {
    heap_bytes(key.len()) + size_of::<(Box<[u8]>, u32)>() * 3 / 2
}
