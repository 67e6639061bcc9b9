//! Request ids: the caller's own where it sends one, else, where one is needed, a number that is unique in this process.

use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries it, in requests and answers.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id taken from a caller: it goes into logs.
const MAX_BYTES: usize = 128;

/// Where this process began to count: two instances seldom give the same id.
static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(rand::random()));

/// The caller's id, if it sent a usable one.
pub fn given(headers: &HeaderMap) -> Option<HeaderValue> {
    let given = headers.get(&HEADER)?;
    ((1..=MAX_BYTES).contains(&given.len()) && given.to_str().is_ok()).then(|| given.clone())
}

/// A new one.
pub fn new() -> HeaderValue {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut text = [0; 16];
    for (index, digit) in text.iter_mut().enumerate() {
        let nibble = (number >> (60 - 4 * index)) & 0xf;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    // Hex digits are always legal.
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_id_is_kept_when_it_is_printable() {
        let mut headers = HeaderMap::new();
        assert_eq!(given(&headers), None);
        headers.insert(HEADER, HeaderValue::from_static("abc-1"));
        assert_eq!(given(&headers).unwrap(), "abc-1");
        headers.insert(HEADER, HeaderValue::from_str(&"x".repeat(129)).unwrap());
        assert_eq!(given(&headers), None);
        let made = new();
        assert_eq!(made.len(), 16);
        assert_ne!(new(), made);
    }
}
