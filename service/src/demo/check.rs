//! Every row compared with what was sent.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    cli::{Expected, Failure},
    query::{Queries, ReadOptions, ScanRequest},
};

/// Differences that are printed; more are counted.
const SHOWN: usize = 10;

/// Compares all rows of the stores that `expected` names; answers their number, or the differences as a failure.
pub(super) async fn compare(queries: &Queries, expected: &Expected) -> Result<usize, Failure> {
    let mut rows = 0;
    let mut differences = Vec::new();
    for (store, expected) in expected {
        let found = read_all(queries, store).await?;
        rows += found.len();
        differences.extend(differences_of(store, expected, &found));
    }
    if differences.is_empty() {
        return Ok(rows);
    }
    let more = differences.len().saturating_sub(SHOWN);
    let mut message = format!("{} rows differ from what was sent:", differences.len());
    for difference in differences.iter().take(SHOWN) {
        message.push_str("\n  ");
        message.push_str(difference);
    }
    if more > 0 {
        message.push_str(&format!("\n  and {more} more"));
    }
    Err(Failure::outcome(message))
}

fn differences_of(store: &str, expected: &BTreeMap<String, Value>, found: &BTreeMap<String, Value>) -> Vec<String> {
    let mut differences = Vec::new();
    for (key, value) in expected {
        match found.get(key) {
            Some(row) if row == value => {}
            Some(row) => differences.push(format!("{store} {key}: expected {value}, found {row}")),
            None => differences.push(format!("{store} {key}: expected {value}, found no row")),
        }
    }
    let extra = found.iter().filter(|(key, _)| !expected.contains_key(*key));
    differences.extend(extra.map(|(key, row)| format!("{store} {key}: expected no row, found {row}")));
    differences
}

/// All rows of a store as JSON, by the key's text.
async fn read_all(queries: &Queries, store: &str) -> Result<BTreeMap<String, Value>, Failure> {
    let info = queries.store(store)?;
    let mut rows = BTreeMap::new();
    let mut cursor = None;
    loop {
        let request = ScanRequest { cursor: cursor.take(), ..ScanRequest::default() };
        let page = queries.scan(store, &request, &ReadOptions::default()).await?;
        for (key, row) in &page.rows {
            let mut json = Vec::with_capacity(row.value.len());
            info.value.write_json(&row.value, &mut json)?;
            rows.insert(info.key.to_text(key)?, serde_json::from_slice(&json)?);
        }
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_named() {
        let rows = |pairs: &[(&str, i64)]| pairs.iter().map(|(key, n)| ((*key).to_owned(), json!(n))).collect();
        let expected: BTreeMap<String, Value> = rows(&[("a", 1), ("b", 2), ("c", 3)]);
        assert!(differences_of("S", &expected, &expected).is_empty());
        assert_eq!(
            differences_of("S", &expected, &rows(&[("a", 1), ("b", 5), ("d", 4)])),
            ["S b: expected 2, found 5", "S c: expected 3, found no row", "S d: expected no row, found 4"]
        );
    }
}
