//! The `[kafka]` table: librdkafka properties that pass through, and those that must not.

use std::collections::BTreeMap;

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

/// Properties that the engine sets itself, with the reason; matched by whole name.
const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", "use the setting `bootstrap_servers`"),
    ("metadata.broker.list", "use the setting `bootstrap_servers`"),
    ("client.id", "it is the identity of the instance, by which the group tells members apart"),
    ("group.id", "the group is the application: use the setting `application_id`"),
    ("group.instance.id", "membership is managed by the service"),
    ("group.protocol", "membership is managed by the service over the classic protocol"),
    ("group.remote.assignor", "membership is managed by the service"),
    ("partition.assignment.strategy", "tasks are assigned by the service's own assignor"),
    ("session.timeout.ms", "use the setting `session_timeout_ms`"),
    ("heartbeat.interval.ms", "use the setting `heartbeat_interval_ms`"),
    ("max.poll.interval.ms", "membership does not depend on polls here"),
    ("enable.auto.commit", "offsets are committed together with state, or counts would be lost or doubled"),
    ("auto.commit.interval.ms", "use the setting `commit_interval_ms`"),
    ("enable.auto.offset.store", "offsets are committed together with state"),
    ("auto.offset.reset", "a lost offset must be seen, not skipped: the engine decides where a task starts"),
    ("isolation.level", "restores and exactly-once input must read committed records only"),
    ("enable.idempotence", "retries would double or reorder changelog records without it"),
    ("transactional.id", "it fences the predecessors of a task"),
    ("transaction.timeout.ms", "use the setting `transaction_timeout_ms`"),
    ("acks", "a commit is durable only when all in-sync replicas have it"),
    ("request.required.acks", "a commit is durable only when all in-sync replicas have it"),
    ("max.in.flight", "more than 5 would reorder changelog records"),
    ("max.in.flight.requests.per.connection", "more than 5 would reorder changelog records"),
    ("retries", "a produce request is retried until its commit fails as a whole"),
    ("message.send.max.retries", "a produce request is retried until its commit fails as a whole"),
    ("message.timeout.ms", "it must stay below the session timeout, so that a zombie's records die with its session"),
    ("delivery.timeout.ms", "it must stay below the session timeout, so that a zombie's records die with its session"),
    ("partitioner", "keys must land where Kafka's default partitioner (murmur2) and every look-up expect them"),
    ("queuing.strategy", "records of a partition must keep their order"),
    ("enable.gapless.guarantee", "the engine decides what a failed record means"),
    ("delivery.report.only.error", "the engine depends on its own choice"),
    ("enable.partition.eof", "the engine depends on its own choice"),
    ("plugin.library.paths", "it would load foreign code into the process"),
    ("ssl.keystore.location", "the group connection reads PEM: use ssl.certificate.location and ssl.key.location"),
    ("ssl.keystore.password", "the group connection reads PEM: use ssl.certificate.location and ssl.key.location"),
    ("ssl.truststore.location", "it is a property of Java clients: use ssl.ca.location with a PEM file"),
    ("ssl.truststore.password", "it is a property of Java clients: use ssl.ca.location with a PEM file"),
    ("sasl.jaas.config", "it is a property of Java clients: use sasl.username and sasl.password"),
    ("ssl.crl.location", "the group connection cannot honour it"),
    ("ssl.cipher.suites", "the group connection cannot honour it"),
    ("ssl.curves.list", "the group connection cannot honour it"),
    ("ssl.sigalgs.list", "the group connection cannot honour it"),
    ("ssl.providers", "the group connection cannot honour it"),
];

/// Families of properties that cannot pass, with the reason.
const REFUSED_PREFIXES: &[(&str, &str)] = &[
    ("ssl.engine.", "the group connection cannot honour it"),
    ("sasl.kerberos.", "GSSAPI is not available on the group connection: use PLAIN or SCRAM"),
    ("sasl.oauthbearer.", "OAUTHBEARER is not available on the group connection: use PLAIN or SCRAM"),
    ("test.", "it replaces the broker by a mock"),
];

/// Why a property cannot pass, or `None` when it can.
fn refusal(property: &str, value: &str) -> Option<String> {
    let listed = REFUSED.iter().find(|(name, _)| *name == property).map(|(_, reason)| *reason);
    let family = || REFUSED_PREFIXES.iter().find(|(prefix, _)| property.starts_with(prefix)).map(|(_, reason)| *reason);
    if let Some(reason) = listed.or_else(family) {
        return Some(reason.to_owned());
    }
    if property.ends_with("_cb") || property == "opaque" {
        return Some("it is a pointer of the C library, not a text".to_owned());
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
