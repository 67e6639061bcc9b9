//! Reading one half of a record: bytes to a value, in the memory of the value before.

use std::sync::Arc;

use crate::{
    codec::SharedCodec,
    errors::{ProcessingError, RecordPart},
};

/// Reads keys or values of one source.
pub(crate) struct Deserializer<T> {
    node: Arc<str>,
    part: RecordPart,
    codec: SharedCodec<T>,
    slot: Option<T>,
}

impl<T: 'static> Deserializer<T> {
    pub(crate) fn new(node: Arc<str>, part: RecordPart, codec: SharedCodec<T>) -> Self {
        Self { node, part, codec, slot: None }
    }

    /// The value of `bytes`; `None` for a null that the codec does not take.
    #[inline]
    pub(crate) fn read(&mut self, bytes: Option<&[u8]>) -> Result<Option<&T>, ProcessingError> {
        match bytes {
            Some(bytes) => self.codec.decode_into(bytes, &mut self.slot).map_err(|source| {
                ProcessingError::Deserialization { node: Arc::clone(&self.node), part: self.part, source }
            })?,
            None => self.slot = self.codec.null(),
        }
        Ok(self.slot.as_ref())
    }
}
