//! split: each record goes to the first branch that takes it.

use super::{Children, Processor, TableCall, TaskContext};
use crate::errors::ProcessingError;

/// A branch's predicate.
pub(crate) type Predicate<K, V> = std::sync::Arc<dyn Fn(&K, &V) -> bool + Send + Sync>;

/// Sends each record to the first branch whose predicate takes it, or to the default branch, or nowhere.
pub(crate) struct Branch<K, V> {
    pub(crate) branches: Vec<(Predicate<K, V>, Children<K, V>)>,
    pub(crate) default: Option<Children<K, V>>,
}

impl<K, V> Processor<K, V> for Branch<K, V> {
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        for (takes, children) in &mut self.branches {
            if takes(key, value) {
                return children.forward(key, value, context);
            }
        }
        match &mut self.default {
            Some(children) => children.forward(key, value, context),
            None => Ok(()),
        }
    }

    fn with_table(&mut self, table: usize, call: TableCall<'_>) -> bool {
        let branches = self.branches.iter_mut().map(|(_, children)| children);
        branches.chain(&mut self.default).any(|children| children.with_table(table, call))
    }
}
