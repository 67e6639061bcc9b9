//! What can be wrong with a setting: each error says what was expected, what came, and from where.

use std::{fmt, path::PathBuf};

use super::Origin;

/// One setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// Nobody knows this key.
    #[error("{origin}: there is no setting `{key}`{}", hint(.nearest))]
    UnknownKey {
        /// The key as written.
        key: String,
        /// Where it was written.
        origin: Origin,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// The value does not parse, or is out of bounds.
    #[error("{origin}: `{key}` must be {expected}, got {got:?}")]
    Value {
        /// The key.
        key: String,
        /// Where the value was written.
        origin: Origin,
        /// What would be right, in words.
        expected: String,
        /// What was written; a secret shows as `****`.
        got: String,
    },
    /// Two settings contradict each other.
    #[error("{0}")]
    Conflict(String),
    /// A `[kafka]` property that would break what the service promises.
    #[error("{origin}: `kafka.{property}` cannot be set: {reason}")]
    RefusedProperty {
        /// The librdkafka property.
        property: String,
        /// Where it was written.
        origin: Origin,
        /// Why not, and what to use.
        reason: String,
    },
    /// The file is not there or cannot be read.
    #[error("cannot read the settings file {}: {reason}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{}: not TOML: {reason}", path.display())]
    Syntax {
        /// Its path.
        path: PathBuf,
        /// What is wrong, with line and column.
        reason: String,
    },
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default()
}

/// Everything that is wrong with the settings, in the order found; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingErrors(pub Vec<SettingError>);

impl fmt::Display for SettingErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingErrors {}

impl From<SettingError> for SettingErrors {
    fn from(error: SettingError) -> Self {
        Self(vec![error])
    }
}

/// The candidate that is at most a third of its letters away from `word`.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .map(|(_, candidate)| candidate.to_owned())
}

/// Levenshtein's distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
