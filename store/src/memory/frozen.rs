//! A memory table that no longer changes, while it is on its way into RocksDB.

use std::sync::{Arc, OnceLock};

use super::{MemoryTable, PackedRow};
use crate::{error::StoreError, row::Row, scan::merge::Layer};

/// A frozen table; its order is made once, by the flush or by a scan that comes first.
#[derive(Debug)]
pub(crate) struct Frozen {
    table: MemoryTable,
    sorted: OnceLock<Vec<u32>>,
}

impl Frozen {
    pub(crate) fn new(table: MemoryTable) -> Self {
        Self { table, sorted: OnceLock::new() }
    }

    pub(crate) fn table(&self) -> &MemoryTable {
        &self.table
    }

    /// The rows in key order, deleted ones included.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &PackedRow> {
        self.sorted().iter().map(|&number| self.table.row(number))
    }

    fn sorted(&self) -> &[u32] {
        self.sorted.get_or_init(|| self.table.sorted())
    }

    /// Index of the first row whose key is `bound` or greater.
    fn position(&self, bound: &[u8]) -> usize {
        self.sorted().partition_point(|&number| self.table.row(number).key() < bound)
    }
}

/// A walk over a part of a frozen table, without a lock.
pub(crate) struct FrozenLayer {
    frozen: Arc<Frozen>,
    /// What is left: indices into the sorted rows.
    left: std::ops::Range<usize>,
    reverse: bool,
}

impl FrozenLayer {
    pub(crate) fn new(frozen: Arc<Frozen>, lower: &[u8], upper: Option<&[u8]>, reverse: bool) -> Self {
        let from = frozen.position(lower);
        let to = upper.map_or(frozen.sorted().len(), |upper| frozen.position(upper));
        Self { frozen, left: from..to, reverse }
    }

    fn current(&self) -> Option<&PackedRow> {
        let mut left = self.left.clone();
        let at = if self.reverse { left.next_back() } else { left.next() }?;
        self.frozen.sorted().get(at).map(|&number| self.frozen.table.row(number))
    }
}

impl Layer for FrozenLayer {
    fn key(&self) -> Option<&[u8]> {
        self.current().map(PackedRow::key)
    }

    fn row(&self) -> Result<Option<Row>, StoreError> {
        Ok(self.current().and_then(PackedRow::row))
    }

    fn advance(&mut self) -> Result<(), StoreError> {
        if self.reverse {
            self.left.next_back();
        } else {
            self.left.next();
        }
        Ok(())
    }
}
