//! Why a record could not be processed.

use std::{fmt, sync::Arc};

use holdfast_store::StoreError;

use super::BoxError;
use crate::codec::CodecError;

/// Which half of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordPart {
    /// The key.
    Key,
    /// The value.
    Value,
}

impl fmt::Display for RecordPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Value => "value",
        })
    }
}

/// The kind of a [`ProcessingError`], which chooses the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The input could not be read.
    Deserialization,
    /// A user's closure refused the record, or panicked.
    Processing,
    /// A result could not be written.
    Production,
    /// The state store failed.
    Store,
}

impl ErrorKind {
    /// Lower-case name, as metrics and logs carry it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deserialization => "deserialization",
            Self::Processing => "processing",
            Self::Production => "production",
            Self::Store => "store",
        }
    }
}

/// Why a record could not be processed, or a task's results not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessingError {
    /// The record's bytes are not what the source's codec reads.
    #[error("the {part} cannot be read at {node}: {source}")]
    Deserialization {
        /// The source node.
        node: Arc<str>,
        /// Key or value.
        part: RecordPart,
        /// What the codec says.
        source: CodecError,
    },
    /// A user's closure returned an error.
    #[error("{node} refused the record: {source}")]
    Processing {
        /// The node.
        node: Arc<str>,
        /// What the closure returned.
        source: BoxError,
    },
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row of the store is not what its codec reads: written by other code, or damaged.
    #[error("a row of the store {store} cannot be read: {source}; was its codec changed? Then reset the application")]
    CorruptRow {
        /// The store.
        store: Arc<str>,
        /// What the codec says.
        source: CodecError,
    },
    /// A key or value could not be encoded for a store or a topic.
    #[error("the {part} cannot be written at {node}: {source}")]
    Encode {
        /// The node that writes.
        node: Arc<str>,
        /// Key or value.
        part: RecordPart,
        /// What the codec says.
        source: CodecError,
    },
}

impl ProcessingError {
    /// Which policy it falls under.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Deserialization { .. } => ErrorKind::Deserialization,
            Self::Processing { .. } => ErrorKind::Processing,
            Self::Encode { .. } => ErrorKind::Production,
            Self::Store(_) | Self::CorruptRow { .. } => ErrorKind::Store,
        }
    }

    /// The node where it happened, if one is known.
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Deserialization { node, .. } | Self::Processing { node, .. } | Self::Encode { node, .. } => {
                Some(node)
            }
            Self::Store(_) | Self::CorruptRow { .. } => None,
        }
    }

    /// The name of the error, as the header `__streams.errors.exception` carries it.
    pub fn exception(&self) -> &'static str {
        match self {
            Self::Deserialization { .. } => "holdfast.DeserializationError",
            Self::Processing { .. } => "holdfast.ProcessingError",
            Self::Store(_) => "holdfast.StoreError",
            Self::CorruptRow { .. } => "holdfast.CorruptRowError",
            Self::Encode { .. } => "holdfast.ProductionError",
        }
    }
}
