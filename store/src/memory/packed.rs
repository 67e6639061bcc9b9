//! One row in one allocation: header ‖ value ‖ key. What RocksDB stores is a slice of it.

use crate::row::{HEADER_BYTES, Row, RowChange, header};

/// A row of a memory table, or the mark of a deleted one.
#[derive(Debug)]
pub(crate) struct PackedRow {
    bytes: Box<[u8]>,
    key_bytes: u32,
    live: bool,
}

impl PackedRow {
    pub(crate) fn new(change: &RowChange) -> Self {
        let value: &[u8] = change.value.as_deref().unwrap_or_default();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + value.len() + change.key.len());
        bytes.extend_from_slice(&header(change.timestamp_ms, change.offset));
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(&change.key);
        // Kafka refuses records of 2 GiB and more, so a key's length fits.
        Self { bytes: bytes.into_boxed_slice(), key_bytes: change.key.len() as u32, live: change.value.is_some() }
    }

    /// The place of a row that is gone; holds no memory.
    pub(crate) fn vacant() -> Self {
        Self { bytes: Box::default(), key_bytes: 0, live: false }
    }

    /// Takes over a change of the same key. A value of the same length (a counter, say) is written in place.
    pub(crate) fn replace(&mut self, change: &RowChange) {
        let value: &[u8] = change.value.as_deref().unwrap_or_default();
        if self.bytes.len() == HEADER_BYTES + value.len() + change.key.len() {
            self.bytes[..HEADER_BYTES].copy_from_slice(&header(change.timestamp_ms, change.offset));
            self.bytes[HEADER_BYTES..HEADER_BYTES + value.len()].copy_from_slice(value);
            self.live = change.value.is_some();
        } else {
            *self = Self::new(change);
        }
    }

    pub(super) fn is_vacant(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn first_byte(&self) -> Option<u8> {
        self.bytes.first().copied()
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[self.split()..]
    }

    /// Header and value, as RocksDB stores them; `None` for a deleted row.
    pub(crate) fn stored(&self) -> Option<&[u8]> {
        self.live.then(|| &self.bytes[..self.split()])
    }

    /// The row with its value copied; `None` for a deleted row.
    pub(crate) fn row(&self) -> Option<Row> {
        Row::from_stored(self.stored()?)
    }

    /// What the row takes of the heap, as an allocator with 16-byte steps and an 8-byte header gives it.
    pub(crate) fn heap_bytes(&self) -> usize {
        heap_bytes(self.bytes.len())
    }

    fn split(&self) -> usize {
        self.bytes.len() - self.key_bytes as usize
    }
}

/// What an allocation of `length` bytes takes of the heap.
pub(super) fn heap_bytes(length: usize) -> usize {
    if length == 0 { 0 } else { ((length + 8).next_multiple_of(16)).max(32) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn change(value: Option<&'static [u8]>, offset: i64) -> RowChange {
        RowChange { key: Bytes::from_static(b"key"), value: value.map(Bytes::from_static), timestamp_ms: 7, offset }
    }

    #[test]
    fn a_row_is_replaced_whatever_its_length() {
        let mut packed = PackedRow::new(&change(Some(b"12345678"), 1));
        for (value, offset) in
            [(Some(&b"87654321"[..]), 2), (Some(b"longer than before"), 3), (Some(b""), 4), (None, 5), (Some(b""), 6)]
        {
            packed.replace(&change(value, offset));
            assert_eq!(packed.key(), b"key");
            let row = value.map(|value| Row { value: Bytes::from_static(value), timestamp_ms: 7, offset });
            assert_eq!(packed.row(), row);
        }
    }
}
