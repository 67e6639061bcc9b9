//! Codecs without their types: what queries and pictures need of a store's keys and values.

use std::{fmt, sync::Arc};

use super::{CodecError, SharedCodec};

/// A store's key codec, its type erased.
pub trait KeyFormat: Send + Sync + fmt::Debug {
    /// The codec's name.
    fn name(&self) -> &str;
    /// The bytes of the key that `text` names.
    fn parse_text(&self, text: &str) -> Result<Vec<u8>, CodecError>;
    /// The JSON of an encoded key.
    fn to_json(&self, bytes: &[u8]) -> Result<serde_json::Value, CodecError>;
    /// The text of an encoded key; [`KeyFormat::parse_text`] reads it.
    fn to_text(&self, bytes: &[u8]) -> Result<String, CodecError>;
}

/// A store's value codec, its type erased.
pub trait ValueFormat: Send + Sync + fmt::Debug {
    /// The codec's name.
    fn name(&self) -> &str;
    /// Appends the JSON of an encoded value to `out`. JSON values are copied through as they are.
    fn write_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError>;
}

struct Erased<T> {
    name: String,
    codec: SharedCodec<T>,
}

impl<T> fmt::Debug for Erased<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl<T: 'static> KeyFormat for Erased<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn parse_text(&self, text: &str) -> Result<Vec<u8>, CodecError> {
        self.codec.parse_text(text)
    }

    fn to_json(&self, bytes: &[u8]) -> Result<serde_json::Value, CodecError> {
        let mut json = Vec::new();
        self.codec.write_json(bytes, &mut json)?;
        serde_json::from_slice(&json)
            .map_err(|source| CodecError::Json { type_name: std::any::type_name::<T>(), source })
    }

    fn to_text(&self, bytes: &[u8]) -> Result<String, CodecError> {
        self.codec.to_text(bytes)
    }
}

impl<T: 'static> ValueFormat for Erased<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn write_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        self.codec.write_json(bytes, out)
    }
}

/// The key format of `codec`.
pub(crate) fn key_format<T: 'static>(codec: &SharedCodec<T>) -> Arc<dyn KeyFormat> {
    Arc::new(Erased { name: codec.name(), codec: Arc::clone(codec) })
}

/// The value format of `codec`.
pub(crate) fn value_format<T: 'static>(codec: &SharedCodec<T>) -> Arc<dyn ValueFormat> {
    Arc::new(Erased { name: codec.name(), codec: Arc::clone(codec) })
}
