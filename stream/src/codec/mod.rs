//! Codecs: how keys and values become the bytes of a topic or a store, and back.
//!
//! A codec of one's own is one small trait, [`Codec`]; [`HasCodec`] names the one to use for a type where none is given.

mod change;
mod error;
mod format;
mod json;
mod nullable;
mod primitive;
mod protobuf;

use std::sync::Arc;

pub use change::Change;
pub(crate) use change::ChangeCodec;
pub use error::CodecError;
pub use format::{KeyFormat, ValueFormat};
pub(crate) use format::{key_format, value_format};
pub use json::Json;
pub(crate) use nullable::NoKeyCodec;
pub use nullable::{NoKey, Nullable};
pub use primitive::{ByteArray, I32, I64, Utf8};
pub use protobuf::Protobuf;

/// Turns values of one type into bytes and back.
///
/// Codecs are stateless and cheap to clone: one instance serves every task. Equal values must become equal bytes where
/// the codec is used for keys, because partitions and table rows are found by bytes.
pub trait Codec: Send + Sync + 'static {
    /// The type that is encoded.
    type Value;

    /// A stable name (`utf8`, `json`), part of a topology's fingerprint and shown to clients.
    fn name(&self) -> String;

    /// Appends the bytes of `value` to `out`.
    fn encode(&self, value: &Self::Value, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads a value from exactly `bytes`.
    fn decode(&self, bytes: &[u8]) -> Result<Self::Value, CodecError>;

    /// Reads a value into `slot`, reusing what it holds where that saves an allocation.
    fn decode_into(&self, bytes: &[u8], slot: &mut Option<Self::Value>) -> Result<(), CodecError> {
        *slot = Some(self.decode(bytes)?);
        Ok(())
    }

    /// What a null stands for, or `None` where the codec takes no nulls (such records are skipped).
    fn null(&self) -> Option<Self::Value> {
        None
    }

    /// Whether `value` is written as a null.
    fn is_null(&self, _value: &Self::Value) -> bool {
        false
    }

    /// The bytes that `text` (a key on a URL or a command line) stands for.
    fn parse_text(&self, _text: &str) -> Result<Vec<u8>, CodecError> {
        Err(CodecError::NoTextForm { codec: self.name() })
    }

    /// The text of encoded `bytes`, as [`Codec::parse_text`] reads it.
    fn to_text(&self, _bytes: &[u8]) -> Result<String, CodecError> {
        Err(CodecError::NoTextForm { codec: self.name() })
    }

    /// The JSON of encoded `bytes`, appended to `out`. Defaults to a string of base64.
    fn write_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        primitive::write_base64(bytes, out);
        Ok(())
    }
}

/// A codec behind a pointer, as nodes hold it.
pub type SharedCodec<T> = Arc<dyn Codec<Value = T>>;

/// Which codec it is, as long as it lives: equal ones are the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodecId(usize);

impl CodecId {
    pub(crate) fn of<T>(codec: &SharedCodec<T>) -> Self {
        Self(Arc::as_ptr(codec).addr())
    }
}

impl<T: 'static> Codec for SharedCodec<T> {
    type Value = T;

    fn name(&self) -> String {
        (**self).name()
    }

    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        (**self).encode(value, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        (**self).decode(bytes)
    }

    fn decode_into(&self, bytes: &[u8], slot: &mut Option<T>) -> Result<(), CodecError> {
        (**self).decode_into(bytes, slot)
    }

    fn null(&self) -> Option<T> {
        (**self).null()
    }

    fn is_null(&self, value: &T) -> bool {
        (**self).is_null(value)
    }

    fn parse_text(&self, text: &str) -> Result<Vec<u8>, CodecError> {
        (**self).parse_text(text)
    }

    fn to_text(&self, bytes: &[u8]) -> Result<String, CodecError> {
        (**self).to_text(bytes)
    }

    fn write_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        (**self).write_json(bytes, out)
    }
}

/// The codec that a type uses unless told otherwise.
///
/// One line makes a type of one's own fit everywhere: `impl HasCodec for ItemStock { type Codec = Json<Self>; }`.
#[diagnostic::on_unimplemented(
    message = "no codec is known for `{Self}`",
    note = "either `impl HasCodec for {Self} {{ type Codec = Json<Self>; }}`",
    note = "or name codecs: `Grouped::with`, `Produced::with`, `Materialized::with`, `Repartitioned::with`"
)]
pub trait HasCodec: Sized + 'static {
    /// The codec.
    type Codec: Codec<Value = Self> + Default;

    /// The codec, shared.
    fn codec() -> SharedCodec<Self> {
        Arc::new(Self::Codec::default())
    }
}

impl HasCodec for String {
    type Codec = Utf8;
}

impl HasCodec for i32 {
    type Codec = I32;
}

impl HasCodec for i64 {
    type Codec = I64;
}

impl HasCodec for Vec<u8> {
    type Codec = ByteArray;
}

impl<T: HasCodec> HasCodec for Option<T> {
    type Codec = Nullable<T::Codec>;
}

impl HasCodec for serde_json::Value {
    type Codec = Json<Self>;
}

#[cfg(test)]
mod tests;
