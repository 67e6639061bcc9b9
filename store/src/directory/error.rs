//! Why a directory is not used as it is: what was expected, what was found, and the way out.

use std::{
    io,
    path::{Path, PathBuf},
};

use holdfast_types::TopicPartition;
use uuid::Uuid;

/// A directory could not be used. Nothing was deleted.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A live process holds the directory.
    #[error(
        "{path} is in use by {}; stop it, or give this process a state_dir of its own (two processes must not share one)",
        .pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// The holder, as far as its file says.
        pid: Option<u32>,
    },
    /// The task's directory is open in this process.
    #[error("{path} is still open in this process; close the task's stores first")]
    InUse {
        /// The task's directory.
        path: PathBuf,
    },
    /// The directory belongs to somebody else.
    #[error("{path} belongs to {found}, expected {expected}; move it away, or point state_dir at the right directory")]
    Foreign {
        /// The file that says so.
        path: PathBuf,
        /// Whose it should be.
        expected: String,
        /// Whose it is.
        found: String,
    },
    /// The sub-topology has changed since the directory was made.
    #[error(
        "{path} was made by another topology: expected fingerprint {expected}, found {found}; \
         run `holdfast reset` and restore from the changelogs, or go back to the topology that made it"
    )]
    ChangedTopology {
        /// The file that says so.
        path: PathBuf,
        /// Fingerprint of the running sub-topology.
        expected: String,
        /// Fingerprint in the directory.
        found: String,
    },
    /// A changelog topic was deleted and created again, so that the rows are not its rows.
    #[error(
        "{path}: changelog {changelog} was recreated: its topic id is {found}, the rows came from {expected}; \
         move the directory away or run `holdfast reset`, and the store is restored from what the new topic has"
    )]
    TopicRecreated {
        /// The file that says so.
        path: PathBuf,
        /// The changelog.
        changelog: TopicPartition,
        /// The id that the rows came from.
        expected: Uuid,
        /// The id that the broker tells now.
        found: Uuid,
    },
    /// A newer version wrote the directory.
    #[error(
        "{path} has format version {found}, this build reads up to {expected}; run the newer version, or run `holdfast reset` and restore from the changelogs"
    )]
    Newer {
        /// The file that says so.
        path: PathBuf,
        /// Newest version that this build reads.
        expected: u32,
        /// Version of the file.
        found: u32,
    },
    /// Something in the directory cannot be read.
    #[error(
        "{path} cannot be read: {problem}; move the task's directory away (it is restored from the changelogs), or run `holdfast reset`"
    )]
    Torn {
        /// The file or database.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The application id is not fit for a directory's name.
    #[error(
        "application_id {application_id:?} names a directory: expected a name without / and \\, and neither . nor .."
    )]
    IllegalApplicationId {
        /// What came.
        application_id: String,
    },
    /// The file system failed.
    #[error("cannot {operation} {path}: {source}{}", way_out(.source))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DirectoryError {
    /// Whether somebody outside can mend it while the process runs.
    pub fn is_passing(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem))
    }
}

/// What to do about a failed file operation, where that is known.
fn way_out(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space or enlarge the volume, no row is lost"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "; make it writable for this user, or point state_dir at a directory that is"
        }
        _ => "",
    }
}

/// Names operation and path of a failed file operation.
pub(super) trait IoContext<T> {
    fn context(self, operation: &'static str, path: &Path) -> Result<T, DirectoryError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, operation: &'static str, path: &Path) -> Result<T, DirectoryError> {
        self.map_err(|source| DirectoryError::Io { operation, path: path.to_owned(), source: source.into() })
    }
}
