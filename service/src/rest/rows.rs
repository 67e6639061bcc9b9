//! Rows as JSON: `{"store","key","value","timestamp_ms","offset"}`. A value that is JSON already is copied, not parsed.

use bytes::Bytes;
use holdfast_store::Row;

use crate::query::{Queries, QueryError, StoreInfo};

impl Queries {
    /// The row's JSON value, appended to `out`.
    pub(crate) fn write_value(&self, store: &StoreInfo, value: &Bytes, out: &mut Vec<u8>) -> Result<(), QueryError> {
        store.value.write_json(value, out).map_err(|source| QueryError::Value {
            store: store.name.clone(),
            format: store.value.name().to_owned(),
            problem: source.to_string(),
        })
    }

    /// The text of a key that was read.
    pub(crate) fn key_text(&self, store: &StoreInfo, key: &[u8]) -> Result<String, QueryError> {
        store.key.to_text(key).map_err(|source| QueryError::Value {
            store: store.name.clone(),
            format: store.key.name().to_owned(),
            problem: source.to_string(),
        })
    }
}

/// Appends the members of a row, without braces: `"key":…,"value":…,"timestamp_ms":…,"offset":…`.
pub(super) fn write_members(
    queries: &Queries,
    store: &StoreInfo,
    key: &str,
    row: &Row,
    out: &mut Vec<u8>,
) -> Result<(), QueryError> {
    out.extend_from_slice(b"\"key\":");
    write_string(key, out);
    out.extend_from_slice(b",\"value\":");
    queries.write_value(store, &row.value, out)?;
    out.extend_from_slice(b",\"timestamp_ms\":");
    write_number(row.timestamp_ms, out);
    out.extend_from_slice(b",\"offset\":");
    write_number(row.offset, out);
    Ok(())
}

/// Appends a JSON string.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
    }
}

/// Appends a number.
pub(crate) fn write_number(number: i64, out: &mut Vec<u8>) {
    use std::io::Write;
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{number}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_are_serdes(text: String) {
            let mut out = Vec::new();
            write_string(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
