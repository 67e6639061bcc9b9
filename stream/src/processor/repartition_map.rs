//! A table regrouped: each change becomes a subtraction from the old group and an addition to the new one.

use std::sync::Arc;

use super::{Children, Processor, TaskContext, stateless::refused, tables_are_below};
use crate::{
    codec::Change,
    errors::{BoxError, ProcessingError},
};

/// Kafka Streams' `KTableRepartitionMap`: the old pair goes first; both in one record when the group stays the same.
pub(crate) struct RepartitionMap<F, KR, VR> {
    pub(crate) node: Arc<str>,
    pub(crate) select: Arc<F>,
    pub(crate) children: Children<KR, Change<VR>>,
}

impl<K, V, KR, VR, F> Processor<K, Change<V>> for RepartitionMap<F, KR, VR>
where
    KR: PartialEq,
    F: Fn(&K, &V) -> Result<(KR, VR), BoxError> + Send + Sync,
{
    fn process(&mut self, key: &K, change: &Change<V>, context: &mut TaskContext) -> Result<(), ProcessingError> {
        let select = |value: &Option<V>| match value {
            Some(value) => refused(&self.node, (self.select)(key, value)).map(Some),
            None => Ok(None),
        };
        // Both are selected before either is sent: a refused record has then sent nothing.
        match (select(&change.old)?, select(&change.new)?) {
            (Some((old_key, old)), Some((new_key, new))) if old_key == new_key => {
                self.children.forward(&new_key, &Change { new: Some(new), old: Some(old) }, context)
            }
            (old, new) => {
                if let Some((key, value)) = old {
                    self.children.forward(&key, &Change { new: None, old: Some(value) }, context)?;
                }
                if let Some((key, value)) = new {
                    self.children.forward(&key, &Change { new: Some(value), old: None }, context)?;
                }
                Ok(())
            }
        }
    }

    tables_are_below!();
}
