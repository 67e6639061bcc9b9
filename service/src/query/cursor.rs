//! A scan's cursor: opaque to clients, versioned and checked, so that a wrong one is an error and never a wrong page.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use holdfast_types::Position;

const VERSION: u8 = 1;
/// A key and a position per partition of a few topics; what is longer was not written by us.
const MAX_TEXT_BYTES: usize = 96 * 1024;

/// Why a cursor cannot be continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Damaged, cut, or not ours.
    #[error("cursor: expected one from a former answer, unchanged; got something else")]
    Malformed,
    /// From a version that this one does not read.
    #[error("cursor: it is of version {0}, this instance reads version {VERSION}; begin the scan again")]
    Version(u8),
    /// From another scan.
    #[error("cursor: it belongs to another scan; store, from, to, prefix and reverse must be as they were")]
    OtherScan,
}

/// Where a scan goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Fingerprint of the scan (store, bounds, direction) that it belongs to.
    pub scan: u64,
    /// The last key that was delivered.
    pub last_key: Vec<u8>,
    /// What the former pages reflected: the next page must reflect at least that.
    pub min_position: Position,
}

impl Cursor {
    /// Text for clients.
    pub fn encode(&self) -> String {
        let position = self.min_position.encode();
        let mut out = Vec::with_capacity(1 + 8 + 4 + self.last_key.len() + position.len() + 8);
        out.push(VERSION);
        out.extend_from_slice(&self.scan.to_be_bytes());
        // Keys are bounded far below 4 GiB.
        out.extend_from_slice(&(self.last_key.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.last_key);
        out.extend_from_slice(&position);
        let sum = fnv1a(&[&out]);
        out.extend_from_slice(&sum.to_be_bytes());
        URL_SAFE_NO_PAD.encode(out)
    }

    /// Reads [`Cursor::encode`]'s text; `scan` is the fingerprint of the scan that it came with.
    pub fn decode(text: &str, scan: u64) -> Result<Self, CursorError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(CursorError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Malformed)?;
        let (body, sum) = bytes.split_last_chunk::<8>().ok_or(CursorError::Malformed)?;
        if fnv1a(&[body]) != u64::from_be_bytes(*sum) {
            return Err(CursorError::Malformed);
        }
        let (&version, body) = body.split_first().ok_or(CursorError::Malformed)?;
        if version != VERSION {
            return Err(CursorError::Version(version));
        }
        let (found, body) = body.split_first_chunk::<8>().ok_or(CursorError::Malformed)?;
        if u64::from_be_bytes(*found) != scan {
            return Err(CursorError::OtherScan);
        }
        let (length, body) = body.split_first_chunk::<4>().ok_or(CursorError::Malformed)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (last_key, position) = body.split_at_checked(length).ok_or(CursorError::Malformed)?;
        let min_position = Position::decode(position).map_err(|_| CursorError::Malformed)?;
        Ok(Self { scan, last_key: last_key.to_vec(), min_position })
    }
}

/// FNV-1a over the parts with their lengths: tells scans apart and finds damage; it keeps no secret.
pub fn fnv1a(parts: &[&[u8]]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut eat = |byte: u8| {
        hash ^= u64::from(byte);
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
    };
    for part in parts {
        (part.len() as u64).to_be_bytes().into_iter().for_each(&mut eat);
        part.iter().copied().for_each(&mut eat);
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn cursor(last_key: Vec<u8>) -> Cursor {
        let mut min_position = Position::new();
        min_position.advance(&Arc::from("items"), 2, 41);
        Cursor { scan: 7, last_key, min_position }
    }

    #[test]
    fn a_cursor_of_another_scan_or_version_is_named() {
        let text = cursor(b"k".to_vec()).encode();
        assert_eq!(Cursor::decode(&text, 8), Err(CursorError::OtherScan));
        let mut bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
        bytes.truncate(bytes.len() - 8);
        bytes[0] = 9;
        let sum = fnv1a(&[&bytes]);
        bytes.extend(sum.to_be_bytes());
        assert_eq!(Cursor::decode(&URL_SAFE_NO_PAD.encode(bytes), 7), Err(CursorError::Version(9)));
    }

    proptest! {
        #[test]
        fn cursors_round_trip(key: Vec<u8>) {
            let cursor = cursor(key);
            prop_assert_eq!(Cursor::decode(&cursor.encode(), 7), Ok(cursor));
        }

        #[test]
        fn one_changed_character_is_noticed(key: Vec<u8>, at: prop::sample::Index, with in "[A-Za-z0-9_-]") {
            let text = cursor(key).encode();
            let at = at.index(text.len());
            let mut changed = text.clone();
            changed.replace_range(at..=at, &with);
            if changed != text {
                prop_assert!(Cursor::decode(&changed, 7).is_err());
            }
        }

        #[test]
        fn wild_cursors_never_panic(text in ".{0,200}", bytes: Vec<u8>) {
            let _ = Cursor::decode(&text, 7);
            let mut summed = bytes;
            let sum = fnv1a(&[&summed]);
            summed.extend(sum.to_be_bytes());
            let _ = Cursor::decode(&URL_SAFE_NO_PAD.encode(summed), 7);
        }
    }
}
