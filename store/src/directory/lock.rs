//! The lock of an application's directory: an advisory lock on a file, which the system releases when its holder ends.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{DirectoryError, error::IoContext};

pub(super) const LOCK_FILE: &str = "lock";

/// A held lock; released on drop.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    path: PathBuf,
    _file: File,
}

impl DirectoryLock {
    /// Locks `<directory>/lock`, or says who holds it.
    pub(super) fn acquire(directory: &Path) -> Result<Self, DirectoryError> {
        let path = directory.join(LOCK_FILE);
        loop {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .context("open", &path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(DirectoryError::Locked { pid: holder(&mut file), path }),
                Err(error) => return Err(error).context("lock", &path),
            }
            // A reset removes the file while it holds it: a lock on a removed file excludes nobody.
            if same_file(&file, &path) {
                // Whom the lock belongs to is a courtesy to whoever meets it: a full disk must not keep the process from its rows.
                if let Err(error) = write_pid(&mut file) {
                    tracing::debug!(path = %path.display(), %error, "the lock does not name its holder");
                }
                return Ok(Self { path, _file: file });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(found)) => held.ino() == found.ino() && held.dev() == found.dev(),
        _ => false,
    }
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
