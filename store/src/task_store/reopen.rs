//! A database that refuses all writes since one failed is opened anew, once the file system takes writes again.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use super::{
    TaskStore,
    open::{OpenError, open_database},
};
use crate::{
    directory::DirectoryError,
    error::{StoreError, free_bytes},
};

/// Written, synced and removed to see whether writes succeed.
const PROBE: &str = "probe";

impl TaskStore {
    /// After a failed write RocksDB refuses further ones until it is opened again. (From a full disk it recovers by itself where
    /// that showed when a file was flushed, within some seconds, and never where it showed when a log was changed for the next:
    /// `DBImpl::SwitchMemtable` calls that fatal.) Reads wait for the moment that this takes. The caller holds `flushing`.
    pub(super) fn reopen_if_stopped(&self, refused: &StoreError) -> Result<(), StoreError> {
        if !refused.is_passing() {
            return Ok(());
        }
        let mut disk = self.disk.write();
        let Some(disk) = &mut *disk else { return Ok(()) };
        let path = disk.directory.database_path();
        // It writes what its logs hold to files, and rows are not to be read from a database that could not be opened.
        if !has_room(&path) || probe(&path).is_err() {
            return Err(refused.clone());
        }
        // Whoever reads holds its table's lock: with all of them in hand, nobody uses the old database.
        let mut slots: Vec<_> = self.persistent().map(|table| table.database_slot()).collect();
        for slot in &mut slots {
            **slot = None;
        }
        disk.database = None;
        let database = match open_database(&disk.directory, &self.budget, &self.spec) {
            Ok((database, _)) => Arc::new(database),
            Err(OpenError::Store(error)) => return Err(error),
            // Somebody counts the bytes of its buffers at this moment: the next attempt finds it closed.
            Err(OpenError::Directory(DirectoryError::InUse { .. })) => return Err(refused.clone()),
            Err(OpenError::Directory(error)) => return Err(disk.directory.store_error(error)),
        };
        for slot in &mut slots {
            **slot = Some(Arc::clone(&database));
        }
        disk.database = Some(database);
        tracing::info!(task = %self.spec.task, path = %path.display(), "the database was opened again: it takes writes");
        Ok(())
    }
}

/// Whether what the database's logs hold fits twice into what is free: once for the files that come of them when it is opened, and
/// once for what follows. Where the file system does not say, nobody knows better.
fn has_room(database: &Path) -> bool {
    let is_log = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "log");
    let logs = fs::read_dir(database).map(|entries| {
        entries.flatten().filter(is_log).filter_map(|log| log.metadata().ok()).map(|log| log.len()).sum::<u64>()
    });
    match (logs, free_bytes(database)) {
        (Ok(logs), Some(free)) => free / 2 >= logs,
        _ => true,
    }
}

/// Whether a file can be written beside the database.
fn probe(database: &Path) -> io::Result<()> {
    let path = database.with_file_name(PROBE);
    // More than what a nearly full file system finds in a corner.
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&[0; 64 * 1024])?;
        file.sync_all()
    });
    // Also where only a part was written: there is little room as it is.
    let removed = fs::remove_file(&path);
    written.and(removed)
}
