//! State that an earlier life of this instance left: opened before the group is joined, so that the group knows who has what.
//! And how far a store is, in the forms that others ask for.

use std::collections::BTreeMap;

use holdfast_store::{ChangelogSpec, Checkpoint, StoreSpec, TaskStore, TaskStoreSpec};
use holdfast_types::{Position, TaskId, TopicPartition};
use tracing::{info, warn};

use super::{Prepared, topics::changelog_topic};

impl Prepared {
    /// Opens the state of every task that has a directory here, and answers how far each is: the sum of its changelogs'
    /// offsets. What does not open is left alone; that is told when the task is assigned here. Blocks on the disk.
    ///
    /// To be called before the group is joined: a member that is back with its disk then gets the tasks that it has state of,
    /// and opens nothing twice.
    pub fn open_kept(&mut self) -> BTreeMap<TaskId, u64> {
        let tasks = self.directory.tasks().unwrap_or_else(|error| {
            warn!(%error, "the tasks of an earlier life cannot be listed");
            Vec::new()
        });
        for task in tasks {
            let Some(spec) = self.store_spec(task) else { continue };
            let max_age = Some(self.retentions.of_task(task));
            match TaskStore::open(&self.directory, &self.budget, &spec, max_age, &self.clock) {
                Ok(store) => {
                    self.kept.insert(task, store);
                }
                Err(error) => warn!(%task, %error, "state of an earlier life does not open"),
            }
        }
        if !self.kept.is_empty() {
            info!(tasks = self.kept.len(), "state of an earlier life is open");
        }
        self.kept.iter().map(|(task, store)| (*task, offset_sum(store))).collect()
    }

    /// What the stores of a task are; `None` where the topology has no such task.
    pub(super) fn store_spec(&self, task: TaskId) -> Option<TaskStoreSpec> {
        let subtopology = self.topology.subtopologies().iter().find(|sub| sub.id == task.subtopology)?;
        let spec = self.subtopologies.iter().find(|spec| spec.id == task.subtopology)?;
        if !(0..spec.partitions).contains(&task.partition) {
            return None;
        }
        let stores = subtopology.stores.iter().filter_map(|&index| self.topology.stores().get(index)).map(|store| {
            let changelog = store.changelog.then(|| {
                let topic = changelog_topic(&self.config.application_id, &store.name);
                let topic_id = self.topics.get(&topic).and_then(|topic| topic.id);
                ChangelogSpec { partition: TopicPartition::new(topic, task.partition), topic_id }
            });
            StoreSpec { name: store.name.clone(), kind: store.kind, changelog }
        });
        Some(TaskStoreSpec { task, fingerprint: subtopology.fingerprint.clone(), stores: stores.collect() })
    }
}

/// How far a copy is, as the group compares them.
pub(super) fn offset_sum(store: &TaskStore) -> u64 {
    store.with_checkpoint(|checkpoint| checkpoint.changelog.values().filter_map(|&next| u64::try_from(next).ok()).sum())
}

/// Next offset of each store's changelog; 0 without one.
pub(super) fn next_offsets(store: &TaskStore, changelogs: &[Option<TopicPartition>]) -> Vec<i64> {
    let next = |checkpoint: &Checkpoint, changelog: &Option<TopicPartition>| {
        changelog.as_ref().and_then(|partition| checkpoint.changelog.get(partition)).copied().unwrap_or(0)
    };
    store.with_checkpoint(|checkpoint| changelogs.iter().map(|changelog| next(checkpoint, changelog)).collect())
}

/// What the rows that a directory holds reflect of the inputs, at least.
pub(super) fn position(store: &TaskStore) -> Position {
    let mut position = Position::new();
    store.with_checkpoint(|checkpoint| {
        for (partition, next) in checkpoint.input.iter().filter(|(_, next)| **next > 0) {
            position.advance(&partition.topic, partition.partition, next - 1);
        }
    });
    position
}
