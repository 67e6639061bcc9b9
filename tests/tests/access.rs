//! Permissions that are missing for one topic, and granted later; producers that somebody outside fences.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, time::Duration};

use holdfast_tests::{
    chance, consumer,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::{STORES, Tables, check_exactly, wait_rows},
    kafka::{Kafka, KafkaConfig, Names},
    load::{Load, LoadConfig},
    log,
    model::Model,
    traffic::Traffic,
    wait,
};
use rdkafka::producer::{BaseProducer, Producer as _};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 20, skus: 5, bad_one_in: 0, counting: false };
const RECORDS: u64 = 300;
const ACLS: &str = "org.apache.kafka.tools.AclCommand";

/// A broker that asks who one is on its second listener, and lets the first one's users (the harness) do everything.
fn broker() -> Kafka {
    let properties = [
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("super.users", "User:ANONYMOUS"),
        ("allow.everyone.if.no.acl.found", "true"),
        ("listener.name.secure.sasl.enabled.mechanisms", "SCRAM-SHA-256"),
        (
            "listener.name.secure.scram-sha-256.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        ),
    ];
    Kafka::start_with(KafkaConfig {
        properties: properties
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect::<BTreeMap<_, _>>(),
        secure: Some("SASL_PLAINTEXT".to_owned()),
        scram: vec!["SCRAM-SHA-256=[name=alice,password=alice-secret]".to_owned()],
        ..KafkaConfig::default()
    })
}

fn config(kafka: &Kafka, names: &Names, guarantee: &str) -> InstanceConfig {
    let file = "[kafka]\n\"security.protocol\" = \"SASL_PLAINTEXT\"\n\"sasl.mechanism\" = \"SCRAM-SHA-256\"\n\
                \"sasl.username\" = \"alice\"\n\"sasl.password\" = \"alice-secret\"\n";
    InstanceConfig::new(kafka, names)
        .set("bootstrap_servers", kafka.secure_bootstrap())
        .set("processing_guarantee", guarantee)
        .file(file)
}

/// Takes one operation on a topic away from alice; everything else stays allowed.
fn deny(kafka: &Kafka, topic: &str, operation: &str) {
    let acls = |args: &[&str]| kafka.tool("org.apache.kafka.tools.AclCommand", args);
    acls(&["--add", "--allow-principal", "User:alice", "--operation", "All", "--topic", topic]);
    acls(&["--add", "--deny-principal", "User:alice", "--operation", operation, "--topic", topic]);
}

fn grant(kafka: &Kafka, topic: &str, operation: &str) {
    let args = ["--remove", "--force", "--deny-principal", "User:alice", "--operation", operation, "--topic", topic];
    kafka.tool("org.apache.kafka.tools.AclCommand", &args);
}

#[test]
fn a_missing_permission_is_said_waited_for_and_leaves_reads_alone() {
    let kafka = broker();
    for &guarantee in chance::guarantees() {
        let names = Names::fresh("denied");
        names.create_topics(&kafka, 2);
        let mut instance = config(&kafka, &names, guarantee).set("num_stream_threads", "2").start_ready();
        let (rest, mut load, mut model) = (instance.rest(), Load::new(LOAD, 1), Model::default());
        load.write(&kafka, &names, RECORDS, &mut model);
        wait_rows(&rest, &model, LIMIT);
        consumer::wait_committed(&kafka, &names.application_id, &names.items, LIMIT);

        let faults = [
            (names.items.clone(), "Read", "Read permission"),
            (names.changelog(STORES), "Write", "Write permission"),
            (names.store_output.clone(), "Write", "Write permission"),
        ];
        for (topic, operation, words) in faults {
            let before = Tables::of_model(&model);
            let told = log::count(&instance.log(), &[&topic, words]);
            deny(&kafka, &topic, operation);
            load.write(&kafka, &names, RECORDS, &mut model);
            log::wait_said(&instance, &[&topic, words], told + 1, LIMIT);
            for _ in 0..20 {
                assert_eq!(Tables::of_rest(&rest), before, "{guarantee}: rows up to the last commit");
            }
            // One line for each partition that is read, or for each thread whose commits wait.
            let log = instance.log();
            assert!(log::count(&log, &[&topic, words]) <= told + 2, "{guarantee}:\n{log}");
            grant(&kafka, &topic, operation);
            wait_rows(&rest, &model, LIMIT);
        }
        check_exactly(&kafka, &names, &rest, &model, LIMIT);
        assert!(instance.terminate().success());
    }
}

/// May be asked while it waits: alive, and not ready.
#[track_caller]
fn assert_waits(instance: &mut Instance, words: &[&str]) {
    log::wait_said_once(instance, words, LIMIT);
    let rest = instance.rest();
    assert_eq!(rest.fetch("/healthz/live").status, 200, "{words:?}");
    assert_eq!(rest.fetch("/healthz/ready").status, 503, "{words:?}");
    assert!(instance.runs());
}

#[test]
fn a_permission_that_is_missing_at_the_start_is_said_and_waited_for() {
    let kafka = broker();
    let names = Names::fresh("denied-start");
    // Not as many partitions as a topic gets that does not exist.
    names.create_topics(&kafka, 3);
    let (mut load, mut model) = (Load::new(LoadConfig { bad_one_in: 20, ..LOAD }, 2), Model::default());
    load.write(&kafka, &names, RECORDS, &mut model);

    // One after the other, in one life: nothing has to be restarted.
    let changelog = names.changelog(STORES);
    deny(&kafka, &names.items, "Describe");
    deny(&kafka, &changelog, "Create");
    // Whoever may create topics in the whole cluster may create this one.
    kafka.tool(ACLS, &["--add", "--allow-principal", "User:alice", "--operation", "All", "--cluster"]);
    kafka.tool(ACLS, &["--add", "--deny-principal", "User:alice", "--operation", "Create", "--cluster"]);
    let mut instance = config(&kafka, &names, "exactly_once").start();
    assert_waits(&mut instance, &[&names.items, "Describe permission"]);
    grant(&kafka, &names.items, "Describe");
    assert_waits(&mut instance, &[&changelog, "Create permission"]);
    grant(&kafka, &changelog, "Create");
    instance.wait_ready();
    check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);
    assert_eq!(kafka.partitions(&changelog), Some(3), "as many as the input has");
    assert!(instance.terminate().success());

    // What is read at a start over no state.
    deny(&kafka, &changelog, "Read");
    instance.start_again(&StateFate::Remove);
    log::wait_said(&instance, &[&changelog, "Read permission"], 1, LIMIT);
    let rest = instance.rest();
    assert_eq!(rest.fetch("/healthz/live").status, 200);
    assert_eq!(rest.fetch("/healthz/ready").status, 503, "rows that nobody may restore");
    grant(&kafka, &changelog, "Read");
    instance.wait_ready();
    check_exactly(&kafka, &names, &rest, &model, LIMIT);
    assert!(instance.terminate().success());

    // What stands between the tables, and refused records: rows up to the last commit are served, so that it is ready.
    for (topic, operation, words) in
        [(names.repartition(&kafka), "Read", "Read permission"), (names.dead_letters(), "Write", "Write permission")]
    {
        deny(&kafka, &topic, operation);
        instance.start_again(&StateFate::Keep);
        instance.wait_ready();
        let (rest, before) = (instance.rest(), Tables::of_model(&model).stores);
        load.write(&kafka, &names, RECORDS, &mut model);
        log::wait_said(&instance, &[&topic, words], 1, LIMIT);
        assert_eq!(rest.fetch("/healthz/live").status, 200);
        assert!(Tables::of_rest(&rest).stores.keys().eq(before.keys()), "{topic}: rows are served");
        grant(&kafka, &topic, operation);
        check_exactly(&kafka, &names, &rest, &model, LIMIT);
        assert!(log::count(&instance.log(), &[&topic, words]) <= 3, "once for each partition:\n{}", instance.log());
        assert!(instance.terminate().success());
    }
}

