//! A node that more than one owner reaches: a merge with several parents, a table that its task flushes and seals.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Processor, TaskContext};
use crate::errors::ProcessingError;

/// A shared node. Only the task's thread calls it and the graph has no cycles, so the lock is never contended and never
/// taken twice; it is there because a task moves between threads.
pub(crate) struct Shared<P: ?Sized>(Arc<Mutex<P>>);

/// A [`Shared`] node that does not keep it alive.
pub(crate) struct WeakShared<P: ?Sized>(Weak<Mutex<P>>);

impl<P> Shared<P> {
    pub(crate) fn new(node: P) -> Self {
        Self(Arc::new(Mutex::new(node)))
    }

    /// The node behind its lock, for a second owner.
    pub(crate) fn handle(&self) -> Arc<Mutex<P>> {
        Arc::clone(&self.0)
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
    #[inline]
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        self.0.lock().process(key, value, context)
    }
}

/// A merge passes records on as they come.
impl<K: 'static, V: 'static> Processor<K, V> for super::Children<K, V> {
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        self.forward(key, value, context)
    }
}
