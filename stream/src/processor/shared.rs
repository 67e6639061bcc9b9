//! A node that several parents share: a merge.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Children, Processor, TableCall, TaskContext};
use crate::errors::ProcessingError;

/// A shared node. Only the task's thread calls it and the graph has no cycles, so the lock is never contended and never
/// taken twice; it is there because a task moves between threads.
pub(crate) struct Shared<P>(Arc<Mutex<P>>);

/// A [`Shared`] node that does not keep it alive.
pub(crate) struct WeakShared<P>(Weak<Mutex<P>>);

impl<P> Shared<P> {
    pub(crate) fn new(node: P) -> Self {
        Self(Arc::new(Mutex::new(node)))
    }

    pub(crate) fn downgrade(&self) -> WeakShared<P> {
        WeakShared(Arc::downgrade(&self.0))
    }
}

impl<P> WeakShared<P> {
    pub(crate) fn upgrade(&self) -> Option<Shared<P>> {
        self.0.upgrade().map(Shared)
    }
}

impl<K, V, P: Processor<K, V>> Processor<K, V> for Shared<P> {
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        self.0.lock().process(key, value, context)
    }

    fn with_table(&mut self, table: usize, call: TableCall<'_>) -> bool {
        self.0.lock().with_table(table, call)
    }
}

/// A merge passes records on as they come.
impl<K, V> Processor<K, V> for Children<K, V> {
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        self.forward(key, value, context)
    }

    fn with_table(&mut self, table: usize, call: TableCall<'_>) -> bool {
        Children::with_table(self, table, call)
    }
}
