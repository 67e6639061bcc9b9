//! The librdkafka properties that nobody may pass through, with the reason. The one list of them: the engine keeps them from its
//! handles, and whoever reads settings refuses them by it.

/// Why the property cannot be passed through, if it cannot, whatever its value is.
pub fn refused_property(property: &str) -> Option<&'static str> {
    let listed = REFUSED.iter().find(|(name, _)| *name == property);
    let family = || REFUSED_PREFIXES.iter().find(|(prefix, _)| property.starts_with(prefix));
    let pointer = || property.ends_with("_cb") || property == "opaque";
    match listed.or_else(family) {
        Some((_, reason)) => Some(reason),
        None => pointer().then_some("it is a pointer of the C library, not a text"),
    }
}

/// What the engine sets itself, or the group's own connection cannot honour; matched by whole name.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_cannot_pass_has_one_reason() {
        for property in ["group.id", "acks", "sasl.kerberos.keytab", "test.mock.num.brokers", "rebalance_cb", "opaque"]
        {
            assert!(refused_property(property).is_some_and(|reason| !reason.is_empty()), "{property}");
        }
        for property in ["linger.ms", "fetch.min.bytes", "security.protocol", "ssl.ca.location"] {
            assert_eq!(refused_property(property), None, "{property}");
        }
        for (index, (name, _)) in REFUSED.iter().enumerate() {
            assert!(REFUSED[..index].iter().all(|(other, _)| other != name), "{name} stands there twice");
        }
    }
}
