//! Session keys: key ‖ i64 end ‖ i64 start, big-endian (`SessionKeySchema` in Kafka Streams).

use std::ops::Bound;

use super::{KeyError, i64_at, split_tail};
use crate::scan::ScanRange;

const TAIL_BYTES: usize = 16;

/// A key in a session store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionKey<'a> {
    /// The record's key, as its codec wrote it: the part that is hashed to a partition.
    pub key: &'a [u8],
    /// Time of the session's first record, in milliseconds since the epoch; never negative.
    pub start_ms: i64,
    /// Time of the session's last record, in milliseconds since the epoch; never negative.
    pub end_ms: i64,
}

impl<'a> SessionKey<'a> {
    /// The stored bytes; the same as in an output topic.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.key.len() + TAIL_BYTES);
        out.extend_from_slice(self.key);
        // The end comes first: sessions that still may grow are those that ended last.
        out.extend_from_slice(&self.end_ms.to_be_bytes());
        out.extend_from_slice(&self.start_ms.to_be_bytes());
        out
    }

    /// Reads [`SessionKey::encode`]'s bytes.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, KeyError> {
        let (key, tail) = split_tail::<TAIL_BYTES>(bytes, "session")?;
        Ok(Self { key, end_ms: i64_at(&tail, 0), start_ms: i64_at(&tail, 8) })
    }

    /// A range that holds all sessions of `key` that end at `earliest_end_ms` or later. A longer key that begins with `key`
    /// may fall into it, and sessions that start too late have to be left out: compare what comes back.
    pub fn range(key: &[u8], earliest_end_ms: i64) -> ScanRange {
        let from = SessionKey { key, start_ms: 0, end_ms: earliest_end_ms.max(0) }.encode();
        let to = SessionKey { key, start_ms: i64::MAX, end_ms: i64::MAX }.encode();
        ScanRange { from: Bound::Included(from), to: Bound::Included(to), reverse: false }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_are_kafka_streams() {
        let key = SessionKey { key: b"k", start_ms: 1, end_ms: 258 };
        assert_eq!(key.encode(), [b'k', 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(SessionKey::decode(b"short"), Err(KeyError { layout: "session", expected: 16, got: 5 }));
    }

    proptest! {
        #[test]
        fn bytes_round_trip(key: Vec<u8>, start_ms in 0..i64::MAX, end_ms in 0..i64::MAX) {
            let session = SessionKey { key: &key, start_ms, end_ms };
            let bytes = session.encode();
            prop_assert_eq!(SessionKey::decode(&bytes), Ok(session));
        }

        #[test]
        fn sessions_of_a_key_are_in_order_of_their_end(key: Vec<u8>, a in 0..i64::MAX, b in 0..i64::MAX) {
            let bytes = |end_ms| SessionKey { key: &key, start_ms: 0, end_ms }.encode();
            prop_assert_eq!(bytes(a).cmp(&bytes(b)), a.cmp(&b));
        }

        #[test]
        fn a_range_holds_what_it_names(key: Vec<u8>, end in 0..1000_i64, earliest in -10..1000_i64) {
            let bytes = SessionKey { key: &key, start_ms: 0, end_ms: end }.encode();
            prop_assert_eq!(SessionKey::range(&key, earliest).contains(&bytes), end >= earliest);
        }
    }
}
