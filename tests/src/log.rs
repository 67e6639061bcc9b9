//! An instance's log: one JSON object a line.

use serde_json::Value;

/// The lines whose message contains `text`, with their fields.
pub fn lines(log: &str, text: &str) -> Vec<Value> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| message(line).contains(text))
        .collect()
}

/// A line's message.
pub fn message(line: &Value) -> &str {
    line["message"].as_str().or_else(|| line["fields"]["message"].as_str()).unwrap_or_default()
}

/// A field of a line as a number; 0 if it has none.
pub fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().or_else(|| line["fields"][field].as_u64()).unwrap_or(0)
}

/// A field of a line as text; empty if it has none.
pub fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().or_else(|| line["fields"][field].as_str()).unwrap_or_default()
}
