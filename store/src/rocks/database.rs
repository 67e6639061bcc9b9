//! One task's RocksDB: a column family per persistent store, and `default` for identity and checkpoint.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, FlushOptions, ReadOptions, WriteBatch, WriteOptions, properties,
};

use super::{
    SharedOptions,
    layer::RocksLayer,
    manifest::{self, ManifestNote},
};
use crate::{
    checkpoint::Checkpoint, directory::OpenTask, error::StoreError, memory::Frozen, row::Row, scan::successor,
};
use holdfast_types::StoreName;

const IDENTITY: &[u8] = b"identity";
const CHECKPOINT: &[u8] = b"checkpoint";
/// In front of store names, so that no store is `default`.
const FAMILY_PREFIX: &str = "store/";

/// An open database. The write-ahead log is on, and not synced by each flush: a killed process loses nothing that was
/// written (the pages are the system's), a lost machine loses a tail of whole batches, and the changelog has both again.
/// Without the log, rows would be safe only after every column family was flushed to files, so that a short replay would
/// cost many small files; the log costs about a tenth of a write that was merged over many commits already.
pub(crate) struct Database {
    db: DB,
    path: PathBuf,
    read: ReadOptions,
    write: WriteOptions,
    manifest: ManifestNote,
    // After the database, which it outlives.
    _right: Arc<OpenTask>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Why a database did not open.
#[derive(Debug)]
pub(crate) enum OpenDatabaseError {
    /// What is there cannot be read.
    Torn(String),
    /// Somebody has it open.
    Locked,
    /// The disk is full, read-only, or failing.
    Store(StoreError),
}

/// What a scrape of metrics asks of a database.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DatabaseMetrics {
    pub(crate) write_buffer_bytes: u64,
    pub(crate) pending_compaction_bytes: u64,
    pub(crate) running_compactions: u64,
    pub(crate) running_flushes: u64,
    pub(crate) delayed_write_bytes_per_second: u64,
    pub(crate) write_stopped: u64,
    pub(crate) background_errors: u64,
    pub(crate) file_bytes: u64,
    pub(crate) table_reader_bytes: u64,
}

