//! Sinks: typed records become outputs.

use std::sync::Arc;

use super::{Processor, TableCall, TaskContext};
use crate::{
    codec::{CodecId, SharedCodec},
    errors::{ProcessingError, RecordPart},
};

/// Encodes records for one topic.
pub(crate) struct Sink<K, V> {
    pub(crate) node: Arc<str>,
    /// Index into the sub-topology's sinks.
    pub(crate) index: usize,
    pub(crate) key: SharedCodec<K>,
    pub(crate) value: SharedCodec<V>,
    /// Whether a value that nothing has changed goes on with the bytes that it was read from. Into topics of the application's
    /// own, where whoever reads it has the same codec.
    pub(crate) passes_on: bool,
}

impl<K: 'static, V: 'static> Sink<K, V> {
    fn encode(
        &self,
        key: &K,
        value: &V,
        context: &TaskContext,
        out: &mut Vec<u8>,
    ) -> Result<(Option<usize>, bool), ProcessingError> {
        let failed = |part| move |source| ProcessingError::Encode { node: Arc::clone(&self.node), part, source };
        let has_key = !self.key.is_null(key);
        if has_key {
            self.key.encode(key, out).map_err(failed(RecordPart::Key))?;
        }
        let key_length = has_key.then_some(out.len());
        let has_value = !self.value.is_null(value);
        if has_value {
            let as_read = if self.passes_on { context.value_as_read(CodecId::of(&self.value)) } else { None };
            match as_read {
                Some(bytes) => out.extend_from_slice(bytes),
                None => self.value.encode(value, out).map_err(failed(RecordPart::Value))?,
            }
        }
        Ok((key_length, has_value))
    }
}

impl<K: 'static, V: 'static> Processor<K, V> for Sink<K, V> {
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        let mut scratch = context.take_scratch();
        let encoded = self.encode(key, value, context, &mut scratch);
        if let Ok((key_length, has_value)) = encoded {
            context.emit(self.index, &scratch, key_length, has_value);
        }
        context.give_scratch(scratch);
        encoded.map(|_| ())
    }

    fn with_table(&mut self, _table: usize, _call: TableCall<'_>) -> bool {
        false
    }
}
