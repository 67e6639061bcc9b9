//! Records as bytes: names of fixed width, and the inventory's JSON.

use std::io::Write as _;

use super::{Generated, Topology};

const MS_PER_DAY: u64 = 86_400_000;

/// Encodes records into buffers that are used again.
#[derive(Debug)]
pub(crate) struct Encoder {
    topology: Topology,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(topology: Topology) -> Self {
        Self { topology, key: Vec::with_capacity(16), value: Vec::with_capacity(192) }
    }

    /// The record's key and value.
    pub(crate) fn encode(&mut self, record: &Generated) -> (&[u8], &[u8]) {
        self.key.clear();
        self.value.clear();
        // Writing into a vector cannot fail.
        let _ = match self.topology {
            Topology::Count => {
                write!(self.key, "key_{:08}", record.key).and_then(|()| write!(self.value, "{}", record.id))
            }
            Topology::Both => write!(self.key, "Store_{:08}", record.key).and_then(|()| item(&mut self.value, record)),
        };
        (&self.key, &self.value)
    }
}

/// The name of a key that is counted.
pub(crate) fn key(key: i32) -> String {
    format!("key_{key:08}")
}

/// The name of a sku.
pub(crate) fn sku(sku: i32) -> String {
    format!("Item_{sku:08}")
}

/// The number in a name of this module; `None` for any other name.
pub(crate) fn number(name: &[u8]) -> Option<usize> {
    let at = name.iter().position(|&byte| byte == b'_')?;
    std::str::from_utf8(&name[at + 1..]).ok()?.parse().ok()
}

fn item(json: &mut Vec<u8>, record: &Generated) -> std::io::Result<()> {
    let kind = if record.sale { "SALE" } else { "RESTOCK" };
    write!(
        json,
        r#"{{"id":{},"storeName":"Store_{:08}","sku":"Item_{:08}","quantity":{},"type":"{kind}","price":{}.{:02},"timestamp":""#,
        record.id,
        record.key,
        record.sku,
        record.quantity,
        record.cents / 100,
        record.cents % 100
    )?;
    let (day, ms) = (record.id / MS_PER_DAY, record.id % MS_PER_DAY);
    let (year, month, day) = date(day);
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    write!(json, r#"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}100"}}"#)
}

/// Year, month and day of the day that is `days` after 2026-01-01.
fn date(mut days: u64) -> (u64, u64, u64) {
    let mut year = 2026;
    loop {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let february = if leap { 29 } else { 28 };
        for (month, length) in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().enumerate() {
            if days < length {
                return (year, month as u64 + 1, days + 1);
            }
            days -= length;
        }
        year += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_items_look_like_the_peers() {
        let mut record = Generated { id: 10_000_000_123, key: 7, sku: 4, quantity: 3, sale: true, cents: 1_205 };
        let mut events = Encoder::new(Topology::Count);
        assert_eq!(events.encode(&record), (b"key_00000007".as_slice(), b"10000000123".as_slice()));
        assert_eq!(key(record.key), "key_00000007");
        let mut items = Encoder::new(Topology::Both);
        let (key, value) = items.encode(&record);
        assert_eq!(key, b"Store_00000007");
        assert_eq!(
            String::from_utf8_lossy(value),
            r#"{"id":10000000123,"storeName":"Store_00000007","sku":"Item_00000004","quantity":3,"type":"SALE","price":12.05,"timestamp":"2026-04-26T17:46:40.123100"}"#
        );
        record.id = 5_097_600_000;
        assert!(String::from_utf8_lossy(items.encode(&record).1).contains("2026-03-01T00:00:00.000100"));
    }

    #[test]
    fn names_give_their_number_back() {
        assert_eq!(number(key(12).as_bytes()), Some(12));
        assert_eq!(number(sku(99_999_999).as_bytes()), Some(99_999_999));
        assert_eq!(number(b"nothing"), None);
    }
}
