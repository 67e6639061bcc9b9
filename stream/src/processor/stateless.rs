//! Nodes that pass records on or only look at them: filter, peek, for_each.

use std::sync::Arc;

use super::{Children, Processor, TableCall, TaskContext, tables_are_below};
use crate::errors::{BoxError, ProcessingError};

/// Passes on what the predicate keeps. The predicate may fail.
pub(crate) struct Filter<K, V, F> {
    pub(crate) node: Arc<str>,
    pub(crate) keep: Arc<F>,
    pub(crate) children: Children<K, V>,
}

impl<K, V, F> Processor<K, V> for Filter<K, V, F>
where
    F: Fn(&K, &V) -> Result<bool, BoxError> + Send + Sync,
{
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        if refused(&self.node, (self.keep)(key, value))? {
            self.children.forward(key, value, context)?;
        }
        Ok(())
    }

    tables_are_below!();
}

/// Shows each record to the closure and passes it on.
pub(crate) struct Peek<K, V, F> {
    pub(crate) look: Arc<F>,
    pub(crate) children: Children<K, V>,
}

impl<K, V, F: Fn(&K, &V) + Send + Sync> Processor<K, V> for Peek<K, V, F> {
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        (self.look)(key, value);
        self.children.forward(key, value, context)
    }

    tables_are_below!();
}

/// Ends a stream in a closure, which may fail.
pub(crate) struct ForEach<F> {
    pub(crate) node: Arc<str>,
    pub(crate) action: Arc<F>,
}

impl<K, V, F> Processor<K, V> for ForEach<F>
where
    F: Fn(&K, &V) -> Result<(), BoxError> + Send + Sync,
{
    fn process(&mut self, key: &K, value: &V, _context: &mut TaskContext) -> Result<(), ProcessingError> {
        refused(&self.node, (self.action)(key, value))
    }

    fn with_table(&mut self, _table: usize, _call: TableCall<'_>) -> bool {
        false
    }
}

/// Names the node in a closure's error.
#[inline]
pub(super) fn refused<T>(node: &Arc<str>, result: Result<T, BoxError>) -> Result<T, ProcessingError> {
    result.map_err(|source| ProcessingError::Processing { node: Arc::clone(node), source })
}
