//! An instance's log: one JSON object a line.

use std::time::Duration;

use serde_json::Value;

use crate::{instance::Instance, wait};

/// How many lines of a log contain all of `words`, in the message or in a field.
pub fn count(log: &str, words: &[&str]) -> usize {
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

/// Some line contains all of `words`.
#[track_caller]
pub fn assert_said(log: &str, words: &[&str]) {
    assert!(count(log, words) > 0, "no line with {words:?}:\n{log}");
}

/// Waits until an instance's log has so many lines with all of `words`, or more.
#[track_caller]
pub fn wait_said(instance: &Instance, words: &[&str], times: usize, limit: Duration) {
    wait::until(format!("{words:?} in the log"), limit, || match count(&instance.log(), words) {
        seen if seen >= times => Ok(()),
        seen => Err(format!("{seen} of {times} lines")),
    });
}

/// Waits until an instance's log has a line with all of `words`; a second one is one too many.
#[track_caller]
pub fn wait_said_once(instance: &Instance, words: &[&str], limit: Duration) {
    wait_said(instance, words, 1, limit);
    let log = instance.log();
    assert_eq!(count(&log, words), 1, "{words:?} is said once:\n{log}");
}

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
