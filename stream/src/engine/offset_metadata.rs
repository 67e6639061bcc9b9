//! The text that is committed with each input offset: stream time, as Kafka Streams writes it (`TopicPartitionMetadata`).
//!
//! Base64 of a version byte and an i64; in version 2 the metadata of processors may follow, which nothing here has.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use holdfast_types::TimestampMs;

const VERSION: u8 = 2;

/// The text for a task whose time is `stream_time_ms`.
pub(super) fn encode(stream_time_ms: TimestampMs) -> String {
    let mut bytes = [0; 9];
    bytes[0] = VERSION;
    bytes[1..].copy_from_slice(&stream_time_ms.to_be_bytes());
    STANDARD.encode(bytes)
}

/// The time in a text that this service or Kafka Streams has committed; `None` in what somebody else has (an operator's
/// reset leaves it empty), or before the first record.
pub(super) fn decode(metadata: &str) -> Option<TimestampMs> {
    parse(metadata).filter(|time| *time >= 0)
}

/// Whether a text is one that this service or Kafka Streams has committed.
pub(super) fn is_ours(metadata: &str) -> bool {
    parse(metadata).is_some()
}

fn parse(metadata: &str) -> Option<TimestampMs> {
    let bytes = STANDARD.decode(metadata).ok()?;
    let (1..=VERSION, time) = bytes.split_first()? else { return None };
    Some(i64::from_be_bytes(*time.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_kafka_streams_own() {
        // `TopicPartitionMetadata.with(1602605730790L, new ProcessorMetadata()).encode()` ends in four bytes for no entries.
        let java = STANDARD.encode([&[2][..], &1_602_605_730_790_i64.to_be_bytes(), &[0, 0, 0, 0]].concat());
        assert_eq!(decode(&java), Some(1_602_605_730_790));
        let old = STANDARD.encode([&[1][..], &7_i64.to_be_bytes()].concat());
        assert_eq!(decode(&old), Some(7));
        assert_eq!(decode(&encode(1_602_605_730_790)), Some(1_602_605_730_790));
    }

    #[test]
    fn other_texts_tell_no_time() {
        let newer = STANDARD.encode([&[3][..], &7_i64.to_be_bytes()].concat());
        let short = STANDARD.encode([2, 0, 0]);
        for text in ["", "reset by hand", &newer, &short, &encode(-1)] {
            assert_eq!(decode(text), None, "{text:?}");
        }
        assert!(is_ours(&encode(-1)), "before the first record");
        assert!(!is_ours("") && !is_ours("reset by hand") && !is_ours(&newer));
    }
}
