//! TLS and SASL/SCRAM on both of an instance's connections: data (librdkafka) and group (its own).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, path::Path, time::Duration};

use holdfast_tests::{
    certificates::Certificates,
    instance::InstanceConfig,
    inventory::check_exactly,
    kafka::{Kafka, KafkaConfig, Names},
    load::{Load, LoadConfig},
    model::Model,
    process::code,
};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 20, skus: 5, bad_one_in: 20, counting: false };

fn broker(certificates: &Certificates) -> Kafka {
    let properties = [
        ("listener.name.secure.ssl.keystore.type", "PEM".to_owned()),
        ("listener.name.secure.ssl.keystore.location", certificates.server.display().to_string()),
        ("listener.name.secure.sasl.enabled.mechanisms", "SCRAM-SHA-256,SCRAM-SHA-512".to_owned()),
        (
            "listener.name.secure.scram-sha-256.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;".to_owned(),
        ),
        (
            "listener.name.secure.scram-sha-512.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;".to_owned(),
        ),
    ];
    Kafka::start_with(KafkaConfig {
        properties: properties.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<BTreeMap<_, _>>(),
        secure: Some("SASL_SSL".to_owned()),
        scram: ["SCRAM-SHA-256", "SCRAM-SHA-512"].map(|m| format!("{m}=[name=alice,password=alice-secret]")).to_vec(),
        ..KafkaConfig::default()
    })
}

fn config(kafka: &Kafka, names: &Names, authority: &Path, mechanism: &str, password: &str) -> InstanceConfig {
    let file = format!(
        "[kafka]\n\"security.protocol\" = \"SASL_SSL\"\n\"ssl.ca.location\" = \"{}\"\n\"sasl.mechanism\" = \"{mechanism}\"\n\
         \"sasl.username\" = \"alice\"\n\"sasl.password\" = \"{password}\"\n",
        authority.display()
    );
    InstanceConfig::new(kafka, names).set("bootstrap_servers", kafka.secure_bootstrap()).file(file)
}

#[test]
fn records_and_group_go_through_tls_and_scram() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(directory.path());
    let kafka = broker(&certificates);
    for (mechanism, guarantee) in [("SCRAM-SHA-256", "exactly_once"), ("SCRAM-SHA-512", "at_least_once")] {
        let names = Names::fresh("secure");
        names.create_topics(&kafka, 2);
        let config = config(&kafka, &names, &certificates.authority, mechanism, "alice-secret");
        let mut instance = config.set("processing_guarantee", guarantee).start_ready();
        let mut model = Model::default();
        Load::new(LOAD, 3).write(&kafka, &names, 500, &mut model);
        check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);
        assert!(!instance.log().contains("alice-secret"), "a password in the log");
        assert!(instance.terminate().success());
    }

    // A wrong password is said, and never ends in a ready instance.
    let names = Names::fresh("wrong-password");
    names.create_topics(&kafka, 1);
    let mut instance = config(&kafka, &names, &certificates.authority, "SCRAM-SHA-256", "wrong").start();
    instance.wait_listening();
    holdfast_tests::wait::until("the log to say that authentication failed", LIMIT, || {
        let log = instance.log().to_lowercase();
        if log.contains("authenticat") { Ok(()) } else { Err("it does not") }
    });
    assert_eq!(instance.rest().fetch("/healthz/ready").status, 503);
    assert!(instance.terminate().success());
}

#[test]
fn a_mechanism_that_the_group_connection_cannot_honour_is_refused_at_the_start() {
    let kafka = Kafka::shared();
    let names = Names::fresh("gssapi");
    let file = "[kafka]\n\"security.protocol\" = \"SASL_PLAINTEXT\"\n\"sasl.mechanism\" = \"GSSAPI\"\n";
    let mut instance = InstanceConfig::new(kafka, &names).file(file).start();
    let (status, log) = instance.wait_for_exit();
    assert!(code(status) > 0, "ended with {status}");
    assert!(log.contains("GSSAPI"), "no line names GSSAPI:\n{log}");
}
