//! Protobuf messages through prost.

use std::{any::type_name, fmt, marker::PhantomData};

use super::{
    Codec, CodecError,
    primitive::{parse_base64, write_base64},
};

/// A prost message. Text and JSON form: base64 of the message, URL-safe, without padding.
pub struct Protobuf<T>(PhantomData<fn() -> T>);

impl<T> Default for Protobuf<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for Protobuf<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Protobuf<T> {}

impl<T> fmt::Debug for Protobuf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Protobuf<{}>", type_name::<T>())
    }
}

impl<T: prost::Message + Default + 'static> Codec for Protobuf<T> {
    type Value = T;

    fn name(&self) -> String {
        "protobuf".to_owned()
    }

    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        value.encode(out).map_err(|error| CodecError::malformed("a message that fits", error.to_string()))
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        T::decode(bytes).map_err(|source| CodecError::Protobuf { type_name: type_name::<T>(), source })
    }

    fn parse_text(&self, text: &str) -> Result<Vec<u8>, CodecError> {
        parse_base64(text)
    }

    fn to_text(&self, bytes: &[u8]) -> Result<String, CodecError> {
        let mut out = Vec::new();
        write_base64(bytes, &mut out);
        Ok(String::from_utf8_lossy(&out).trim_matches('"').to_owned())
    }
}
