//! Nulls: codecs that read them, and streams whose keys do not matter.

use super::{Codec, CodecError};

/// A codec whose nulls are `None`: `Nullable(Utf8)` reads `Option<String>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nullable<C>(pub C);

impl<C: Codec> Codec for Nullable<C> {
    type Value = Option<C::Value>;

    fn name(&self) -> String {
        // The bytes are those of the inner codec, so a store or topic stays the same one.
        self.0.name()
    }

    fn encode(&self, value: &Self::Value, out: &mut Vec<u8>) -> Result<(), CodecError> {
        self.0.encode(value.as_ref().ok_or(CodecError::Null)?, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Self::Value, CodecError> {
        self.0.decode(bytes).map(Some)
    }

    fn null(&self) -> Option<Self::Value> {
        Some(None)
    }

    fn is_null(&self, value: &Self::Value) -> bool {
        value.is_none()
    }

    fn parse_text(&self, text: &str) -> Result<Vec<u8>, CodecError> {
        self.0.parse_text(text)
    }

    fn to_text(&self, bytes: &[u8]) -> Result<String, CodecError> {
        self.0.to_text(bytes)
    }

    fn write_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        self.0.write_json(bytes, out)
    }
}

/// The key of a stream whose keys do not matter ([`Consumed::values`](crate::dsl::Consumed::values)). It has no codec of
/// its own on purpose: such a stream can be grouped only by a key that is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoKey;

/// Takes every key, nulls too, and keeps none; written as null.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NoKeyCodec;

impl Codec for NoKeyCodec {
    type Value = NoKey;

    fn name(&self) -> String {
        "none".to_owned()
    }

    fn encode(&self, _value: &NoKey, _out: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(())
    }

    fn decode(&self, _bytes: &[u8]) -> Result<NoKey, CodecError> {
        Ok(NoKey)
    }

    fn null(&self) -> Option<NoKey> {
        Some(NoKey)
    }

    fn is_null(&self, _value: &NoKey) -> bool {
        true
    }
}
