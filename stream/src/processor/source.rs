//! Sources: the bytes of an input record become a typed one.

use super::{Children, Deserializer, SourceRecord, TableCall, TaskContext, tables_are_below};
use crate::{codec::CodecId, errors::ProcessingError};

/// A source with its types inside: what a task calls with bytes.
pub(crate) trait SourceNode: Send {
    fn process(&mut self, record: &SourceRecord<'_>, context: &mut TaskContext) -> Result<(), ProcessingError>;

    /// See [`Processor::with_table`](super::Processor::with_table).
    fn with_table(&mut self, table: usize, call: TableCall<'_>) -> bool;
}

/// Reads a stream, or a table's topic (values `Option<V>`). A null that its codec does not take is skipped and counted.
pub(crate) struct Source<K, V> {
    pub(crate) key: Deserializer<K>,
    pub(crate) value: Deserializer<V>,
    /// What values are read with, where a node below passes them on as they were read.
    pub(crate) passed_on: Option<CodecId>,
    pub(crate) children: Children<K, V>,
}

impl<K: Send + 'static, V: Send + 'static> SourceNode for Source<K, V> {
    fn process(&mut self, record: &SourceRecord<'_>, context: &mut TaskContext) -> Result<(), ProcessingError> {
        let Some(key) = self.key.read(record.key)? else {
            context.dropped.null_key += 1;
            return Ok(());
        };
        let Some(value) = self.value.read(record.value)? else {
            context.dropped.null_value += 1;
            return Ok(());
        };
        context.value_was_read(self.passed_on, record.value);
        self.children.forward(key, value, context)
    }

    tables_are_below!();
}
