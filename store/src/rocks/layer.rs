//! A walk over a column family, as the bottom layer of a scan.

use rocksdb::DBRawIterator;

use super::Database;
use crate::{error::StoreError, row::Row, scan::merge::Layer};
use holdfast_types::StoreName;

/// A raw iterator inside its bounds; sees the family as of its creation.
pub(crate) struct RocksLayer<'a> {
    database: &'a Database,
    store: &'a StoreName,
    iterator: DBRawIterator<'a>,
    reverse: bool,
}

impl<'a> RocksLayer<'a> {
    /// Stands on the first key in the direction.
    pub(super) fn new(
        database: &'a Database,
        store: &'a StoreName,
        mut iterator: DBRawIterator<'a>,
        reverse: bool,
    ) -> Result<Self, StoreError> {
        if reverse {
            iterator.seek_to_last();
        } else {
            iterator.seek_to_first();
        }
        let layer = Self { database, store, iterator, reverse };
        layer.check()?;
        Ok(layer)
    }

    /// An iterator ends at a failure as at its end: ask which it was.
    fn check(&self) -> Result<(), StoreError> {
        if self.iterator.valid() { Ok(()) } else { self.iterator.status().map_err(|error| self.database.error(error)) }
    }
}

impl Layer for RocksLayer<'_> {
    fn key(&self) -> Option<&[u8]> {
        self.iterator.key()
    }

    fn row(&self) -> Result<Option<Row>, StoreError> {
        self.iterator.value().map(|stored| self.database.row(self.store, stored)).transpose()
    }

    fn advance(&mut self) -> Result<(), StoreError> {
        if self.reverse {
            self.iterator.prev();
        } else {
            self.iterator.next();
        }
        self.check()
    }
}
