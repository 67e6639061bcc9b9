//! Scans: which keys, in which direction, and the page that comes back.

pub(crate) mod merge;

use std::ops::Bound;

use bytes::Bytes;

use crate::row::Row;

/// A range of keys and a direction. Bounds are in key order whatever the direction; an inverted range is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRange {
    /// The smaller end.
    pub from: Bound<Vec<u8>>,
    /// The greater end.
    pub to: Bound<Vec<u8>>,
    /// From the greatest key down.
    pub reverse: bool,
}

/// A part of a scan, in the scan's direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// Keys and rows.
    pub rows: Vec<(Bytes, Row)>,
    /// Whether there is another row: continue with [`ScanRange::after`] of the last key.
    pub more: bool,
}

impl ScanRange {
    /// All keys, upwards.
    pub fn all() -> Self {
        Self { from: Bound::Unbounded, to: Bound::Unbounded, reverse: false }
    }

    /// The keys that begin with `prefix`, upwards.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { from: Bound::Included(prefix.to_vec()), to: prefix_end(prefix), reverse: false }
    }

    /// The same range downwards.
    pub fn reversed(self) -> Self {
        Self { reverse: true, ..self }
    }

    /// What is left of the range behind `key`, in the scan's direction.
    pub fn after(self, key: &[u8]) -> Self {
        let bound = Bound::Excluded(key.to_vec());
        if self.reverse { Self { to: bound, ..self } } else { Self { from: bound, ..self } }
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        let (lower, upper) = self.limits();
        key >= lower.as_slice() && upper.is_none_or(|upper| key < upper.as_slice())
    }

    /// The range as RocksDB has it: from the first (included) to the second (excluded; `None`: no end).
    pub(crate) fn limits(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let lower = match &self.from {
            Bound::Included(key) => key.clone(),
            Bound::Excluded(key) => successor(key),
            Bound::Unbounded => Vec::new(),
        };
        let upper = match &self.to {
            Bound::Included(key) => Some(successor(key)),
            Bound::Excluded(key) => Some(key.clone()),
            Bound::Unbounded => None,
        };
        (lower, upper)
    }
}

/// The smallest key greater than `key`.
pub(crate) fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// The end of the keys that begin with `prefix`: the last byte that can be raised is, and what is behind it falls away. A
/// prefix of 0xff bytes only has no end.
fn prefix_end(prefix: &[u8]) -> Bound<Vec<u8>> {
    match prefix.iter().rposition(|&byte| byte != 0xff) {
        Some(at) => {
            let mut end = prefix[..=at].to_vec();
            end[at] += 1;
            Bound::Excluded(end)
        }
        None => Bound::Unbounded,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefix_ends_where_its_last_byte_can_be_raised() {
        for (prefix, end) in [
            (&b""[..], Bound::Unbounded),
            (b"a", Bound::Excluded(b"b".to_vec())),
            (b"a\xff", Bound::Excluded(b"b".to_vec())),
            (b"a\xff\x01\xff", Bound::Excluded(b"a\xff\x02".to_vec())),
            (b"\xff\xff", Bound::Unbounded),
        ] {
            assert_eq!(ScanRange::prefix(prefix).to, end, "{prefix:?}");
        }
    }

    #[test]
    fn a_range_continues_behind_a_key_in_its_direction() {
        let up = ScanRange::all().after(b"k");
        assert!(!up.contains(b"k") && up.contains(b"k\0") && !up.contains(b"j"));
        let down = ScanRange::all().reversed().after(b"k");
        assert!(!down.contains(b"k") && down.contains(b"j") && !down.contains(b"k\0"));
    }

    proptest! {
        #[test]
        fn a_prefix_range_is_starts_with(prefix in proptest::collection::vec(prop_oneof![Just(0xff_u8), 0..3_u8], 0..4),
                                         key in proptest::collection::vec(prop_oneof![Just(0xff_u8), 0..4_u8], 0..6)) {
            prop_assert_eq!(ScanRange::prefix(&prefix).contains(&key), key.starts_with(&prefix));
        }
    }
}
