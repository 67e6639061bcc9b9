//! What can go wrong between values and bytes.

/// Bytes or text that are not what a codec expects, or a value that it cannot write.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes are not a value of this codec.
    #[error("expected {expected}, got {got}")]
    Malformed {
        /// What the codec reads.
        expected: String,
        /// What came.
        got: String,
    },
    /// The bytes are not the JSON of the type.
    #[error("expected JSON of {type_name}: {source}")]
    Json {
        /// The Rust type that was to be read or written.
        type_name: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The bytes are not the protobuf message.
    #[error("expected a protobuf message {type_name}: {source}")]
    Protobuf {
        /// The Rust type that was to be read.
        type_name: &'static str,
        /// Why.
        source: prost::DecodeError,
    },
    /// A null where the codec takes none.
    #[error("expected a value, got null; wrap the codec in Nullable to read it as an Option")]
    Null,
    /// The codec has no text form, so its keys cannot be named on a URL or a command line.
    #[error("the codec {codec} has no text form: implement Codec::parse_text and Codec::to_text for it")]
    NoTextForm {
        /// The codec.
        codec: String,
    },
    /// What a codec of one's own says.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl CodecError {
    /// `expected` against `got`, as every message says it.
    pub fn malformed(expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self::Malformed { expected: expected.into(), got: got.into() }
    }
}
