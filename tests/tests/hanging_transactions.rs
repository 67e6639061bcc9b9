//! Transactions that no coordinator will ever end, as a broker leaves them that stops at the wrong moment: whoever starts
//! over them ends them itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, time::Duration};

use holdfast_tests::{
    instance::{InstanceConfig, StateFate},
    inventory::{STORES, check_exactly},
    kafka::{Kafka, KafkaConfig, Names},
    load::{Load, LoadConfig},
    model::Model,
    producer::Producer,
    wire::Wire,
};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 50, skus: 10, bad_one_in: 0, counting: false };

#[test]
fn an_offset_and_a_changelog_that_hang_are_freed_at_the_start() {
    // With this check a broker refuses what the test needs; what it makes by it, a stop at the wrong moment makes without.
    let properties = [("transaction.partition.verification.enable".to_owned(), "false".to_owned())];
    let kafka = Kafka::start_with(KafkaConfig { properties: properties.into(), ..KafkaConfig::default() });
    let names = Names::fresh("hanging");
    names.create_topics(&kafka, 2);
    let mut instance = InstanceConfig::new(&kafka, &names).start_ready();
    let (producer, mut load, mut model) = (Producer::new(&kafka), Load::new(LOAD, 1), Model::default());
    let mut send = |records: usize, model: &mut Model| {
        for _ in 0..records {
            let item = load.next_item();
            model.apply(&item.value);
            producer.send(&names.items, Some(&item.key), Some(&item.value));
        }
        producer.flush();
    };
    send(2_000, &mut model);
    check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());

    let identity = instance.state_dir().join(&names.application_id).join("process.json");
    let identity: serde_json::Value = serde_json::from_slice(&fs::read(identity).unwrap()).unwrap();
    let process = identity["process_id"].as_str().unwrap();
    let mut wire = Wire::connect(&kafka);
    let lost = wire.init_producer(&format!("{}-{process}-0", names.application_id));
    wire.commit_untold(&lost, &names.application_id, &names.items, 1);
    wire.produce_untold(&lost, &names.changelog(STORES), 0, b"Store_1");
    send(2_000, &mut model);

    instance.start_again(&StateFate::Keep);
    instance.wait_ready();
    check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.log().contains("held back by a transaction"), "it was not held back, and this test shows nothing");
    assert!(instance.terminate().success());
}
