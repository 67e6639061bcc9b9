//! Topics that are deleted, created again, or given more partitions under a running instance.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use holdfast_tests::{
    chance, consumer,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::{ITEMS, STORES, Tables, check_at_least, check_exactly, wait_rows},
    kafka::{Kafka, Names},
    load::{Load, LoadConfig},
    log,
    model::Model,
    process::code,
    rest::{self, Rest},
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Restocks only, so that a record lost and one counted twice never cancel each other out.
const LOAD: LoadConfig = LoadConfig { stores: 20, skus: 5, bad_one_in: 0, counting: true };
const RECORDS: u64 = 500;

/// An inventory that has committed its first records, and what its rows must come to.
struct Inventory {
    kafka: &'static Kafka,
    names: Names,
    instance: Instance,
    rest: Rest,
    load: Load,
    model: Model,
}

impl Inventory {
    fn start(test: &str, settings: &[(&str, &str)]) -> Self {
        let (kafka, names) = (Kafka::shared(), Names::fresh(test));
        names.create_topics(kafka, 2);
        let config = InstanceConfig::new(kafka, &names);
        let config = settings.iter().fold(config, |config, (key, value)| config.set(key, *value));
        let mut instance = config.start_ready();
        let (rest, load, model) = (instance.rest(), Load::new(LOAD, 1), Model::default());
        let mut inventory = Self { kafka, names, instance, rest, load, model };
        inventory.write(RECORDS);
        inventory.wait_rows();
        inventory.wait_committed();
        inventory
    }

    fn write(&mut self, records: u64) {
        self.load.write(self.kafka, &self.names, records, &mut self.model);
    }

    #[track_caller]
    fn wait_rows(&self) {
        wait_rows(&self.rest, &self.model, LIMIT);
    }

    #[track_caller]
    fn wait_committed(&self) {
        consumer::wait_committed(self.kafka, &self.names.application_id, &self.names.items, LIMIT);
    }

    #[track_caller]
    fn wait_said_once(&self, words: &[&str]) {
        log::wait_said_once(&self.instance, words, LIMIT);
    }

    #[track_caller]
    fn start_again(&mut self) {
        self.instance.start_again(&StateFate::Keep);
        self.instance.wait_ready();
        self.rest = self.instance.rest();
    }

    #[track_caller]
    fn check_exactly(&self) {
        check_exactly(self.kafka, &self.names, &self.rest, &self.model, LIMIT);
    }

    /// All rows, however old: what an instance answers that does not process any more.
    #[track_caller]
    fn check_rows_at_any_age(&self) {
        let value = |store: &str, key: &str| {
            let path = format!("/v1/stores/{store}/keys/{key}?consistency=any");
            self.rest.fetch(&path).expect_status(200).json()["value"].clone()
        };
        for (store, stock) in &self.model.stores {
            assert_eq!(&rest::stock(&value(STORES, store)), stock, "{store}");
        }
        for (item, quantity) in &self.model.items {
            assert_eq!(value(ITEMS, item)["currentStock"], *quantity, "{item}");
        }
    }
}

#[test]
fn a_deleted_input_is_waited_for_and_read_anew_when_it_is_back() {
    for &guarantee in chance::guarantees() {
        let mut inventory = Inventory::start("input-gone", &[("processing_guarantee", guarantee)]);
        let (kafka, items) = (inventory.kafka, inventory.names.items.clone());

        kafka.delete_topics(&[&items]);
        inventory.wait_said_once(&[&items, "was deleted", "wait"]);
        let rows = Tables::of_rest(&inventory.rest);
        assert_eq!(rows, Tables::of_model(&inventory.model), "{guarantee}: default reads go on");
        inventory.rest.fetch("/healthz/ready").expect_status(200);

        // More records than the old topic had, so that no offset out of range tells the instance.
        kafka.create_topic(&items, 2, &[]);
        inventory.write(2 * RECORDS);
        inventory.wait_said_once(&[&items, "created again", "offset_reset"]);
        inventory.wait_rows();
        inventory.write(10);
        inventory.wait_rows();
        inventory.wait_committed();
        assert!(inventory.instance.terminate().success());

        // Deleted and created again while nobody looked: the broker forgot the offsets with the topic.
        kafka.delete_topics(&[&items]);
        kafka.create_topic(&items, 2, &[]);
        inventory.write(RECORDS);
        inventory.start_again();
        inventory.check_exactly();
        assert!(inventory.instance.terminate().success());
    }
}