/// Whoever takes an instance's transactional id (an operator with Kafka's tools, a cloned process) aborts its transaction.
#[test]
fn transactions_aborted_from_outside_are_gone_through_again() {
    let kafka = Kafka::shared();
    let names = Names::fresh("aborted");
    names.create_topics(kafka, 2);
    let mut instance = InstanceConfig::new(kafka, &names).set("num_stream_threads", "1").start_ready();
    let rest = instance.rest();
    let traffic = Traffic::start(kafka, &names.items, LOAD, 7, 500.0);
    let commits = || rest.metric("holdfast_stream_commits_total", &[("outcome", "committed")]).unwrap_or(0.0);
    // Whoever asks for the id in the middle of a recovery takes nothing from anybody.
    let settle = || {
        let settled = commits() + 5.0;
        wait::until_true("more commits", LIMIT, || commits() >= settled);
    };
    let transactional_id = {
        let process = std::fs::read(instance.state_dir().join(&names.application_id).join("process.json")).unwrap();
        let process: serde_json::Value = serde_json::from_slice(&process).unwrap();
        process["transactional_ids"][0].as_str().unwrap().to_owned()
    };
    for _ in 0..chance::repetitions(5) {
        settle();
        let lost = ["a producer is lost"];
        let before = log::count(&instance.log(), &lost);
        let thief: BaseProducer = kafka.client().set("transactional.id", &transactional_id).create().unwrap();
        thief.init_transactions(Duration::from_secs(20)).unwrap();
        log::wait_said(&instance, &lost, before + 1, LIMIT);
        assert_eq!(rest.fetch(&format!("/v1/stores/{STORES}/keys?limit=1&consistency=any")).status, 200);
    }
    settle();
    let model = traffic.finish();
    check_exactly(kafka, &names, &rest, &model, LIMIT);
    assert!(instance.terminate().success());
}
