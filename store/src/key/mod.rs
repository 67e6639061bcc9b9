//! Key layouts: how a store's key becomes bytes whose order is the order of scans.
//!
//! A key-value store's key is its codec's bytes as they are. Window and session stores put times behind it, with the
//! bytes of Kafka Streams, so that one changelog serves both.

pub mod session;
pub mod window;

pub use session::SessionKey;
pub use window::WindowKey;

/// Bytes that are no key of the layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a {layout} key of at least {expected} bytes, got {got}")]
pub struct KeyError {
    /// Name of the layout.
    pub layout: &'static str,
    /// The fewest bytes that such a key has.
    pub expected: usize,
    /// The number of bytes that came.
    pub got: usize,
}

/// Splits the last `N` bytes off.
fn split_tail<'a, const N: usize>(bytes: &'a [u8], layout: &'static str) -> Result<(&'a [u8], [u8; N]), KeyError> {
    match bytes.split_last_chunk::<N>() {
        Some((key, tail)) => Ok((key, *tail)),
        None => Err(KeyError { layout, expected: N, got: bytes.len() }),
    }
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    let mut out = [0; 8];
    // Called with the offsets of a fixed-size tail only, so the range is there.
    if let Some(slice) = bytes.get(at..at + 8) {
        out.copy_from_slice(slice);
    }
    i64::from_be_bytes(out)
}
