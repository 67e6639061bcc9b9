//! What a topic takes: the size of a record, and how far its time stamp may lie from now.

use std::{collections::BTreeMap, fmt, sync::Arc};

use holdfast_types::TimestampMs;

use crate::processor::Header;

/// Bytes of a record batch before its first record.
const BATCH_HEADER_BYTES: usize = 61;

/// What one topic takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicLimits {
    /// Its `max.message.bytes`, which holds for a batch; a batch of one record must fit.
    pub max_message_bytes: usize,
    /// How old a record's time stamp may be, in ms (`message.timestamp.before.max.ms`).
    pub before_max_ms: i64,
    /// How far ahead a record's time stamp may be, in ms (`message.timestamp.after.max.ms`).
    pub after_max_ms: i64,
}

impl Default for TopicLimits {
    /// No limits: the broker alone decides.
    fn default() -> Self {
        Self { max_message_bytes: usize::MAX, before_max_ms: i64::MAX, after_max_ms: i64::MAX }
    }
}

/// Why a topic would refuse a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The record's batch is larger than the topic takes.
    TooLarge {
        /// Bytes of a batch with this record alone.
        bytes: usize,
        /// What the topic takes.
        max_message_bytes: usize,
    },
    /// The record's time stamp lies too far from now.
    Timestamp {
        /// The time stamp.
        timestamp_ms: TimestampMs,
        /// Now.
        now_ms: TimestampMs,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes, max_message_bytes } => {
                write!(f, "{bytes} bytes, but the topic takes {max_message_bytes} (its max.message.bytes)")
            }
            Self::Timestamp { timestamp_ms, now_ms } => write!(
                f,
                "the time stamp {timestamp_ms} is {} ms from now, more than the topic takes (its \
                 message.timestamp.before.max.ms and message.timestamp.after.max.ms)",
                timestamp_ms.abs_diff(*now_ms)
            ),
        }
    }
}

impl TopicLimits {
    /// Whether the topic takes a record whose batch has `bytes` ([`batch_bytes`]).
    pub fn check(&self, bytes: usize, timestamp_ms: TimestampMs, now_ms: TimestampMs) -> Result<(), Refusal> {
        if bytes > self.max_message_bytes {
            return Err(Refusal::TooLarge { bytes, max_message_bytes: self.max_message_bytes });
        }
        let ahead = timestamp_ms.saturating_sub(now_ms);
        if ahead > self.after_max_ms || ahead.saturating_neg() > self.before_max_ms {
            return Err(Refusal::Timestamp { timestamp_ms, now_ms });
        }
        Ok(())
    }
}

/// The limits of every topic that is written, as they were when the engine was prepared. A limit that is lowered later is
/// found when the broker refuses a record.
#[derive(Clone, Debug, Default)]
pub struct Limits(Arc<BTreeMap<Arc<str>, TopicLimits>>);

impl Limits {
    /// Of these topics.
    pub fn new(topics: BTreeMap<Arc<str>, TopicLimits>) -> Self {
        Self(Arc::new(topics))
    }

    /// What `topic` takes; no limits where they are not known.
    pub fn of(&self, topic: &str) -> TopicLimits {
        self.0.get(topic).copied().unwrap_or_default()
    }

    /// The smallest and the largest known `max.message.bytes`.
    pub fn message_bytes_range(&self) -> Option<(usize, usize)> {
        let known = || self.0.values().map(|limits| limits.max_message_bytes).filter(|&bytes| bytes != usize::MAX);
        Some((known().min()?, known().max()?))
    }
}

/// Size of an uncompressed batch that holds one record: what the broker compares with `max.message.bytes`.
pub fn batch_bytes(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) -> usize {
    let sized = |bytes: Option<&[u8]>| bytes.map_or(1, |bytes| varint_bytes(bytes.len()) + bytes.len());
    let header_bytes = |header: &Header| sized(Some(header.key.as_bytes())) + sized(header.value.as_deref());
    // Attributes, time stamp delta and offset delta take a byte each in a batch's first record.
    let record =
        3 + sized(key) + sized(value) + varint_bytes(headers.len()) + headers.iter().map(header_bytes).sum::<usize>();
    BATCH_HEADER_BYTES + varint_bytes(record) + record
}

/// Bytes of a zigzag varint of a length.
fn varint_bytes(length: usize) -> usize {
    let bits = (usize::BITS - length.leading_zeros()) as usize + 1;
    bits.div_ceil(7).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_as_large_as_kafka_makes_it() {
        // Kafka's DefaultRecordBatch.estimateBatchSizeUpperBound gives more; these are what a broker's log holds.
        assert_eq!(batch_bytes(None, None, &[]), 61 + 1 + 6);
        assert_eq!(batch_bytes(Some(b"k"), Some(b"v"), &[]), 61 + 1 + 8);
        let header = Header::text("h", "x");
        assert_eq!(batch_bytes(Some(b"k"), Some(b"v"), &[header]), 61 + 1 + 12);
        assert_eq!([0, 63, 64, 8191, 8192].map(varint_bytes), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn what_a_topic_refuses() {
        let limits = TopicLimits { max_message_bytes: 100, before_max_ms: i64::MAX, after_max_ms: 1_000 };
        assert_eq!(limits.check(100, 5_000, 4_000), Ok(()));
        assert_eq!(limits.check(100, i64::MIN, i64::MAX), Ok(()));
        assert_eq!(limits.check(101, 0, 0), Err(Refusal::TooLarge { bytes: 101, max_message_bytes: 100 }));
        assert_eq!(limits.check(1, 5_001, 4_000), Err(Refusal::Timestamp { timestamp_ms: 5_001, now_ms: 4_000 }));
        assert_eq!(TopicLimits::default().check(usize::MAX, i64::MAX, i64::MIN), Ok(()));
    }
}