#[test]
fn a_deleted_output_holds_commits_back_until_it_is_there_again() {
    for &guarantee in chance::guarantees() {
        // Each stream thread says for itself that its commits wait.
        let settings = [("processing_guarantee", guarantee), ("num_stream_threads", "1")];
        let mut inventory = Inventory::start("output-gone", &settings);
        let (kafka, output) = (inventory.kafka, inventory.names.store_output.clone());
        let before = Tables::of_model(&inventory.model);

        kafka.delete_topics(&[&output]);
        inventory.wait_said_once(&[&output, "was deleted", "commits"]);
        inventory.write(RECORDS);
        inventory.wait_said_once(&["a commit waits", &output]);
        assert_eq!(Tables::of_rest(&inventory.rest), before, "{guarantee}: rows up to the last commit");

        kafka.create_topic(&output, 1, &[("cleanup.policy", "compact")]);
        let Inventory { names, rest, model, .. } = &inventory;
        if guarantee == "at_least_once" {
            // What an attempt wrote before it failed is written again.
            check_at_least(kafka, names, rest, model, LIMIT);
            assert!(inventory.instance.terminate().success());
            continue;
        }
        inventory.wait_rows();
        // Rows and changelogs are whole; the output holds what was written since.
        let changelogs = Tables::of_topics(kafka, &names.changelog(STORES), &names.changelog(ITEMS));
        assert_eq!(changelogs.difference(&Tables::of_model(model)), None, "the changelogs");
        let outputs = Tables::of_topics(kafka, &output, &names.item_output);
        for (store, stock) in outputs.stores {
            assert_eq!(model.stores[&store], stock, "output of {store}");
        }
        assert_eq!(outputs.items, model.items, "the other output");
        assert!(inventory.instance.terminate().success());
    }
}

#[test]
fn a_lost_changelog_halts_processing_and_is_not_taken_for_an_empty_one() {
    let mut inventory = Inventory::start("changelog-gone", &[]);
    let (kafka, changelog) = (inventory.kafka, inventory.names.changelog(STORES));

    kafka.delete_topics(&[&changelog]);
    kafka.create_topic(&changelog, 2, &[("cleanup.policy", "compact")]);
    inventory.wait_said_once(&[&changelog, "was deleted", "holdfast reset", "halted"]);
    let rest = &inventory.rest;
    wait::until_equal("not ready", LIMIT, &503, || rest.fetch("/healthz/ready").status);
    rest.fetch("/healthz/live").expect_status(200);
    wait::until_equal("default reads are refused", LIMIT, &503, || {
        rest.fetch(&format!("/v1/stores/{STORES}/keys/Store_1")).status
    });
    inventory.check_rows_at_any_age();
    assert_eq!(rest.metric("holdfast_stream_halted", &[]), Some(1.0));
    assert!(inventory.instance.terminate().success());

    // A restart knows that the rows are not the new topic's, and keeps them.
    inventory.instance.start_again(&StateFate::Keep);
    let (status, log) = inventory.instance.wait_for_exit();
    assert!(code(status) > 0, "ended with {status}");
    log::assert_said(&log, &[&changelog, "recreated"]);
}

#[test]
fn a_lost_repartition_topic_halts_processing() {
    let mut inventory = Inventory::start("repartition-gone", &[]);
    let (kafka, repartition) = (inventory.kafka, inventory.names.repartition(inventory.kafka));
    consumer::wait_committed(kafka, &inventory.names.application_id, &repartition, LIMIT);

    kafka.delete_topics(&[&repartition]);
    inventory.wait_said_once(&[&repartition, "was deleted", "holdfast reset", "halted"]);
    inventory.check_rows_at_any_age();
    assert!(inventory.instance.terminate().success());

    // Nothing was left in it: going on without it, which a restart does, loses nothing.
    inventory.write(RECORDS);
    inventory.start_again();
    inventory.check_exactly();
    assert!(inventory.instance.terminate().success());
}

#[test]
fn more_partitions_of_an_input_halt_processing_before_keys_go_astray() {
    let mut inventory = Inventory::start("more-partitions", &[]);
    let (kafka, items) = (inventory.kafka, inventory.names.items.clone());

    kafka.add_partitions(&items, 5);
    inventory.wait_said_once(&[&items, "5 partitions", "new topic", "halted"]);
    inventory.check_rows_at_any_age();
    let rest = &inventory.rest;
    wait::until_equal("not ready", LIMIT, &503, || rest.fetch("/healthz/ready").status);
    assert_eq!(rest.metric("holdfast_stream_halted", &[]), Some(1.0));
    assert_eq!(rest.metric("holdfast_stream_topics_in_trouble", &[]), Some(1.0));
    assert!(inventory.instance.terminate().success());

    // A restart says the same, and ends.
    inventory.instance.start_again(&StateFate::Keep);
    let (status, log) = inventory.instance.wait_for_exit();
    assert!(code(status) > 0, "ended with {status}");
    log::assert_said(&log, &["partitions", "holdfast reset"]);

    // The way out that the line names: keys in one partition each again, and everything computed anew.
    kafka.delete_topics(&[&items]);
    kafka.create_topic(&items, 5, &[]);
    inventory.instance.command(&["reset", "--topics"]);
    inventory.model = Model::default();
    inventory.write(RECORDS);
    inventory.start_again();
    inventory.wait_rows();
    assert!(inventory.instance.terminate().success());
}
