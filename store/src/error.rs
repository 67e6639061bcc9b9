//! What can go wrong with an open store.

use std::path::{Path, PathBuf};

use holdfast_types::{StoreName, TaskId};
use rustix::fs::statvfs;

/// What the file system at a path has left for this process, in bytes, as far as it says.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    statvfs(path).ok().map(|found| found.f_bavail.saturating_mul(found.f_frsize))
}

/// A read or write of a store failed. Cloneable, because a background flush keeps its error for the next
/// [`TaskStore::apply`](crate::TaskStore::apply).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No space is left.
    #[error(
        "the disk that holds {path} is full ({} free); free space or enlarge the volume, no row is lost: {source}",
        .free_bytes.map_or_else(|| "an unknown number of bytes".to_owned(), |bytes| format!("{bytes} bytes"))
    )]
    DiskFull {
        /// The database.
        path: PathBuf,
        /// What the file system has left for this process, in bytes, as far as it says.
        free_bytes: Option<u64>,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// The file system refuses writes.
    #[error("{path} cannot be written (read-only file system or missing permission); make it writable: {source}")]
    ReadOnly {
        /// The database.
        path: PathBuf,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// The process may open no more files.
    #[error(
        "no file descriptor is left for {path}; raise the limit (ulimit -n, LimitNOFILE), no row is lost: {source}"
    )]
    OutOfDescriptors {
        /// The database.
        path: PathBuf,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// Stored bytes are damaged.
    #[error(
        "{path} is corrupt; move the task's directory away and restart, it is restored from the changelog: {source}"
    )]
    Corruption {
        /// The database.
        path: PathBuf,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// Any other failure of RocksDB.
    #[error("RocksDB in {path} failed: {source}")]
    RocksDb {
        /// The database.
        path: PathBuf,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// A stored row is shorter than its header.
    #[error(
        "{path}, store {store}: expected a row of at least 16 bytes, got {bytes}; move the task's directory away and restart, it is restored from the changelog"
    )]
    BadRow {
        /// The database.
        path: PathBuf,
        /// The store.
        store: StoreName,
        /// Length of what was found, in bytes.
        bytes: usize,
    },
    /// The checkpoint could not be written as JSON.
    #[error("the checkpoint of {path} could not be encoded: {message}")]
    Checkpoint {
        /// The database.
        path: PathBuf,
        /// What the encoder said.
        message: String,
    },
    /// The task's directory could not be marked as closed.
    #[error("{path} could not be written: {message}")]
    Directory {
        /// The file.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// The store was closed, because the task moved away or ended; ask for its new owner.
    #[error("the stores of task {task} are closed; the task has moved or ended")]
    Closed {
        /// The task.
        task: TaskId,
    },
    /// A batch has rows for stores that the task does not have.
    #[error("task {task} has {expected} stores, got rows for {got}")]
    TooManyStores {
        /// The task.
        task: TaskId,
        /// Number of its stores.
        expected: usize,
        /// Number of lists of rows in the batch.
        got: usize,
    },
}

impl StoreError {
    /// Whether somebody outside can mend it while the process runs: writes are then tried again, with the rows in memory and
    /// in the changelog. Everything else stays as it is until the process or its directory is replaced.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::ReadOnly { .. } | Self::OutOfDescriptors { .. })
    }

    /// Sorts a failure of RocksDB by what an operator can do about it.
    pub(crate) fn from_rocksdb(path: &Path, source: rocksdb::Error) -> Self {
        let path = path.to_owned();
        let text = source.as_ref();
        // RocksDB's status has no code for these in its text form; it carries `strerror`.
        if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
            Self::DiskFull { free_bytes: free_bytes(&path), path, source }
        } else if text.contains("Read-only file system") || text.contains("Permission denied") {
            Self::ReadOnly { path, source }
        } else if text.contains("Too many open files") {
            Self::OutOfDescriptors { path, source }
        } else if source.kind() == rocksdb::ErrorKind::Corruption {
            Self::Corruption { path, source }
        } else {
            Self::RocksDb { path, source }
        }
    }
}
