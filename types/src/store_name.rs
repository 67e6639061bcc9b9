//! A store's name.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use serde::{Deserialize, Serialize};

/// The name of a state store, unique in a topology: `StoreInventoryStock`, `KSTREAM-AGGREGATE-STATE-STORE-0000000003`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreName(Arc<str>);

impl StoreName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether Kafka accepts `<application.id>-<name>-changelog`: letters, digits, `.`, `_`, `-`, 1 to 200 characters.
    pub fn is_legal(text: &str) -> bool {
        (1..=200).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && text != "."
            && text != ".."
    }
}

impl<T: Into<Arc<str>>> From<T> for StoreName {
    fn from(name: T) -> Self {
        Self(name.into())
    }
}

impl Deref for StoreName {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for StoreName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
