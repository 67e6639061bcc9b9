//! Why a benchmark stops.

use std::io;

use rdkafka::error::KafkaError;

/// What went wrong; the text says what to do where that is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("RocksDB: {0}")]
    Rocks(#[from] rocksdb::Error),
    #[error("input or output: {0}")]
    Io(#[from] io::Error),
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("gRPC: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("gRPC: {0}")]
    Status(#[from] tonic::Status),
    #[error("{0}")]
    Other(String),
}

impl Error {
    pub(crate) fn other(text: impl Into<String>) -> Self {
        Self::Other(text.into())
    }
}

/// For errors of the crates under measurement, whose text is all that is needed here.
pub(crate) fn other(error: impl std::fmt::Display) -> Error {
    Error::Other(error.to_string())
}

pub(crate) type Result<T> = std::result::Result<T, Error>;
