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
use crate::{directory::DirectoryError, error::StoreError};

/// Written, synced and removed to see whether writes succeed.
const PROBE: &str = "probe";

impl TaskStore {
    /// After a failed write RocksDB refuses further ones: from a full disk it recovers by itself, from anything else only
    /// when it is opened again. Reads wait for the moment that this takes. The caller holds `flushing`.
    pub(super) fn reopen_if_stopped(&self, refused: &StoreError) -> Result<(), StoreError> {
        if refused.rocksdb_recovers() || !refused.is_passing() {
            return Ok(());
        }
        let mut disk = self.disk.write();
        let Some(disk) = &mut *disk else { return Ok(()) };
        let path = disk.directory.database_path();
        if probe(&path).is_err() {
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

/// Whether a file can be written beside the database.
fn probe(database: &Path) -> io::Result<()> {
    let path = database.with_file_name(PROBE);
    let mut file = File::create(&path)?;
    // More than what a nearly full file system finds in a corner.
    file.write_all(&[0; 64 * 1024])?;
    file.sync_all()?;
    drop(file);
    fs::remove_file(&path)
}
