//! Transactions that no coordinator will ever end, as a broker leaves them that stops at the wrong moment: a task that is
//! held back says so, answers nothing wrong, and goes on once an operator has ended it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, time::Duration};

use holdfast_tests::{
    consumer,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::{STORES, check_exactly, wait_rows},
    kafka::{Kafka, KafkaConfig, Names},
    load::{Load, LoadConfig},
    log,
    model::Model,
    tasks::wait_settled,
    wait,
    wire::Wire,
};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 50, skus: 10, bad_one_in: 0, counting: false };

/// The code of a broker that holds an offset back.
const UNSTABLE_OFFSET_COMMIT: i16 = 88;

/// With its check a broker refuses what these tests need; what they make by that, a stop at the wrong moment makes without.
fn unchecked_broker() -> Kafka {
    let properties = [("transaction.partition.verification.enable".to_owned(), "false".to_owned())];
    Kafka::start_with(KafkaConfig { properties: properties.into(), ..KafkaConfig::default() })
}

/// Of a stream thread.
fn transactional_id(instance: &Instance, names: &Names, thread: usize) -> String {
    let identity = instance.state_dir().join(&names.application_id).join("process.json");
    let identity: serde_json::Value = serde_json::from_slice(&fs::read(identity).unwrap()).unwrap();
    format!("{}-{}-{thread}", names.application_id, identity["process_id"].as_str().unwrap())
}

/// Leaves offsets of both threads as a broker does that forgets them: their transactions are complete to the coordinator.
fn forget_offsets(kafka: &Kafka, instance: &Instance, names: &Names) {
    let (group, items) = (&*names.application_id, &*names.items);
    let mut wire = Wire::connect(kafka);
    for (partition, thread) in [(0, 0), (1, 1)] {
        let producer = wire.producer_of(&transactional_id(instance, names, thread)).unwrap();
        let offset = wire.stable_offset(group, items, partition).unwrap();
        wire.send_offset_untold(&producer, group, items, partition, offset);
        assert_eq!(wire.stable_offset(group, items, partition), Err(UNSTABLE_OFFSET_COMMIT));
    }
}

/// An instance that has worked off what there is, and what it came to; the offsets of both its threads are forgotten.
fn with_forgotten_offsets(kafka: &Kafka, names: &Names, seed: u64) -> (Instance, Load, Model) {
    names.create_topics(kafka, 2);
    let mut instance = InstanceConfig::new(kafka, names).set("num_stream_threads", "2").start_ready();
    let (mut load, mut model) = (Load::new(LOAD, seed), Model::default());
    load.write(kafka, names, 2_000, &mut model);
    check_exactly(kafka, names, &instance.rest(), &model, LIMIT);
    forget_offsets(kafka, &instance, names);
    (instance, load, model)
}

#[test]
fn what_a_broker_forgot_of_committed_transactions_is_ended_without_a_next_one() {
    let (kafka, names) = (unchecked_broker(), Names::fresh("forgotten"));
    let (mut instance, mut load, mut model) = with_forgotten_offsets(&kafka, &names, 2);
    kafka.kill();
    kafka.start_again();
    // Nothing comes that would have to be committed.
    let mut wire = Wire::connect(&kafka);
    for partition in 0..2 {
        wait::until("a stable offset", LIMIT, || {
            let offset = wire.stable_offset(&names.application_id, &names.items, partition);
            offset.map_err(|code| format!("code {code}"))
        });
    }
    instance.wait_ready();
    load.write(&kafka, &names, 2_000, &mut model);
    check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());
}

#[test]
fn what_a_broker_forgot_is_ended_by_the_next_life_of_an_instance_that_was_killed_too() {
    let (kafka, names) = (unchecked_broker(), Names::fresh("forgotten"));
    let (mut instance, mut load, mut model) = with_forgotten_offsets(&kafka, &names, 3);
    // And a letter, which only readers of committed transactions do not see yet.
    let mut wire = Wire::connect(&kafka);
    let producer = wire.producer_of(&transactional_id(&instance, &names, 0)).unwrap();
    wire.produce_untold(&producer, &names.dead_letters(), 0, b"letter");
    assert_eq!(consumer::read_committed(&kafka, &names.dead_letters()).len(), 0);

    instance.kill();
    instance.start_again(&StateFate::Keep);
    instance.wait_ready();
    assert_eq!(consumer::read_committed(&kafka, &names.dead_letters()).len(), 1);
    load.write(&kafka, &names, 2_000, &mut model);
    wait_rows(&instance.rest(), &model, LIMIT);
    // Where nothing was forgotten nothing is done.
    assert!(instance.terminate().success());
    instance.start_again(&StateFate::Keep);
    instance.wait_ready();
    assert_eq!(log::count(&instance.log(), &["may have forgotten"]), 0, "{}", instance.log());
    assert!(instance.terminate().success());
}

#[test]
fn what_a_broker_forgot_of_a_killed_instance_is_ended_by_who_evicts_it() {
    let kafka = unchecked_broker();
    let names = Names::fresh("forgotten");
    names.create_topics(&kafka, 2);
    // Nobody waits for its session.
    let config = InstanceConfig::new(&kafka, &names).set("num_stream_threads", "2").set("session_timeout_ms", "45000");
    let (mut lost, mut other) = (config.clone().start_ready(), config.start_ready());
    wait_settled(&mut [&mut lost, &mut other], 4, 0, LIMIT);
    let (mut load, mut model) = (Load::new(LOAD, 4), Model::default());
    load.write(&kafka, &names, 2_000, &mut model);
    check_exactly(&kafka, &names, &other.rest(), &model, LIMIT);

    forget_offsets(&kafka, &lost, &names);
    lost.kill();
    wait_settled(&mut [&mut other], 4, 0, LIMIT);
    load.write(&kafka, &names, 2_000, &mut model);
    check_exactly(&kafka, &names, &other.rest(), &model, LIMIT);
    assert!(other.terminate().success());
}

#[test]
fn a_changelog_that_hangs_is_named_and_waited_for() {
    let kafka = unchecked_broker();
    let names = Names::fresh("hanging");
    names.create_topics(&kafka, 2);
    let mut instance = InstanceConfig::new(&kafka, &names).start_ready();
    let (mut load, mut model) = (Load::new(LOAD, 1), Model::default());
    load.write(&kafka, &names, 2_000, &mut model);
    check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());

    let mut wire = Wire::connect(&kafka);
    let lost = wire.init_producer(&transactional_id(&instance, &names, 0));
    let changelog = names.changelog(STORES);
    let hangs_at = wire.produce_untold(&lost, &changelog, 0, b"Store_1");
    load.write(&kafka, &names, 2_000, &mut model);

    instance.start_again(&StateFate::Keep);
    log::wait_said(&instance, &["kafka-transactions.sh"], 1, LIMIT);
    assert_eq!(instance.rest().fetch("/healthz/ready").status, 503, "rows that are held back must not look complete");
    let offset = hangs_at.to_string();
    let abort = ["abort", "--topic", &changelog, "--partition", "0", "--start-offset", &offset];
    kafka.tool("org.apache.kafka.tools.TransactionsCommand", &abort);
    instance.wait_ready();
    check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());
}
