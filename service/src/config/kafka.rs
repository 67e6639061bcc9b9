//! The `[kafka]` table: librdkafka properties that pass through, and those that must not.

use std::collections::BTreeMap;

use holdfast_stream::kafka::refused_property;

use super::{Origin, SettingError, sources::Sourced};

/// librdkafka properties of the user's choice, for every connection: data and group.
///
/// The group's own client takes from it what it knows: `security.protocol`, `sasl.*`, `ssl.*`, and what concerns sockets and
/// the back-off of reconnects.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaProperties {
    properties: BTreeMap<String, Sourced>,
}

impl KafkaProperties {
    /// The value of a property.
    pub fn get(&self, property: &str) -> Option<&str> {
        self.properties.get(property).map(|(value, _)| value.as_str())
    }

    /// All of them, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.properties.iter().map(|(name, (value, _))| (name.as_str(), value.as_str()))
    }

    /// All of them as an owned map.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    pub(crate) fn origins(&self) -> impl Iterator<Item = (&str, &str, &Origin)> {
        self.properties.iter().map(|(name, (value, origin))| (name.as_str(), value.as_str(), origin))
    }

    /// Takes what may pass and reports what may not.
    pub(crate) fn check(properties: &BTreeMap<String, Sourced>, errors: &mut Vec<SettingError>) -> Self {
        let mut kept = BTreeMap::new();
        for (property, (value, origin)) in properties {
            match refusal(property, value) {
                Some(reason) => errors.push(SettingError::RefusedProperty {
                    property: property.clone(),
                    origin: origin.clone(),
                    reason,
                }),
                None => {
                    kept.insert(property.clone(), (value.clone(), origin.clone()));
                }
            }
        }
        Self { properties: kept }
    }
}

impl std::fmt::Debug for KafkaProperties {
    /// Masks secrets: settings end up in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, value)| (name, if is_secret(name) { "****" } else { value })))
            .finish()
    }
}

/// Whether the value of a property must not be shown.
pub(crate) fn is_secret(property: &str) -> bool {
    ["password", "secret", "key.pem", "oauthbearer.config", "jaas"].iter().any(|part| property.contains(part))
}

/// Why a property cannot pass, or `None` when it can.
fn refusal(property: &str, value: &str) -> Option<String> {
    if let Some(reason) = refused_property(property) {
        return Some(reason.to_owned());
    }
    match property {
        "security.protocol" => one_of(value, &["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]),
        "sasl.mechanism" | "sasl.mechanisms" => one_of(value, &["plain", "scram-sha-256", "scram-sha-512"]),
        _ => None,
    }
}

fn one_of(value: &str, allowed: &[&str]) -> Option<String> {
    let known = allowed.contains(&value.to_ascii_lowercase().as_str());
    (!known).then(|| {
        format!("both connections (data and group) can do {}, got {value:?}", allowed.join(", ").to_uppercase())
    })
}
