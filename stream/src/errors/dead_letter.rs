//! The dead-letter record: the original, with KIP-1034's headers that say what was wrong with it.

use std::{error::Error, fmt::Write, sync::Arc};

use bytes::Bytes;

use super::ProcessingError;
use crate::processor::{Header, SourceRecord};

/// Header: the name of the error.
pub const EXCEPTION: &str = "__streams.errors.exception";
/// Header: the error's message.
pub const MESSAGE: &str = "__streams.errors.message";
/// Header: the chain of causes, one a line.
pub const STACKTRACE: &str = "__streams.errors.stacktrace";
/// Header: the topic that the record came from.
pub const TOPIC: &str = "__streams.errors.topic";
/// Header: the partition that the record came from, in decimal.
pub const PARTITION: &str = "__streams.errors.partition";
/// Header: the record's offset, in decimal.
pub const OFFSET: &str = "__streams.errors.offset";

/// A record for the dead-letter topic: key, value, time stamp and headers of the original, and KIP-1034's headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The dead-letter topic.
    pub topic: Arc<str>,
    /// The original key.
    pub key: Option<Bytes>,
    /// The original value.
    pub value: Option<Bytes>,
    /// The original time stamp.
    pub timestamp_ms: i64,
    /// The original headers, then KIP-1034's.
    pub headers: Vec<Header>,
}

impl DeadLetter {
    /// The value of header `name`, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().rev().find(|header| &*header.key == name)?;
        std::str::from_utf8(header.value.as_deref()?).ok()
    }
}

/// Makes dead-letter records for one dead-letter topic.
#[derive(Clone, Debug)]
pub struct DeadLetterQueue {
    topic: Arc<str>,
}

impl DeadLetterQueue {
    /// For `topic`.
    pub fn new(topic: impl Into<Arc<str>>) -> Self {
        Self { topic: topic.into() }
    }

    /// The topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The dead letter of `record`, which failed with `error`.
    pub fn record(&self, record: &SourceRecord<'_>, error: &ProcessingError) -> DeadLetter {
        self.record_with(record, error.exception(), error)
    }

    /// The dead letter of `record` for an error that is not a [`ProcessingError`] (a panic, a refused result).
    pub fn record_with(&self, record: &SourceRecord<'_>, exception: &str, error: &dyn Error) -> DeadLetter {
        let mut headers = record.headers.to_vec();
        headers.extend([
            Header::text(EXCEPTION, exception),
            Header::text(MESSAGE, error.to_string()),
            Header::text(STACKTRACE, causes(error)),
            Header::text(TOPIC, record.topic.to_string()),
            Header::text(PARTITION, record.partition.to_string()),
            Header::text(OFFSET, record.offset.to_string()),
        ]);
        DeadLetter {
            topic: Arc::clone(&self.topic),
            key: record.key.map(Bytes::copy_from_slice),
            value: record.value.map(Bytes::copy_from_slice),
            timestamp_ms: record.timestamp_ms,
            headers,
        }
    }
}

fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String does not fail.
        let _ = write!(text, "\nCaused by: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::CodecError, errors::RecordPart};

    #[test]
    fn keeps_the_original_and_says_what_was_wrong() {
        let own = [Header::text("trace", "t1")];
        let topic: Arc<str> = "items".into();
        let record = SourceRecord {
            key: None,
            value: Some(b"{"),
            timestamp_ms: 7,
            offset: 42,
            partition: 3,
            topic: &topic,
            headers: &own,
        };
        let error = ProcessingError::Deserialization {
            node: "KSTREAM-SOURCE-0000000000".into(),
            part: RecordPart::Value,
            source: CodecError::malformed("JSON", "{"),
        };
        let letter = DeadLetterQueue::new("items.dlq").record(&record, &error);
        assert_eq!((letter.key.as_deref(), letter.value.as_deref(), letter.timestamp_ms), (None, Some(&b"{"[..]), 7));
        assert_eq!(&*letter.topic, "items.dlq");
        assert_eq!(letter.header("trace"), Some("t1"));
        assert_eq!(letter.header(EXCEPTION), Some("holdfast.DeserializationError"));
        assert_eq!(
            letter.header(MESSAGE),
            Some("the value cannot be read at KSTREAM-SOURCE-0000000000: expected JSON, got {")
        );
        assert!(letter.header(STACKTRACE).is_some_and(|text| text.ends_with("\nCaused by: expected JSON, got {")));
        assert_eq!(letter.header(TOPIC), Some("items"));
        assert_eq!(letter.header(PARTITION), Some("3"));
        assert_eq!(letter.header(OFFSET), Some("42"));
    }
}
