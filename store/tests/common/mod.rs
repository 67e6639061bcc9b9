//! What all store tests share: a directory of their own, a spec, batches.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use holdfast_store::{
    AppliedBatch, ChangelogSpec, CheckpointDelta, MemoryBudget, OpenError, RowChange, StateDirectory, StoreKind,
    StoreSpec, TaskStore, TaskStoreSpec,
};
use holdfast_types::{Clock, ManualClock, StoreName, TaskId, TopicPartition};

pub(crate) const APPLICATION: &str = "app";
pub(crate) const MIB: u64 = 1 << 20;

/// A state directory in a temporary place, with the parts that open stores in it.
pub(crate) struct Home {
    pub(crate) root: tempfile::TempDir,
    pub(crate) directory: Arc<StateDirectory>,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) manual: ManualClock,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Home {
    /// Rows are flushed when a test says so, unless memory gets short.
    pub(crate) fn new() -> Self {
        Self::with_budget(MemoryBudget::with_max_replay(256 * MIB, Duration::from_secs(3600)))
    }

    pub(crate) fn with_budget(budget: Arc<MemoryBudget>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(root.path(), APPLICATION).unwrap();
        let manual = ManualClock::at(1_000_000);
        let clock: Arc<dyn Clock> = Arc::new(manual.clone());
        Self { root, directory, budget, manual, clock }
    }

    pub(crate) fn try_open(
        &self,
        spec: &TaskStoreSpec,
        max_age: Option<Duration>,
    ) -> Result<Arc<TaskStore>, OpenError> {
        TaskStore::open(&self.directory, &self.budget, spec, max_age, &self.clock)
    }

    pub(crate) fn open(&self, spec: &TaskStoreSpec) -> Arc<TaskStore> {
        self.try_open(spec, None).unwrap()
    }
}

pub(crate) fn input() -> TopicPartition {
    TopicPartition::new("items", 0)
}

pub(crate) fn changelog(store: &str) -> TopicPartition {
    TopicPartition::new(format!("{APPLICATION}-{store}-changelog"), 0)
}

/// Task `0_0` with these stores.
pub(crate) fn spec(stores: &[(&'static str, StoreKind)]) -> TaskStoreSpec {
    TaskStoreSpec {
        task: TaskId::new(0, 0),
        fingerprint: "f1".to_owned(),
        stores: stores
            .iter()
            .map(|&(name, kind)| StoreSpec {
                name: StoreName::from(name),
                kind,
                changelog: Some(ChangelogSpec { partition: changelog(name), topic_id: None }),
            })
            .collect(),
    }
}

pub(crate) fn one_store() -> TaskStoreSpec {
    spec(&[("counts", StoreKind::Persistent)])
}

pub(crate) fn change(key: &[u8], value: Option<&[u8]>, offset: i64) -> RowChange {
    RowChange {
        key: Bytes::copy_from_slice(key),
        value: value.map(Bytes::copy_from_slice),
        timestamp_ms: 10 * offset,
        offset,
    }
}

/// A batch for the first store, after which the next input offset is `next_input`.
pub(crate) fn batch(rows: Vec<RowChange>, next_input: i64) -> AppliedBatch {
    AppliedBatch {
        rows: vec![rows],
        checkpoint: CheckpointDelta {
            changelog: vec![(changelog("counts"), next_input)],
            input: vec![(input(), next_input)],
            stream_time_ms: Some(next_input),
            applied_at_ms: Some(1_000_000),
        },
    }
}

/// Puts `key` = `value`.
pub(crate) fn put(store: &TaskStore, key: &str, value: &str, next_input: i64) {
    store.apply(batch(vec![change(key.as_bytes(), Some(value.as_bytes()), next_input)], next_input)).unwrap();
}

/// The value of `key` as text.
pub(crate) fn value(store: &TaskStore, key: &str) -> Option<String> {
    let row = store.table(0).get(key.as_bytes()).unwrap();
    row.map(|row| String::from_utf8(row.value.to_vec()).unwrap())
}

pub(crate) fn next_input(store: &TaskStore) -> i64 {
    store.checkpoint().input.get(&input()).copied().unwrap_or(0)
}
