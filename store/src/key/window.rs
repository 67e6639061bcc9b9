//! Window keys: key ‖ i64 start ‖ i32 sequence, big-endian (`WindowKeySchema` in Kafka Streams).

use std::ops::Bound;

use super::{KeyError, i64_at, split_tail};
use crate::scan::ScanRange;

const TAIL_BYTES: usize = 12;

/// A key in a window store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowKey<'a> {
    /// The record's key, as its codec wrote it: the part that is hashed to a partition.
    pub key: &'a [u8],
    /// Start of the window, in milliseconds since the epoch; never negative.
    pub start_ms: i64,
    /// Tells rows of one window apart in stores that keep duplicates; 0 elsewhere.
    pub sequence: i32,
}

impl<'a> WindowKey<'a> {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.key.len() + TAIL_BYTES);
        out.extend_from_slice(self.key);
        out.extend_from_slice(&self.start_ms.to_be_bytes());
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out
    }

    /// Reads [`WindowKey::encode`]'s bytes.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, KeyError> {
        let (key, tail) = split_tail::<TAIL_BYTES>(bytes, "window")?;
        let sequence = i32::from_be_bytes([tail[8], tail[9], tail[10], tail[11]]);
        Ok(Self { key, start_ms: i64_at(&tail, 0), sequence })
    }

    /// The bytes in an output topic: key ‖ i64 start (`TimeWindowedSerializer`).
    pub fn encode_windowed(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.key.len() + 8);
        out.extend_from_slice(self.key);
        out.extend_from_slice(&self.start_ms.to_be_bytes());
        out
    }

    /// A range that holds all windows of `key` with starts in `from_ms..=to_ms`. A longer key that begins with `key` may fall
    /// into it: compare [`WindowKey::key`] of what comes back. Negative starts do not occur; a negative `from_ms` reads
    /// as 0, and a negative `to_ms` gives an empty range.
    pub fn range(key: &[u8], from_ms: i64, to_ms: i64) -> ScanRange {
        let from = WindowKey { key, start_ms: from_ms.max(0), sequence: 0 }.encode();
        let to = match to_ms {
            0.. => Bound::Included(WindowKey { key, start_ms: to_ms, sequence: i32::MAX }.encode()),
            _ => Bound::Excluded(from.clone()),
        };
        ScanRange { from: Bound::Included(from), to, reverse: false }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_are_kafka_streams() {
        let key = WindowKey { key: b"ab", start_ms: 258, sequence: 1 };
        assert_eq!(key.encode(), [b'a', b'b', 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1]);
        assert_eq!(key.encode_windowed(), [b'a', b'b', 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(WindowKey::decode(b"short"), Err(KeyError { layout: "window", expected: 12, got: 5 }));
    }

    proptest! {
        #[test]
        fn bytes_round_trip(key: Vec<u8>, start_ms in 0..i64::MAX, sequence in 0..i32::MAX) {
            let window = WindowKey { key: &key, start_ms, sequence };
            let bytes = window.encode();
            prop_assert_eq!(WindowKey::decode(&bytes), Ok(window));
        }

        #[test]
        fn windows_of_a_key_are_in_order_of_time(key: Vec<u8>, a in 0..i64::MAX, b in 0..i64::MAX) {
            let bytes = |start_ms| WindowKey { key: &key, start_ms, sequence: 0 }.encode();
            prop_assert_eq!(bytes(a).cmp(&bytes(b)), a.cmp(&b));
        }

        #[test]
        fn a_range_holds_what_it_names(key: Vec<u8>, start in 0..1000_i64, from in -10..1000_i64, to in -10..1000_i64) {
            let bytes = WindowKey { key: &key, start_ms: start, sequence: 0 }.encode();
            prop_assert_eq!(WindowKey::range(&key, from, to).contains(&bytes), (from..=to).contains(&start));
        }
    }
}
