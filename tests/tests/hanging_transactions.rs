//! Transactions that no coordinator will ever end, as a broker leaves them that stops at the wrong moment: a task that is
//! held back says so, answers nothing wrong, and goes on once an operator has ended it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, time::Duration};

use holdfast_tests::{
    instance::{InstanceConfig, StateFate},
    inventory::{STORES, check_exactly},
    kafka::{Kafka, KafkaConfig, Names},
    load::{Load, LoadConfig},
    log,
    model::Model,
    wire::Wire,
};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 50, skus: 10, bad_one_in: 0, counting: false };

#[test]
fn a_changelog_that_hangs_is_named_and_waited_for() {
    // With this check a broker refuses what the test needs; what it makes by it, a stop at the wrong moment makes without.
    let properties = [("transaction.partition.verification.enable".to_owned(), "false".to_owned())];
    let kafka = Kafka::start_with(KafkaConfig { properties: properties.into(), ..KafkaConfig::default() });
    let names = Names::fresh("hanging");
    names.create_topics(&kafka, 2);
    let mut instance = InstanceConfig::new(&kafka, &names).start_ready();
    let (mut load, mut model) = (Load::new(LOAD, 1), Model::default());
    load.write(&kafka, &names, 2_000, &mut model);
    check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());

    let identity = instance.state_dir().join(&names.application_id).join("process.json");
    let identity: serde_json::Value = serde_json::from_slice(&fs::read(identity).unwrap()).unwrap();
    let process = identity["process_id"].as_str().unwrap();
    let mut wire = Wire::connect(&kafka);
    let lost = wire.init_producer(&format!("{}-{process}-0", names.application_id));
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
