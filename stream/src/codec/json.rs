//! JSON through serde.

use std::{any::type_name, fmt, marker::PhantomData};

use serde::{Serialize, de::DeserializeOwned};

use super::{Codec, CodecError};

/// The JSON of a serde type.
///
/// As a key codec it needs a type whose JSON is always written the same way (no hash maps).
pub struct Json<T>(PhantomData<fn() -> T>);

impl<T> Default for Json<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for Json<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Json<T> {}

impl<T> fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json<{}>", type_name::<T>())
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Codec for Json<T> {
    type Value = T;

    fn name(&self) -> String {
        "json".to_owned()
    }

    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(out, value).map_err(|source| CodecError::Json { type_name: type_name::<T>(), source })
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(|source| CodecError::Json { type_name: type_name::<T>(), source })
    }

    fn parse_text(&self, text: &str) -> Result<Vec<u8>, CodecError> {
        // Through the type, so that other spacing or field order names the same key.
        let mut bytes = Vec::with_capacity(text.len());
        self.encode(&self.decode(text.as_bytes())?, &mut bytes)?;
        Ok(bytes)
    }

    fn to_text(&self, bytes: &[u8]) -> Result<String, CodecError> {
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|error| CodecError::malformed("JSON text", format!("{error}")))
    }

    fn write_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        // These bytes were written by `encode`: they are JSON already.
        out.extend_from_slice(bytes);
        Ok(())
    }
}
