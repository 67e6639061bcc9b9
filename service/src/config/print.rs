//! `--print-config`: every value with its origin, as TOML that can be used again.

use std::fmt::Write as _;

use super::Settings;

impl Settings {
    /// All values, one a line, as TOML with the origin as a comment. Secrets show as `****`.
    pub fn print(&self) -> String {
        let mut lines: Vec<(String, String)> = Vec::new();
        for shown in &self.shown {
            lines.push((format!("{} = {}", shown.key, quoted(&shown.value)), shown.origin.to_string()));
        }
        if self.kafka.iter().next().is_some() {
            lines.push((String::new(), String::new()));
            lines.push(("[kafka]".to_owned(), String::new()));
        }
        for (property, value, origin) in self.kafka.origins() {
            let value = if super::kafka::is_secret(property) { "****" } else { value };
            lines.push((format!("{} = {}", quoted(property), quoted(value)), origin.to_string()));
        }
        let width = lines.iter().map(|(text, _)| text.chars().count()).filter(|width| *width <= 60).max().unwrap_or(0);
        let mut out = String::new();
        for (text, origin) in lines {
            let line = if origin.is_empty() { text } else { format!("{text:width$}  # {origin}") };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{line}");
        }
        out
    }
}

/// Numbers and booleans bare, everything else as a TOML string.
fn quoted(value: &str) -> String {
    if value.parse::<i64>().is_ok() || matches!(value, "true" | "false") {
        value.to_owned()
    } else {
        toml::Value::String(value.to_owned()).to_string()
    }
}
