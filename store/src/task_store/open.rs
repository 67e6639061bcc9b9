//! Opening a task's stores: the directory must be the task's, the database the directory's, and neither too old.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use holdfast_types::{Clock, SystemClock};
use parking_lot::{Mutex, RwLock};

use super::{Disk, Flushing, TaskStore, Writing};
use crate::{
    budget::MemoryBudget,
    checkpoint::Checkpoint,
    directory::{DirectoryError, StateDirectory, TaskDirectory, TaskIdentity},
    error::StoreError,
    rocks::{Database, OpenDatabaseError},
    spec::{StoreKind, TaskStoreSpec},
    table::Table,
};

/// How a task's directory was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// There was none: everything is to be restored.
    Fresh,
    /// Its rows and checkpoint are in use: what the changelog has beyond the checkpoint is to be restored.
    Reused,
    /// It had not followed its changelog for longer than deletions are kept there, and was emptied: deleted keys would
    /// have come back.
    Expired {
        /// How long, in milliseconds; negative when it seems to come from the future.
        age_ms: i64,
    },
    /// There is no directory: the stores are in memory only.
    Temporary,
}

impl OpenError {
    /// Whether somebody outside can mend it while the process runs.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Directory(error) => error.is_passing(),
            Self::Store(error) => error.is_passing(),
        }
    }
}

/// Why a task's stores did not open. Nothing was deleted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is not the task's, or cannot be read.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TaskStore {
    /// Opens or makes the task's directory. `max_age` is the changelog's `delete.retention.ms`: a directory that has not
    /// followed its changelog for longer is emptied (a new database beside the old one, then swapped).
    pub fn open(
        directory: &Arc<StateDirectory>,
        budget: &Arc<MemoryBudget>,
        spec: &TaskStoreSpec,
        max_age: Option<Duration>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<Self>, OpenError> {
        let now_ms = clock.now_ms();
        let task_directory = TaskDirectory::open(directory, spec, now_ms)?;
        let path = task_directory.database_path();
        let (mut database, mut opened) = open_database(&task_directory, budget, spec)?;
        let mut checkpoint = database.checkpoint()?.map_err(|error| DirectoryError::Torn {
            path: path.clone(),
            problem: format!("the checkpoint is not JSON: {error}"),
        })?;
        if let Some(age_ms) = expired(&checkpoint, max_age, now_ms) {
            tracing::warn!(
                task = %spec.task, path = %path.display(), age_ms,
                "the state is older than its changelog keeps deletions, by this machine's clock: restoring from zero"
            );
            drop(database);
            task_directory.expire_database()?;
            (database, _) = open_database(&task_directory, budget, spec)?;
            (opened, checkpoint) = (Opened::Expired { age_ms }, Checkpoint::default());
        }
        let store =
            Self::new(spec, budget, checkpoint, Some((Arc::new(database), task_directory)), opened, Arc::clone(clock));
        budget.register(&store);
        Ok(store)
    }

    /// Stores in memory only, without a directory, whatever their kinds: for the test driver.
    pub fn temporary(budget: &Arc<MemoryBudget>, spec: &TaskStoreSpec) -> Arc<Self> {
        Self::new(spec, budget, Checkpoint::default(), None, Opened::Temporary, Arc::new(SystemClock))
    }

    fn new(
        spec: &TaskStoreSpec,
        budget: &Arc<MemoryBudget>,
        checkpoint: Checkpoint,
        disk: Option<(Arc<Database>, TaskDirectory)>,
        opened: Opened,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let database = disk.as_ref().map(|(database, _)| database);
        let tables = spec.stores.iter().map(|store| {
            let account = Arc::clone(budget.account());
            Arc::new(Table::new(store.name.clone(), spec.task, store.kind, database.cloned(), account))
        });
        Arc::new(Self {
            tables: tables.collect(),
            spec: spec.clone(),
            checkpoint: RwLock::new(checkpoint),
            writing: Mutex::new(Writing::default()),
            flushing: Mutex::new(Flushing::default()),
            unwritten: AtomicBool::new(false),
            failure: Mutex::new(None),
            disk: RwLock::new(disk.map(|(database, directory)| Disk { database: Some(database), directory })),
            opened,
            budget: Arc::clone(budget),
            clock,
        })
    }
}

/// Opens the directory's database and checks that it is the directory's.
pub(super) fn open_database(
    directory: &TaskDirectory,
    budget: &MemoryBudget,
    spec: &TaskStoreSpec,
) -> Result<(Database, Opened), OpenError> {
    let path = directory.database_path();
    let stores = spec.stores.iter().filter(|store| store.kind == StoreKind::Persistent).map(|store| &store.name);
    let database =
        Database::open(budget.rocks(), &path, directory.right(), stores).map_err(|error| open_error(&path, error))?;
    match database.identity()? {
        Some(json) => {
            directory.identity().check_database(&path, &TaskIdentity::decode(&path, &json)?)?;
            Ok((database, Opened::Reused))
        }
        None if database.is_untouched() => {
            database.set_identity(&directory.identity().encode(&path)?)?;
            Ok((database, Opened::Fresh))
        }
        None => Err(torn(&path, "it has rows and no identity".to_owned())),
    }
}

fn open_error(path: &Path, error: OpenDatabaseError) -> OpenError {
    match error {
        OpenDatabaseError::Torn(problem) => torn(path, problem),
        OpenDatabaseError::Locked => DirectoryError::InUse { path: path.to_owned() }.into(),
        OpenDatabaseError::Store(error) => error.into(),
    }
}

fn torn(path: &Path, problem: String) -> OpenError {
    DirectoryError::Torn { path: path.to_owned(), problem }.into()
}

/// The age of a checkpoint that is older than `max_age`.
fn expired(checkpoint: &Checkpoint, max_age: Option<Duration>, now_ms: i64) -> Option<i64> {
    // A checkpoint that never moved belongs to no rows.
    if checkpoint.applied_at_ms == 0 {
        return None;
    }
    let age_ms = now_ms.saturating_sub(checkpoint.applied_at_ms);
    let max_age_ms = i64::try_from(max_age?.as_millis()).unwrap_or(i64::MAX);
    // From the future, by a clock that was set meanwhile: by so much that nothing can be said of its age.
    (age_ms.saturating_abs() > max_age_ms).then_some(age_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_counts_from_the_last_application() {
        let at = |applied_at_ms| Checkpoint { applied_at_ms, ..Checkpoint::default() };
        let day = Some(Duration::from_millis(100));
        for (applied_at_ms, max_age, now_ms, age_ms) in [
            (1000, day, 1100, None),
            (1000, day, 1101, Some(101)),
            (1000, None, 9999, None),
            (0, day, 9999, None),
            // A clock that was set back.
            (1000, day, 900, None),
            (1000, day, 500, Some(-500)),
        ] {
            assert_eq!(expired(&at(applied_at_ms), max_age, now_ms), age_ms, "{applied_at_ms} {now_ms}");
        }
    }
}
