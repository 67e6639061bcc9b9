//! A row of a table, and its bytes in RocksDB: i64 timestamp ‖ i64 changelog offset (both big-endian) ‖ value.

use bytes::Bytes;

/// Bytes in front of a value: time stamp and changelog offset.
pub(crate) const HEADER_BYTES: usize = 16;

/// A committed row as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The value as the store's codec wrote it.
    pub value: Bytes,
    /// The row's time stamp: the latest of the records that made it, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Offset of the row's record in the changelog.
    pub offset: i64,
}

/// One committed change of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// The key as the store's codec wrote it.
    pub key: Bytes,
    /// The new value; `None` deletes the row.
    pub value: Option<Bytes>,
    /// The row's time stamp, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Offset of the change in the changelog.
    pub offset: i64,
}

/// The header of a row with this time stamp and offset.
pub(crate) fn header(timestamp_ms: i64, offset: i64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&timestamp_ms.to_be_bytes());
    bytes[8..].copy_from_slice(&offset.to_be_bytes());
    bytes
}

/// Splits stored bytes into time stamp, offset and value; `None` when they are shorter than a header.
pub(crate) fn split(stored: &[u8]) -> Option<(i64, i64, &[u8])> {
    let (timestamp_ms, rest) = stored.split_first_chunk::<8>()?;
    let (offset, value) = rest.split_first_chunk::<8>()?;
    Some((i64::from_be_bytes(*timestamp_ms), i64::from_be_bytes(*offset), value))
}

impl Row {
    /// Reads stored bytes, copying the value; `None` when they are shorter than a header.
    pub(crate) fn from_stored(stored: &[u8]) -> Option<Self> {
        let (timestamp_ms, offset, value) = split(stored)?;
        Some(Self { value: Bytes::copy_from_slice(value), timestamp_ms, offset })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stored_bytes_round_trip(timestamp_ms: i64, offset: i64, value: Vec<u8>) {
            let mut stored = header(timestamp_ms, offset).to_vec();
            stored.extend(&value);
            prop_assert_eq!(Row::from_stored(&stored), Some(Row { value: value.into(), timestamp_ms, offset }));
            prop_assert_eq!(Row::from_stored(&stored[..HEADER_BYTES - 1]), None);
        }
    }

    #[test]
    fn the_header_is_big_endian() {
        assert_eq!(header(1, 258), [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2]);
    }
}
