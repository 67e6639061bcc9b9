//! The state directory of an application: `<state_dir>/<application_id>/{lock, process.json, <task>/{task.json, rocksdb/}}`.
//!
//! One process at a time holds it; it knows which process it belongs to, and each task's directory knows what it is.

mod error;
mod file;
mod identity;
mod lock;
mod task;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_types::{Clock, ProcessId, TaskId};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use error::DirectoryError;
pub(crate) use identity::TaskIdentity;
pub(crate) use task::{OpenTask, TaskDirectory};

use error::IoContext;
use lock::{DirectoryLock, LOCK_FILE};

/// Version of the layout of directories, files and rows. One that is greater than this build's is refused.
pub const FORMAT_VERSION: u32 = 1;

const PROCESS_FILE: &str = "process.json";
/// Behind the name of a task's directory while it is deleted, so that a kill in between leaves no half directory.
const REMOVING: &str = ".removing";

/// An application's state directory, locked for this process.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    application_id: String,
    process: Mutex<ProcessFile>,
    process_id: ProcessId,
    open_tasks: Mutex<OpenTasks>,
    task_closed: Condvar,
    // Last: the lock goes when all else is gone.
    _lock: DirectoryLock,
}

#[derive(Debug, Default)]
struct OpenTasks {
    open: BTreeSet<TaskId>,
    /// Since when a task's directory has had no user, as far as this process has seen, in ms since the epoch.
    unused_since: BTreeMap<TaskId, Instant>,
}

/// `process.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ProcessFile {
    format_version: u32,
    application_id: String,
    process_id: ProcessId,
    /// Every transactional id that this process ever used: a restart fences them all.
    transactional_ids: BTreeSet<String>,
}

impl StateDirectory {
    /// Opens `<root>/<application_id>`, created if need be, and locks it for this process.
    pub fn open(root: &Path, application_id: &str) -> Result<Arc<Self>, DirectoryError> {
        let path = application_path(root, application_id)?;
        fs::create_dir_all(&path).context("create the directory", &path)?;
        let lock = DirectoryLock::acquire(&path)?;
        let file = path.join(PROCESS_FILE);
        let process = match file::read_versioned::<ProcessFile>(&file)? {
            Some(process) => process,
            None => {
                let process = ProcessFile {
                    format_version: FORMAT_VERSION,
                    application_id: application_id.to_owned(),
                    process_id: ProcessId(Uuid::new_v4()),
                    transactional_ids: BTreeSet::new(),
                };
                file::write_json(&file, &process)?;
                process
            }
        };
        if process.application_id != application_id {
            return Err(DirectoryError::Foreign {
                path: file,
                expected: format!("application {application_id}"),
                found: format!("application {}", process.application_id),
            });
        }
        Ok(Arc::new(Self {
            path,
            application_id: application_id.to_owned(),
            process_id: process.process_id,
            process: Mutex::new(process),
            open_tasks: Mutex::default(),
            task_closed: Condvar::new(),
            _lock: lock,
        }))
    }

    /// The directory: `<root>/<application_id>`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The application that it belongs to.
    pub fn application_id(&self) -> &str {
        &self.application_id
    }

    /// This process's identity: made at the first start, the same ever after.
    pub fn process_id(&self) -> ProcessId {
        self.process_id
    }

    /// Notes transactional ids before they are used, and answers all that this process ever used: a transaction that an
    /// earlier life left open is ended by initialising its id.
    pub fn note_transactional_ids(&self, ids: &[String]) -> Result<Vec<String>, DirectoryError> {
        let mut process = self.process.lock();
        let mut noted = process.clone();
        noted.transactional_ids.extend(ids.iter().cloned());
        if noted.transactional_ids != process.transactional_ids {
            file::write_json(&self.path.join(PROCESS_FILE), &noted)?;
            *process = noted;
        }
        Ok(process.transactional_ids.iter().cloned().collect())
    }

    /// The tasks that have a directory here, in order.
    pub fn tasks(&self) -> Result<Vec<TaskId>, DirectoryError> {
        task_directories(&self.path)
    }

    /// Removes the directories of tasks that are neither in `keep` nor open, and have had no user for `older_than`. After a
    /// restart, the time starts with the first call: what was used before a crash is not known. Answers what was removed.
    pub fn remove_unassigned(
        &self,
        keep: &BTreeSet<TaskId>,
        older_than: Duration,
        clock: &dyn Clock,
    ) -> Result<Vec<TaskId>, DirectoryError> {
        // The wall clock may jump, and is no reason to remove anything.
        let now = clock.monotonic();
        self.remove_leftovers()?;
        let mut removed = Vec::new();
        for task in self.tasks()? {
            // Held while the directory is moved away, so that nobody opens it in between.
            let mut tasks = self.open_tasks.lock();
            if keep.contains(&task) || tasks.open.contains(&task) {
                tasks.unused_since.remove(&task);
                continue;
            }
            let since = *tasks.unused_since.entry(task).or_insert(now);
            if now.saturating_duration_since(since) < older_than {
                continue;
            }
            let aside = self.move_aside(task)?;
            tasks.unused_since.remove(&task);
            drop(tasks);
            fs::remove_dir_all(&aside).context("remove", &aside)?;
            tracing::info!(%task, path = %self.task_path(task).display(), "removed the state of an unassigned task");
            removed.push(task);
        }
        Ok(removed)
    }

