//! Settings that a service declares for itself, such as the names of its topics.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::Origin;

/// A setting that a topology declared by asking for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainSetting {
    /// Key in the file; environment variable and flag are made from it, as for any setting.
    pub key: String,
    /// Default as text.
    pub default: String,
    /// What it does, one sentence.
    pub help: String,
}

/// What a topology reads its own settings from.
///
/// Reading declares: a setting exists, with flag, environment variable and file key, because the topology asks for it. The
/// topology is therefore built once with defaults to learn what it asks for; it must ask for the same settings every time.
///
/// ```
/// # use holdfast::config::DomainSettings;
/// let settings = DomainSettings::default();
/// assert_eq!(&*settings.text("items_topic", "items", "Topic of item transactions"), "items");
/// ```
#[derive(Debug, Default)]
pub struct DomainSettings {
    values: BTreeMap<String, (String, Origin)>,
    declared: Mutex<Vec<DomainSetting>>,
}

impl DomainSettings {
    /// Settings with these values; keys without one have their defaults.
    pub fn with<K: Into<String>, V: Into<String>>(values: impl IntoIterator<Item = (K, V)>) -> Self {
        let derived = || Origin::Derived("given by the program".to_owned());
        let values = values.into_iter().map(|(key, value)| (key.into(), (value.into(), derived()))).collect();
        Self { values, declared: Mutex::default() }
    }

    pub(crate) fn sourced(values: BTreeMap<String, (String, Origin)>) -> Self {
        Self { values, declared: Mutex::default() }
    }

    /// The text of setting `key`; declares it with its default and its help.
    pub fn text(&self, key: &str, default: &str, help: &str) -> Arc<str> {
        let mut declared = self.declared.lock();
        if !declared.iter().any(|setting| setting.key == key) {
            declared.push(DomainSetting { key: key.to_owned(), default: default.to_owned(), help: help.to_owned() });
        }
        self.values.get(key).map_or(default, |(value, _)| value).into()
    }

    /// What has been asked for so far, in order.
    pub fn declared(&self) -> Vec<DomainSetting> {
        self.declared.lock().clone()
    }

    /// Every value that some source named, with its origin.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str, &Origin)> {
        self.values.iter().map(|(key, (value, origin))| (key.as_str(), value.as_str(), origin))
    }
}

impl Clone for DomainSettings {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), declared: Mutex::new(self.declared.lock().clone()) }
    }
}
