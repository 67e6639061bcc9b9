//! Strings, integers and bytes, as Java's serdes write them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{Codec, CodecError};

/// UTF-8 text (Java's `StringSerializer`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utf8;

impl Utf8 {
    fn text<'a>(&self, bytes: &'a [u8]) -> Result<&'a str, CodecError> {
        std::str::from_utf8(bytes).map_err(|error| CodecError::malformed("UTF-8 text", format!("{error}")))
    }
}

impl Codec for Utf8 {
    type Value = String;

    fn name(&self) -> String {
        "utf8".to_owned()
    }

    fn encode(&self, value: &String, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        self.text(bytes).map(str::to_owned)
    }

    fn decode_into(&self, bytes: &[u8], slot: &mut Option<String>) -> Result<(), CodecError> {
        let text = self.text(bytes)?;
        match slot {
            Some(held) => {
                held.clear();
                held.push_str(text);
            }
            None => *slot = Some(text.to_owned()),
        }
        Ok(())
    }

    fn parse_text(&self, text: &str) -> Result<Vec<u8>, CodecError> {
        Ok(text.as_bytes().to_vec())
    }

    fn to_text(&self, bytes: &[u8]) -> Result<String, CodecError> {
        self.decode(bytes)
    }

    fn write_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        write_json_value(&self.text(bytes)?, out)
    }
}

macro_rules! integer_codec {
    ($(#[$doc:meta])* $codec:ident, $type:ty, $name:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $codec;

        impl Codec for $codec {
            type Value = $type;

            fn name(&self) -> String {
                $name.to_owned()
            }

            fn encode(&self, value: &$type, out: &mut Vec<u8>) -> Result<(), CodecError> {
                out.extend_from_slice(&value.to_be_bytes());
                Ok(())
            }

            fn decode(&self, bytes: &[u8]) -> Result<$type, CodecError> {
                let array = bytes
                    .try_into()
                    .map_err(|_| CodecError::malformed($expected, format!("{} bytes", bytes.len())))?;
                Ok(<$type>::from_be_bytes(array))
            }

            fn parse_text(&self, text: &str) -> Result<Vec<u8>, CodecError> {
                let value: $type = text
                    .parse()
                    .map_err(|error| CodecError::malformed(concat!("an ", $name, " in decimal"), format!("{text:?}: {error}")))?;
                Ok(value.to_be_bytes().to_vec())
            }

            fn to_text(&self, bytes: &[u8]) -> Result<String, CodecError> {
                Ok(self.decode(bytes)?.to_string())
            }

            fn write_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
                write_json_value(&self.decode(bytes)?, out)
            }
        }
    };
}

integer_codec! {
    /// A 32-bit integer, big-endian (Java's `IntegerSerializer`).
    I32, i32, "i32", "4 bytes of a big-endian i32"
}

integer_codec! {
    /// A 64-bit integer, big-endian (Java's `LongSerializer`).
    I64, i64, "i64", "8 bytes of a big-endian i64"
}

/// Bytes as they are (Java's `ByteArraySerializer`). Text and JSON form: base64, URL-safe, without padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteArray;

impl Codec for ByteArray {
    type Value = Vec<u8>;

    fn name(&self) -> String {
        "bytes".to_owned()
    }

    fn encode(&self, value: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
        Ok(bytes.to_vec())
    }

    fn decode_into(&self, bytes: &[u8], slot: &mut Option<Vec<u8>>) -> Result<(), CodecError> {
        let held = slot.get_or_insert_default();
        held.clear();
        held.extend_from_slice(bytes);
        Ok(())
    }

    fn parse_text(&self, text: &str) -> Result<Vec<u8>, CodecError> {
        parse_base64(text)
    }

    fn to_text(&self, bytes: &[u8]) -> Result<String, CodecError> {
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// Reads URL-safe base64 without padding.
pub(super) fn parse_base64(text: &str) -> Result<Vec<u8>, CodecError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|error| CodecError::malformed("base64, URL-safe, without padding", format!("{text:?}: {error}")))
}

/// Appends `bytes` as a JSON string of base64.
pub(super) fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(URL_SAFE_NO_PAD.encode(bytes).as_bytes());
    out.push(b'"');
}

/// Appends the JSON of a plain value.
pub(super) fn write_json_value<T: serde::Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    serde_json::to_writer(out, value)
        .map_err(|source| CodecError::Json { type_name: std::any::type_name::<T>(), source })
}
