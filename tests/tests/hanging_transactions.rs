//! Transactions that no coordinator will ever end, as a broker leaves them that stops at the wrong moment: a task that is
//! held back says so, answers nothing wrong, and goes on once an operator has ended it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, time::Duration};

use holdfast_tests::{
    instance::{Instance, InstanceConfig, StateFate},
    inventory::{STORES, check_exactly},
    kafka::{Kafka, KafkaConfig, Names},
    load::{Load, LoadConfig},
    log,
    model::Model,
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

#[test]
fn what_a_broker_forgot_of_committed_transactions_is_ended_without_a_next_one() {
    let kafka = unchecked_broker();
    let names = Names::fresh("forgotten");
    names.create_topics(&kafka, 2);
    let mut instance = InstanceConfig::new(&kafka, &names).set("num_stream_threads", "2").start_ready();
    let (mut load, mut model) = (Load::new(LOAD, 2), Model::default());
    load.write(&kafka, &names, 2_000, &mut model);
    check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);

    // Offsets of transactions that the coordinator holds for complete.
    let (group, items) = (&*names.application_id, &*names.items);
    let mut wire = Wire::connect(&kafka);
    for partition in 0..2 {
        let id = transactional_id(&instance, &names, usize::try_from(partition).unwrap());
        let producer = wire.producer_of(&id).unwrap();
        let offset = wire.stable_offset(group, items, partition).unwrap();
        wire.send_offset_untold(&producer, group, items, partition, offset);
        assert_eq!(wire.stable_offset(group, items, partition), Err(UNSTABLE_OFFSET_COMMIT));
    }
    kafka.kill();
    kafka.start_again();
    // Nothing comes that would have to be committed.
    let mut wire = Wire::connect(&kafka);
    for partition in 0..2 {
        wait::until("a stable offset", LIMIT, || {
            wire.stable_offset(group, items, partition).map_err(|code| format!("code {code}"))
        });
    }
    instance.wait_ready();
    load.write(&kafka, &names, 2_000, &mut model);
    check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());
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
