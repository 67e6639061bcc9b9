//! Permissions that are missing for one topic, and granted later; producers that somebody outside fences.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, time::Duration};

use holdfast_tests::{
    chance, consumer,
    instance::{Instance, InstanceConfig},
    inventory::{STORES, Tables, check_exactly},
    kafka::{Kafka, KafkaConfig, Names},
    load::{Load, LoadConfig},
    model::Model,
    producer::Producer,
    rest::Rest,
    traffic::Traffic,
    wait,
};
use rdkafka::producer::{BaseProducer, Producer as _};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 20, skus: 5, bad_one_in: 0, counting: false };
const RECORDS: u64 = 300;

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

fn write(kafka: &Kafka, names: &Names, model: &mut Model, seed: u64) {
    let (producer, mut load) = (Producer::new(kafka), Load::new(LOAD, seed));
    for _ in 0..RECORDS {
        let item = load.next_item();
        model.apply(&item.value);
        producer.send(&names.items, Some(&item.key), Some(&item.value));
    }
    producer.flush();
}

#[track_caller]
fn wait_rows(rest: &Rest, model: &Model) {
    let expected = Tables::of_model(model);
    wait::until("the rows to be the model's", LIMIT, || {
        Tables::of_rest(rest).difference(&expected).map_or(Ok(()), Err)
    });
}

fn said(instance: &Instance, words: &[&str]) -> usize {
    instance.log().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

#[test]
fn a_missing_permission_is_said_waited_for_and_leaves_reads_alone() {
    let kafka = broker();
    for &guarantee in chance::guarantees() {
        let names = Names::fresh("denied");
        names.create_topics(&kafka, 2);
        let mut instance = config(&kafka, &names, guarantee).set("num_stream_threads", "2").start_ready();
        let (rest, mut model) = (instance.rest(), Model::default());
        write(&kafka, &names, &mut model, 1);
        wait_rows(&rest, &model);
        consumer::wait_committed(&kafka, &names.application_id, &names.items, LIMIT);

        let faults = [
            (names.items.clone(), "Read", "Read permission"),
            (names.changelog(STORES), "Write", "Write permission"),
            (names.store_output.clone(), "Write", "Write permission"),
        ];
        for (seed, (topic, operation, words)) in (2..).zip(faults) {
            let before = Tables::of_model(&model);
            let told = said(&instance, &[&topic, words]);
            deny(&kafka, &topic, operation);
            write(&kafka, &names, &mut model, seed);
            wait::until(format!("{guarantee}: a line about {operation} on {topic}"), LIMIT, || {
                if said(&instance, &[&topic, words]) > told { Ok(()) } else { Err(instance.log()) }
            });
            for _ in 0..20 {
                assert_eq!(Tables::of_rest(&rest), before, "{guarantee}: rows up to the last commit");
            }
            // One line for each partition that is read, or for each thread whose commits wait.
            assert!(said(&instance, &[&topic, words]) <= told + 2, "{}", instance.log());
            grant(&kafka, &topic, operation);
            wait_rows(&rest, &model);
        }
        check_exactly(&kafka, &names, &rest, &model, LIMIT);
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
    for abort in 1..=chance::repetitions(5) {
        settle();
        let fenced = || said(&instance, &["a producer is lost"]);
        let before = fenced();
        let thief: BaseProducer = kafka.client().set("transactional.id", &transactional_id).create().unwrap();
        thief.init_transactions(Duration::from_secs(20)).unwrap();
        wait::until(format!("abort {abort} to be noticed"), LIMIT, || {
            if fenced() > before { Ok(()) } else { Err("no line about a lost producer") }
        });
        assert_eq!(rest.fetch(&format!("/v1/stores/{STORES}/keys?limit=1&consistency=any")).status, 200);
    }
    settle();
    let model = traffic.finish();
    check_exactly(kafka, &names, &rest, &model, LIMIT);
    assert!(instance.terminate().success());
}