impl Database {
    /// Opens or creates the database in `path` with a family for each of `stores`.
    pub(crate) fn open<'a>(
        shared: &SharedOptions,
        path: &Path,
        right: Arc<OpenTask>,
        stores: impl Iterator<Item = &'a StoreName>,
    ) -> Result<Self, OpenDatabaseError> {
        let options = shared.database();
        let mut families: Vec<String> = stores.map(family_name).collect();
        families.push(rocksdb::DEFAULT_COLUMN_FAMILY_NAME.to_owned());
        let descriptors =
            families.iter().map(|name| ColumnFamilyDescriptor::new(name.clone(), shared.family())).collect::<Vec<_>>();
        discard_unfinished(path).map_err(|error| {
            let (path, message) = (path.to_owned(), error.to_string());
            OpenDatabaseError::Store(StoreError::Directory { path, message })
        })?;
        if let Some(damage) = manifest::damage(path) {
            return Err(OpenDatabaseError::Torn(damage));
        }
        let existing = if path.join("CURRENT").exists() {
            DB::list_cf(&options, path).map_err(|error| Self::open_error(path, error))?
        } else {
            Vec::new()
        };
        if let Some(unknown) = existing.iter().find(|name| !families.contains(name)) {
            return Err(OpenDatabaseError::Torn(format!("column family {unknown:?} belongs to no store of the task")));
        }
        let db = DB::open_cf_descriptors(&options, path, descriptors).map_err(|error| Self::open_error(path, error))?;
        let database = Self {
            db,
            path: path.to_owned(),
            read: ReadOptions::default(),
            write: WriteOptions::default(),
            manifest: ManifestNote::new(path),
            _right: right,
        };
        // It names all that there is so far.
        database.manifest.update();
        // A kill while the families are created leaves some out, which is fine only as long as there is no identity:
        // that is written when all are there.
        if existing.len() < families.len() && database.identity().map_err(OpenDatabaseError::Store)?.is_some() {
            return Err(OpenDatabaseError::Torn("a store's column family is missing".to_owned()));
        }
        Ok(database)
    }

    fn open_error(path: &Path, error: rocksdb::Error) -> OpenDatabaseError {
        if error.as_ref().contains("lock") && error.kind() == rocksdb::ErrorKind::IOError {
            return OpenDatabaseError::Locked;
        }
        match StoreError::from_rocksdb(path, error) {
            StoreError::Corruption { source, .. } | StoreError::RocksDb { source, .. } => {
                OpenDatabaseError::Torn(source.into_string())
            }
            other => OpenDatabaseError::Store(other),
        }
    }

    /// The identity that was written when the database was created.
    pub(crate) fn identity(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_opt(IDENTITY, &self.read).map_err(|error| self.error(error))
    }

    /// Writes the identity and makes it last.
    pub(crate) fn set_identity(&self, identity: &[u8]) -> Result<(), StoreError> {
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        self.db.put_opt(IDENTITY, identity, &synced).map_err(|error| self.error(error))
    }

    /// The checkpoint that the rows belong to.
    pub(crate) fn checkpoint(&self) -> Result<Result<Checkpoint, serde_json::Error>, StoreError> {
        let bytes = self.db.get_opt(CHECKPOINT, &self.read).map_err(|error| self.error(error))?;
        Ok(bytes.map_or_else(|| Ok(Checkpoint::default()), |bytes| Checkpoint::decode(&bytes)))
    }

    /// Whether nothing was ever written.
    pub(crate) fn is_untouched(&self) -> bool {
        self.db.latest_sequence_number() == 0
    }

    /// Writes tables in key order together with their checkpoint, atomically. Answers the batch's size in bytes.
    pub(crate) fn write<'a>(
        &self,
        tables: impl Iterator<Item = (&'a str, &'a Frozen)>,
        checkpoint: &Checkpoint,
    ) -> Result<usize, StoreError> {
        let mut batch = WriteBatch::default();
        for (family, frozen) in tables {
            let family = self.family(family)?;
            for row in frozen.rows() {
                match row.stored() {
                    Some(stored) => batch.put_cf(family, row.key(), stored),
                    None => batch.delete_cf(family, row.key()),
                }
            }
        }
        batch.put(CHECKPOINT, self.encode(checkpoint)?);
        let bytes = batch.size_in_bytes();
        self.db.write_opt(batch, &self.write).map_err(|error| self.error(error))?;
        self.manifest.update();
        Ok(bytes)
    }

    /// Deletes every row of every family, and the checkpoint with them, atomically.
    pub(crate) fn clear<'a>(&self, families: impl Iterator<Item = &'a str> + Clone) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let mut ends = Vec::new();
        for name in families {
            let family = self.family(name)?;
            let mut iterator = self.db.raw_iterator_cf_opt(family, ReadOptions::default());
            iterator.seek_to_last();
            iterator.status().map_err(|error| self.error(error))?;
            let Some(end) = iterator.key().map(successor) else { continue };
            batch.delete_range_cf(family, &b""[..], &end[..]);
            ends.push((name, end));
        }
        batch.delete(CHECKPOINT);
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        self.db.write_opt(batch, &synced).map_err(|error| self.error(error))?;
        // Space comes back at once, and reads do not step over the range for long.
        for (name, end) in ends {
            let family = self.family(name)?;
            self.db.delete_file_in_range_cf(family, &b""[..], &end[..]).map_err(|error| self.error(error))?;
            self.db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }

    /// The row of `key`.
    pub(crate) fn get(&self, store: &StoreName, family: &str, key: &[u8]) -> Result<Option<Row>, StoreError> {
        let found = self.db.get_pinned_cf_opt(self.family(family)?, key, &self.read);
        match found.map_err(|error| self.error(error))? {
            Some(stored) => self.row(store, &stored).map(Some),
            None => Ok(None),
        }
    }

    /// The rows of `keys`, which must be sorted.
    pub(crate) fn get_sorted(
        &self,
        store: &StoreName,
        family: &str,
        keys: &[&[u8]],
    ) -> Result<Vec<Option<Row>>, StoreError> {
        let found = self.db.batched_multi_get_cf_opt(self.family(family)?, keys.iter().copied(), true, &self.read);
        found
            .into_iter()
            .map(|found| match found.map_err(|error| self.error(error))? {
                Some(stored) => self.row(store, &stored).map(Some),
                None => Ok(None),
            })
            .collect()
    }

    /// A walk over `lower..upper` as of now.
    pub(crate) fn layer<'a>(
        &'a self,
        store: &'a StoreName,
        family: &str,
        lower: Vec<u8>,
        upper: Option<Vec<u8>>,
        reverse: bool,
    ) -> Result<RocksLayer<'a>, StoreError> {
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(lower);
        if let Some(upper) = upper {
            read.set_iterate_upper_bound(upper);
        }
        RocksLayer::new(self, store, self.db.raw_iterator_cf_opt(self.family(family)?, read), reverse)
    }

    /// RocksDB's estimate of the number of keys.
    pub(crate) fn estimated_rows(&self, family: &str) -> u64 {
        let family = self.db.cf_handle(family);
        family
            .and_then(|family| self.db.property_int_value_cf(family, properties::ESTIMATE_NUM_KEYS).ok().flatten())
            .unwrap_or(0)
    }

    /// Starts to write all write buffers to files; does not wait.
    pub(crate) fn relieve_write_buffers<'a>(&self, families: impl Iterator<Item = &'a str>) -> Result<(), StoreError> {
        let mut options = FlushOptions::default();
        options.set_wait(false);
        for name in families {
            self.db.flush_cf_opt(self.family(name)?, &options).map_err(|error| self.error(error))?;
        }
        self.db.flush_opt(&options).map_err(|error| self.error(error))
    }

    /// Makes all that was written last.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.db.flush_wal(true).map_err(|error| self.error(error))
    }

    /// Sums over all families of what a scrape asks.
    pub(crate) fn metrics<'a>(&self, families: impl Iterator<Item = &'a str>) -> DatabaseMetrics {
        let mut sum = DatabaseMetrics::default();
        // These are the database's whatever the family.
        let whole = |name| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        sum.running_compactions = whole(properties::NUM_RUNNING_COMPACTIONS);
        sum.running_flushes = whole(properties::NUM_RUNNING_FLUSHES);
        sum.delayed_write_bytes_per_second = whole(properties::ACTUAL_DELAYED_WRITE_RATE);
        sum.write_stopped = whole(properties::IS_WRITE_STOPPED);
        sum.background_errors = whole(properties::BACKGROUND_ERRORS);
        for family in families.chain([rocksdb::DEFAULT_COLUMN_FAMILY_NAME]) {
            let Some(family) = self.db.cf_handle(family) else { continue };
            let of = |name| self.db.property_int_value_cf(family, name).ok().flatten().unwrap_or(0);
            sum.write_buffer_bytes += of(properties::SIZE_ALL_MEM_TABLES);
            sum.pending_compaction_bytes += of(properties::ESTIMATE_PENDING_COMPACTION_BYTES);
            sum.file_bytes += of(properties::TOTAL_SST_FILES_SIZE);
            sum.table_reader_bytes += of(properties::ESTIMATE_TABLE_READERS_MEM);
        }
        sum
    }

    /// Bytes of write buffers of all families.
    pub(crate) fn write_buffer_bytes<'a>(&self, families: impl Iterator<Item = &'a str>) -> u64 {
        families
            .filter_map(|family| self.db.cf_handle(family))
            .filter_map(|family| {
                self.db.property_int_value_cf(family, properties::CUR_SIZE_ALL_MEM_TABLES).ok().flatten()
            })
            .sum()
    }

    pub(super) fn row(&self, store: &StoreName, stored: &[u8]) -> Result<Row, StoreError> {
        Row::from_stored(stored).ok_or_else(|| StoreError::BadRow {
            path: self.path.clone(),
            store: store.clone(),
            bytes: stored.len(),
        })
    }

    pub(super) fn error(&self, source: rocksdb::Error) -> StoreError {
        StoreError::from_rocksdb(&self.path, source)
    }

    fn encode(&self, checkpoint: &Checkpoint) -> Result<Vec<u8>, StoreError> {
        checkpoint
            .encode()
            .map_err(|error| StoreError::Checkpoint { path: self.path.clone(), message: error.to_string() })
    }

    fn family(&self, name: &str) -> Result<&ColumnFamily, StoreError> {
        // Opened with exactly the task's families, so this is found unless the database is not the task's.
        self.db.cf_handle(name).ok_or_else(|| StoreError::Checkpoint {
            path: self.path.clone(),
            message: format!("there is no column family {name:?}"),
        })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Compactions start again with the next open; waiting for a long one would hold up a hand-over.
        self.db.cancel_all_background_work(true);
    }
}

/// Removes a database that a kill left half made: it has neither a log nor files of rows, and RocksDB would refuse it.
fn discard_unfinished(path: &Path) -> io::Result<()> {
    if !path.join("CURRENT").exists() {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if Path::new(&name).extension().is_some_and(|ending| ending == "log" || ending == "sst") {
            return Ok(());
        }
    }
    tracing::warn!(path = %path.display(), "there is nothing in this database: it is made anew");
    fs::remove_dir_all(path)
}

/// The column family of a store.
pub(crate) fn family_name(store: &StoreName) -> String {
    format!("{FAMILY_PREFIX}{store}")
}
