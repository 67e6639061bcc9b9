//! Nodes over a table's changes that keep no rows: filter, map_values, to_stream, and a table that nobody keeps.

use std::sync::Arc;

use super::{Children, Processor, TaskContext, stateless::refused, tables_are_below};
use crate::{
    codec::Change,
    errors::{BoxError, ProcessingError},
};

/// A row that the predicate does not keep is absent.
pub(crate) struct TableFilter<K, V, F> {
    pub(crate) node: Arc<str>,
    pub(crate) keep: Arc<F>,
    /// Whether changes carry the old value, so that absent-before-and-after can be told.
    pub(crate) sends_old: bool,
    pub(crate) children: Children<K, Change<V>>,
}

impl<K, V, F> Processor<K, Change<V>> for TableFilter<K, V, F>
where
    V: Clone,
    F: Fn(&K, &V) -> Result<bool, BoxError> + Send + Sync,
{
    fn process(&mut self, key: &K, change: &Change<V>, context: &mut TaskContext) -> Result<(), ProcessingError> {
        let kept = |value: &Option<V>| match value {
            Some(value) => refused(&self.node, (self.keep)(key, value)).map(|keep| keep.then(|| value.clone())),
            None => Ok(None),
        };
        let old = if self.sends_old { kept(&change.old)? } else { None };
        let new = kept(&change.new)?;
        if self.sends_old && old.is_none() && new.is_none() {
            return Ok(());
        }
        self.children.forward(key, &Change { new, old }, context)
    }

    tables_are_below!();
}

/// Maps the value of each row.
pub(crate) struct TableMapValues<K, VR, F> {
    pub(crate) node: Arc<str>,
    pub(crate) map: Arc<F>,
    pub(crate) sends_old: bool,
    pub(crate) children: Children<K, Change<VR>>,
}

impl<K, V, VR, F> Processor<K, Change<V>> for TableMapValues<K, VR, F>
where
    F: Fn(&K, &V) -> Result<VR, BoxError> + Send + Sync,
{
    fn process(&mut self, key: &K, change: &Change<V>, context: &mut TaskContext) -> Result<(), ProcessingError> {
        let mapped = |value: &Option<V>| match value {
            Some(value) => refused(&self.node, (self.map)(key, value)).map(Some),
            None => Ok(None),
        };
        let old = if self.sends_old { mapped(&change.old)? } else { None };
        let new = mapped(&change.new)?;
        self.children.forward(key, &Change { new, old }, context)
    }

    tables_are_below!();
}

/// A table's changes as a stream of its new values; a deleted row is `None`.
pub(crate) struct ToStream<K, V> {
    pub(crate) children: Children<K, Option<V>>,
}

impl<K, V> Processor<K, Change<V>> for ToStream<K, V> {
    fn process(&mut self, key: &K, change: &Change<V>, context: &mut TaskContext) -> Result<(), ProcessingError> {
        self.children.forward(key, &change.new, context)
    }

    tables_are_below!();
}

/// A table that nobody reads or needs the old values of is not kept: its records are its changes.
pub(crate) struct UnmaterializedSource<K, V> {
    pub(crate) children: Children<K, Change<V>>,
}

impl<K, V: Clone> Processor<K, Option<V>> for UnmaterializedSource<K, V> {
    fn process(&mut self, key: &K, value: &Option<V>, context: &mut TaskContext) -> Result<(), ProcessingError> {
        self.children.forward(key, &Change { new: value.clone(), old: None }, context)
    }

    tables_are_below!();
}
