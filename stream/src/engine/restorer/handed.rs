//! The stores that the restore thread has opened and told of. Whoever sends the next job for a task may not have heard of its
//! store yet, and the directory cannot be opened a second time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use holdfast_store::TaskStore;
use holdfast_types::TaskId;

/// Stores by task, for as long as somebody has them.
#[derive(Debug, Default)]
pub(super) struct HandedStores(BTreeMap<TaskId, Weak<TaskStore>>);

impl HandedStores {
    /// A store that was just opened.
    pub(super) fn add(&mut self, task: TaskId, store: &Arc<TaskStore>) {
        self.0.retain(|_, store| store.strong_count() > 0);
        self.0.insert(task, Arc::downgrade(store));
    }

    /// The task's store, if it is still open.
    pub(super) fn get(&self, task: TaskId) -> Option<Arc<TaskStore>> {
        self.0.get(&task)?.upgrade().filter(|store| !store.is_closed())
    }
}

#[cfg(test)]
mod tests {
    use holdfast_store::{MemoryBudget, StateDirectory, TaskStoreSpec};
    use holdfast_types::{Clock, SystemClock};

    use super::*;

    #[test]
    fn a_store_is_there_until_it_is_closed_or_nobody_has_it() {
        let (folder, budget) = (tempfile::tempdir().unwrap(), MemoryBudget::new(1 << 30));
        let directory = StateDirectory::open(folder.path(), "shop").unwrap();
        let task = TaskId::new(0, 1);
        let spec = TaskStoreSpec { task, fingerprint: "0".to_owned(), stores: Vec::new() };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let open = || TaskStore::open(&directory, &budget, &spec, None, &clock).unwrap();
        let mut handed = HandedStores::default();
        assert!(handed.get(task).is_none());

        let store = open();
        handed.add(task, &store);
        assert!(Arc::ptr_eq(&handed.get(task).unwrap(), &store), "its directory is in use");
        drop(store);
        assert!(handed.get(task).is_none());

        let store = open();
        handed.add(task, &store);
        Arc::clone(&store).close().unwrap();
        assert!(handed.get(task).is_none(), "somebody has it yet, and it is closed");
    }
}
