//! The dead-letter record: the original, with KIP-1034's headers that say what was wrong with it.
//!
//! A dead letter must arrive: what of the original its topic would not take is left out, and a header of our own says so.
//! The headers name the original's place in the input topic, where it still stands.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_types::TimestampMs;

use super::Failure;
use crate::{
    kafka::limits::{Refusal, TopicLimits, batch_bytes},
    processor::{Header, SourceRecord},
};

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
/// Header of Holdfast's own: what of the original is left out because the dead-letter topic does not take it.
pub const LEFT_OUT: &str = "__holdfast.errors.left_out";
/// Header of Holdfast's own: the original's time stamp, where the dead-letter topic does not take it; the dead letter's is
/// then the time at which the record failed.
pub const TIMESTAMP: &str = "__holdfast.errors.timestamp";

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

    /// Bytes that it holds, for the dirty budget.
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>() + batch_bytes(self.key.as_deref(), self.value.as_deref(), &self.headers)
    }
}

/// Makes dead-letter records for one dead-letter topic.
#[derive(Clone, Debug)]
pub struct DeadLetterQueue {
    topic: Arc<str>,
    limits: TopicLimits,
}

/// The original's parts that a dead letter can do without, from the largest loss to the smallest use.
#[derive(Clone, Copy, Default)]
struct LeftOut {
    value: bool,
    headers: bool,
    key: bool,
}

impl DeadLetterQueue {
    /// For `topic`, which takes what `limits` say.
    pub fn new(topic: impl Into<Arc<str>>, limits: TopicLimits) -> Self {
        Self { topic: topic.into(), limits }
    }

    /// The topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The dead letter of `record`, which failed with `failure` at `now_ms`: as much of the original as the topic takes.
    pub fn record(&self, record: &SourceRecord<'_>, failure: &Failure, now_ms: TimestampMs) -> DeadLetter {
        let takes_time = !matches!(self.limits.check(0, record.timestamp_ms, now_ms), Err(Refusal::Timestamp { .. }));
        let stamp = if takes_time { None } else { Some(now_ms) };
        let whole = LeftOut::default();
        for left_out in [whole, LeftOut { value: true, ..whole }, LeftOut { value: true, headers: true, ..whole }] {
            let letter = self.letter(record, failure, stamp, left_out);
            let bytes = batch_bytes(letter.key.as_deref(), letter.value.as_deref(), &letter.headers);
            if bytes <= self.limits.max_message_bytes {
                return letter;
            }
        }
        self.letter(record, failure, stamp, LeftOut { value: true, headers: true, key: true })
    }

    /// The dead letter of `record` with nothing of the original in it: for a topic that has refused it, although it is known
    /// to take such a record.
    pub fn bare_record(&self, record: &SourceRecord<'_>, failure: &Failure, now_ms: TimestampMs) -> DeadLetter {
        self.letter(record, failure, Some(now_ms), LeftOut { value: true, headers: true, key: true })
    }

    fn letter(
        &self,
        record: &SourceRecord<'_>,
        failure: &Failure,
        stamp: Option<TimestampMs>,
        left_out: LeftOut,
    ) -> DeadLetter {
        let mut headers = if left_out.headers { Vec::new() } else { record.headers.to_vec() };
        headers.extend([
            Header::text(EXCEPTION, &*failure.exception),
            Header::text(MESSAGE, &*failure.message),
            Header::text(STACKTRACE, &*failure.trace),
            Header::text(TOPIC, record.topic.to_string()),
            Header::text(PARTITION, record.partition.to_string()),
            Header::text(OFFSET, record.offset.to_string()),
        ]);
        let mut missing = Vec::new();
        let mut kept = |leave_out: bool, what: &str, bytes: Option<&[u8]>| match bytes {
            Some(bytes) if leave_out => {
                missing.push(format!("{what} ({} bytes)", bytes.len()));
                None
            }
            other => other.map(Bytes::copy_from_slice),
        };
        let value = kept(left_out.value, "value", record.value);
        let key = kept(left_out.key, "key", record.key);
        if left_out.headers && !record.headers.is_empty() {
            missing.push(format!("headers ({})", record.headers.len()));
        }
        if !missing.is_empty() {
            headers.push(Header::text(LEFT_OUT, missing.join(", ")));
        }
        if stamp.is_some_and(|stamp| stamp != record.timestamp_ms) {
            headers.push(Header::text(TIMESTAMP, record.timestamp_ms.to_string()));
        }
        let timestamp_ms = stamp.unwrap_or(record.timestamp_ms);
        DeadLetter { topic: Arc::clone(&self.topic), key, value, timestamp_ms, headers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codec::CodecError,
        errors::{ProcessingError, RecordPart},
    };

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
        let queue = DeadLetterQueue::new("items.dlq", TopicLimits::default());
        let letter = queue.record(&record, &Failure::of(&error), 9);
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

    #[test]
    fn what_the_topic_does_not_take_is_left_out() {
        let topic: Arc<str> = "items".into();
        let failure = Failure::refused_result("too large");
        let large = "x".repeat(5_000);
        let take = |key: &str, value: &str, header: &str, timestamp_ms| {
            let own = [Header::text("own", header)];
            let record = SourceRecord {
                key: Some(key.as_bytes()),
                value: Some(value.as_bytes()),
                timestamp_ms,
                offset: 42,
                partition: 3,
                topic: &topic,
                headers: &own,
            };
            let limits = TopicLimits { max_message_bytes: 2_000, before_max_ms: i64::MAX, after_max_ms: 1_000 };
            let letter = DeadLetterQueue::new("items.dlq", limits).record(&record, &failure, 100);
            assert!(batch_bytes(letter.key.as_deref(), letter.value.as_deref(), &letter.headers) <= 2_000);
            assert_eq!((letter.header(TOPIC), letter.header(OFFSET)), (Some("items"), Some("42")));
            letter
        };
        let whole = take("k", "v", "h", 1_100);
        assert_eq!((whole.header(LEFT_OUT), whole.header(TIMESTAMP)), (None, None));
        let value = take("k", &large, "h", 0);
        assert_eq!((value.key.as_deref(), value.value.as_deref()), (Some(&b"k"[..]), None));
        assert_eq!((value.header(LEFT_OUT), value.header("own")), (Some("value (5000 bytes)"), Some("h")));
        let headers = take("k", "v", &large, 0);
        assert_eq!(headers.header(LEFT_OUT), Some("value (1 bytes), headers (1)"));
        let key = take(&large, "v", "h", 0);
        assert_eq!(key.header(LEFT_OUT), Some("value (1 bytes), key (5000 bytes), headers (1)"));
        let ahead = take("k", "v", "h", i64::MAX);
        assert_eq!((ahead.timestamp_ms, ahead.header(TIMESTAMP)), (100, Some("9223372036854775807")));
    }
}
