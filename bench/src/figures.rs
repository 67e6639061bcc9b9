//! What one run measured: `name=value`, one a line, named as the peer names its figures.

use std::{collections::BTreeMap, fmt};

/// Figures of one run, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    values: BTreeMap<String, String>,
}

impl Figures {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Sets a figure that is not a measured number.
    pub(crate) fn set(&mut self, name: impl Into<String>, value: impl fmt::Display) {
        self.values.insert(name.into(), value.to_string());
    }

    /// Sets a measured number: three decimals, none from 1000 on.
    pub(crate) fn number(&mut self, name: impl Into<String>, value: f64) {
        let text = if value.abs() >= 1_000.0 { format!("{value:.0}") } else { format!("{value:.3}") };
        self.values.insert(name.into(), text);
    }

    /// A figure as a number, if there is one of that name.
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name)?.parse().ok()
    }

    /// A figure as it was printed.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether the program that printed them found its result right, or had nothing to compare.
    pub(crate) fn correct(&self) -> bool {
        self.text("correct").is_none_or(|text| text == "true")
    }

    /// The figures among the lines of a program's output.
    pub(crate) fn parse(output: &str) -> Self {
        let mut figures = Self::new();
        for line in output.lines() {
            let Some((name, value)) = line.split_once('=') else { continue };
            if !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            {
                figures.set(name, value.trim());
            }
        }
        figures
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.iter().try_for_each(|(name, value)| writeln!(f, "{name}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read() {
        let mut figures = Figures::new();
        figures.set("correct", true);
        figures.number("records_per_s", 1_234_567.89);
        figures.number("cpu_us_per_record", 4.04);
        let text = format!("12 ms CREATED -> RUNNING\n{figures}WARN a=b c\n");
        let read = Figures::parse(&text);
        assert_eq!(read, figures);
        assert_eq!(read.get("records_per_s"), Some(1_234_568.0));
        assert_eq!(read.get("cpu_us_per_record"), Some(4.04));
        assert!(read.correct());
        assert!(!Figures::parse("correct=false").correct());
    }
}
