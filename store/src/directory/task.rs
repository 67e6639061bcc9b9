//! One task's directory: opened by one owner at a time, with `task.json` and the database telling the same story.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_types::TaskId;
use serde::{Deserialize, Serialize};

use super::{DirectoryError, StateDirectory, TaskIdentity, error::IoContext, file};
use crate::{error::StoreError, spec::TaskStoreSpec};

const TASK_FILE: &str = "task.json";
const DATABASE: &str = "rocksdb";
/// A database that is too old, on its way out.
const EXPIRED: &str = "rocksdb.expired";

/// How long to wait for an owner that is closing: a flush, and the end of reads that are under way.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(10);

/// `task.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct TaskFile {
    #[serde(flatten)]
    identity: TaskIdentity,
    /// Whether the last owner closed it; after a crash some changelog is replayed, no more.
    closed: bool,
    /// When it was last opened or closed, in ms since the epoch.
    last_used_ms: i64,
}

/// The right to use a task's directory; given back on drop.
#[derive(Debug)]
pub(crate) struct OpenTask {
    directory: Arc<StateDirectory>,
    task: TaskId,
}

impl OpenTask {
    /// Takes the task's directory, waiting for an owner in this process that is closing.
    pub(crate) fn acquire(directory: &Arc<StateDirectory>, task: TaskId) -> Result<Self, DirectoryError> {
        let deadline = Instant::now() + CLOSING_TIMEOUT;
        let mut tasks = directory.open_tasks.lock();
        while tasks.open.contains(&task) {
            if directory.task_closed.wait_until(&mut tasks, deadline).timed_out() {
                return Err(DirectoryError::InUse { path: directory.task_path(task) });
            }
        }
        tasks.open.insert(task);
        tasks.unused_since.remove(&task);
        Ok(Self { directory: Arc::clone(directory), task })
    }
}

impl Drop for OpenTask {
    fn drop(&mut self) {
        self.directory.open_tasks.lock().open.remove(&self.task);
        self.directory.task_closed.notify_all();
    }
}

/// An open task directory whose `task.json` has been checked.
#[derive(Debug)]
pub(crate) struct TaskDirectory {
    path: PathBuf,
    file: TaskFile,
    open: Arc<OpenTask>,
}

impl TaskDirectory {
    /// Opens or makes the directory of `spec`, or says why it is not the task's.
    pub(crate) fn open(
        directory: &Arc<StateDirectory>,
        spec: &TaskStoreSpec,
        now_ms: i64,
    ) -> Result<Self, DirectoryError> {
        let open = OpenTask::acquire(directory, spec.task)?;
        let path = directory.task_path(spec.task);
        fs::create_dir_all(&path).context("create the directory", &path)?;
        let task_file = path.join(TASK_FILE);
        let file = match file::read_versioned::<TaskFile>(&task_file)? {
            Some(mut found) => {
                found.identity.check(&task_file, &directory.application_id, spec)?;
                found.identity.learn_topic_ids(spec);
                TaskFile { closed: false, last_used_ms: now_ms, ..found }
            }
            // The file is written before the database is made, so a database without it was put there by somebody.
            None if path.join(DATABASE).exists() => {
                return Err(DirectoryError::Torn {
                    path: task_file,
                    problem: "it is missing beside a database".to_owned(),
                });
            }
            None => TaskFile {
                identity: TaskIdentity::new(&directory.application_id, directory.process_id, spec),
                closed: false,
                last_used_ms: now_ms,
            },
        };
        file::write_json(&task_file, &file)?;
        let expired = path.join(EXPIRED);
        if expired.exists() {
            fs::remove_dir_all(&expired).context("remove", &expired)?;
        }
        Ok(Self { path, file, open: Arc::new(open) })
    }

    pub(crate) fn identity(&self) -> &TaskIdentity {
        &self.file.identity
    }

    /// The right to the directory: whoever has the database open keeps it, so that the next owner waits for the last user.
    pub(crate) fn right(&self) -> Arc<OpenTask> {
        Arc::clone(&self.open)
    }

    pub(crate) fn database_path(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Moves a closed database out of the way of a new one, and removes it. A kill in between leaves no database or a new
    /// one, with the old one beside it for the next open to remove.
    pub(crate) fn expire_database(&self) -> Result<(), DirectoryError> {
        let (database, expired) = (self.database_path(), self.path.join(EXPIRED));
        fs::rename(&database, &expired).context("move aside", &database)?;
        file::sync_directory(&self.path)?;
        fs::remove_dir_all(&expired).context("remove", &expired)
    }

    /// Forgets which changelogs the rows came from, because there are none any more, and takes over those of `spec`.
    pub(crate) fn renew_topic_ids(&mut self, spec: &TaskStoreSpec) -> Result<(), DirectoryError> {
        self.file.identity.changelog_topic_ids.clear();
        self.file.identity.learn_topic_ids(spec);
        file::write_json(&self.path.join(TASK_FILE), &self.file)
    }

    /// A failure of a file here, for callers of an open store.
    pub(crate) fn store_error(&self, error: DirectoryError) -> StoreError {
        StoreError::Directory { path: self.path.clone(), message: error.to_string() }
    }

    /// Marks the directory as closed in order.
    pub(crate) fn mark_closed(&self, now_ms: i64) -> Result<(), DirectoryError> {
        let file = TaskFile { closed: true, last_used_ms: now_ms, ..self.file.clone() };
        file::write_json(&self.path.join(TASK_FILE), &file)
    }
}