    /// Removes one task's directory, which must not be open: for a caller that decided to restore from zero, because the
    /// changelog was recreated, say. Removing what is not there is fine.
    pub fn discard_task(&self, task: TaskId) -> Result<(), DirectoryError> {
        let tasks = self.open_tasks.lock();
        if tasks.open.contains(&task) {
            return Err(DirectoryError::InUse { path: self.task_path(task) });
        }
        if !self.task_path(task).exists() {
            return Ok(());
        }
        let aside = self.move_aside(task)?;
        drop(tasks);
        fs::remove_dir_all(&aside).context("remove", &aside)
    }

    /// Removes everything of an application, its process id included: for `holdfast reset`. Refused while a process holds
    /// the directory, and when there is something in it that is not a state directory's. Answers the tasks that had state.
    pub fn reset(root: &Path, application_id: &str) -> Result<Vec<TaskId>, DirectoryError> {
        let path = application_path(root, application_id)?;
        if !path.exists() {
            return Ok(Vec::new());
        }
        for entry in fs::read_dir(&path).context("list", &path)? {
            let name = entry.context("list", &path)?.file_name().to_string_lossy().into_owned();
            if !is_ours(&name) {
                return Err(DirectoryError::Foreign {
                    path: path.join(name),
                    expected: "only files of a state directory".to_owned(),
                    found: "something else".to_owned(),
                });
            }
        }
        let lock = DirectoryLock::acquire(&path)?;
        let tasks = task_directories(&path)?;
        for entry in fs::read_dir(&path).context("list", &path)? {
            let entry = entry.context("list", &path)?.path();
            if entry.is_dir() {
                fs::remove_dir_all(&entry).context("remove", &entry)?;
            } else if entry != lock.path() {
                fs::remove_file(&entry).context("remove", &entry)?;
            }
        }
        // The lock's file goes last, and while it is held; who waits for it notices that its file is gone.
        fs::remove_file(lock.path()).context("remove", lock.path())?;
        fs::remove_dir(&path).context("remove", &path)?;
        Ok(tasks)
    }

    pub(crate) fn task_path(&self, task: TaskId) -> PathBuf {
        self.path.join(task.to_string())
    }

    fn move_aside(&self, task: TaskId) -> Result<PathBuf, DirectoryError> {
        let path = self.task_path(task);
        let aside = self.path.join(format!("{task}{REMOVING}"));
        if aside.exists() {
            fs::remove_dir_all(&aside).context("remove", &aside)?;
        }
        fs::rename(&path, &aside).context("move aside", &path)?;
        Ok(aside)
    }

    fn remove_leftovers(&self) -> Result<(), DirectoryError> {
        for entry in fs::read_dir(&self.path).context("list", &self.path)? {
            let path = entry.context("list", &self.path)?.path();
            if path.is_dir() && path.to_string_lossy().ends_with(REMOVING) {
                fs::remove_dir_all(&path).context("remove", &path)?;
            }
        }
        Ok(())
    }
}

fn application_path(root: &Path, application_id: &str) -> Result<PathBuf, DirectoryError> {
    let legal = !matches!(application_id, "" | "." | "..") && !application_id.contains(['/', '\\', '\0']);
    if !legal {
        return Err(DirectoryError::IllegalApplicationId { application_id: application_id.to_owned() });
    }
    Ok(root.join(application_id))
}

/// Whether a state directory has an entry of this name.
fn is_ours(name: &str) -> bool {
    let task = name.strip_suffix(REMOVING).unwrap_or(name);
    let file = name.strip_suffix(file::BESIDE).unwrap_or(name);
    [PROCESS_FILE, LOCK_FILE].contains(&file) || task.parse::<TaskId>().is_ok()
}

fn task_directories(path: &Path) -> Result<Vec<TaskId>, DirectoryError> {
    let mut tasks = BTreeSet::new();
    for entry in fs::read_dir(path).context("list", path)? {
        let entry = entry.context("list", path)?;
        let task = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(task) = task.filter(|_| entry.path().is_dir()) {
            tasks.insert(task);
        }
    }
    Ok(tasks.into_iter().collect())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
