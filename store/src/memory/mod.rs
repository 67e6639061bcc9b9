//! The memory table: committed rows of one store that RocksDB does not have yet (or, for an in-memory store, all rows).

mod frozen;
mod packed;
mod table;

pub(crate) use frozen::{Frozen, FrozenLayer};
pub(crate) use packed::PackedRow;
pub(crate) use table::{MemoryTable, NumberedKey, Tombstones};

use hashbrown::DefaultHashBuilder;
use std::hash::BuildHasher;

/// Hashes keys for the memory tables of one store: once per look-up, for the active and the frozen one.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyHasher(DefaultHashBuilder);

impl KeyHasher {
    /// Half of the hash is kept beside each row's number: enough to tell keys apart, and growing never reads a key.
    pub(crate) fn hash(&self, key: &[u8]) -> u32 {
        self.0.hash_one(key) as u32
    }
}

/// Spreads a kept hash over 64 bits; hashbrown takes its tag from the upper ones.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
