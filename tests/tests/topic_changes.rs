//! Topics that are deleted, created again, or given more partitions under a running instance.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use holdfast_tests::{
    chance, consumer,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::{ITEMS, STORES, Tables, check_at_least, check_exactly},
    kafka::{Kafka, Names},
    load::{Load, LoadConfig},
    model::Model,
    process::code,
    producer::Producer,
    rest::Rest,
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Restocks only, so that a record lost and one counted twice never cancel each other out.
const LOAD: LoadConfig = LoadConfig { stores: 20, skus: 5, bad_one_in: 0, counting: true };
const RECORDS: u64 = 500;

/// Writes records on top of what the model knows.
fn write(kafka: &Kafka, names: &Names, model: &mut Model, seed: u64, records: u64) {
    let (producer, mut load) = (Producer::new(kafka), Load::new(LOAD, seed));
    for _ in 0..records {
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

/// Waits until the log has one line with all of `words`, and no second one.
#[track_caller]
fn wait_said_once(instance: &Instance, words: &[&str]) {
    let said = |log: String| log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count();
    wait::until(
        format!("a line with {words:?}"),
        LIMIT,
        || {
            if said(instance.log()) > 0 { Ok(()) } else { Err("none") }
        },
    );
    assert_eq!(said(instance.log()), 1, "{words:?} is said once:\n{}", instance.log());
}

/// All rows, however old: what an instance answers that does not process any more.
fn rows_at_any_age(rest: &Rest, model: &Model) {
    for (store, stock) in &model.stores {
        let answer = rest.fetch(&format!("/v1/stores/{STORES}/keys/{store}?consistency=any")).expect_status(200);
        assert_eq!(&holdfast_tests::rest::stock(&answer.json()["value"]), stock, "{store}");
    }
    for (item, quantity) in &model.items {
        let answer = rest.fetch(&format!("/v1/stores/{ITEMS}/keys/{item}?consistency=any")).expect_status(200);
        assert_eq!(answer.json()["value"]["currentStock"], *quantity, "{item}");
    }
}

#[test]
fn a_deleted_input_is_waited_for_and_read_anew_when_it_is_back() {
    let kafka = Kafka::shared();
    for &guarantee in chance::guarantees() {
        let names = Names::fresh("input-gone");
        names.create_topics(kafka, 2);
        let mut instance = InstanceConfig::new(kafka, &names).set("processing_guarantee", guarantee).start_ready();
        let (rest, mut model) = (instance.rest(), Model::default());
        write(kafka, &names, &mut model, 1, RECORDS);
        wait_rows(&rest, &model);
        consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);

        kafka.delete_topics(&[&names.items]);
        wait_said_once(&instance, &[&names.items, "was deleted", "wait"]);
        assert_eq!(Tables::of_rest(&rest), Tables::of_model(&model), "{guarantee}: default reads go on");
        rest.fetch("/healthz/ready").expect_status(200);

        // More records than the old topic had, so that no offset out of range tells the instance.
        kafka.create_topic(&names.items, 2, &[]);
        write(kafka, &names, &mut model, 2, 2 * RECORDS);
        wait_said_once(&instance, &[&names.items, "created again", "offset_reset"]);
        wait_rows(&rest, &model);
        write(kafka, &names, &mut model, 3, 10);
        wait_rows(&rest, &model);
        consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);
        assert!(instance.terminate().success());

        // Deleted and created again while nobody looked: the broker forgot the offsets with the topic.
        kafka.delete_topics(&[&names.items]);
        kafka.create_topic(&names.items, 2, &[]);
        write(kafka, &names, &mut model, 4, RECORDS);
        instance.start_again(&StateFate::Keep);
        instance.wait_ready();
        check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
        assert!(instance.terminate().success());
    }
}

#[test]
fn a_deleted_output_holds_commits_back_until_it_is_there_again() {
    let kafka = Kafka::shared();
    for &guarantee in chance::guarantees() {
        let names = Names::fresh("output-gone");
        names.create_topics(kafka, 2);
        // Each stream thread says for itself that its commits wait.
        let config = InstanceConfig::new(kafka, &names).set("num_stream_threads", "1");
        let mut instance = config.set("processing_guarantee", guarantee).start_ready();
        let (rest, mut model) = (instance.rest(), Model::default());
        write(kafka, &names, &mut model, 1, RECORDS);
        wait_rows(&rest, &model);
        consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);
        let before = Tables::of_model(&model);

        kafka.delete_topics(&[&names.store_output]);
        wait_said_once(&instance, &[&names.store_output, "was deleted", "commits"]);
        write(kafka, &names, &mut model, 2, RECORDS);
        wait_said_once(&instance, &["a commit waits", &names.store_output]);
        assert_eq!(Tables::of_rest(&rest), before, "{guarantee}: rows up to the last commit");

        kafka.create_topic(&names.store_output, 1, &[("cleanup.policy", "compact")]);
        if guarantee == "at_least_once" {
            // What an attempt wrote before it failed is written again.
            check_at_least(kafka, &names, &rest, &model, LIMIT);
            assert!(instance.terminate().success());
            continue;
        }
        wait_rows(&rest, &model);
        // Rows and changelogs are whole; the output holds what was written since.
        let changelogs = Tables::of_topics(kafka, &names.changelog(STORES), &names.changelog(ITEMS));
        assert_eq!(changelogs.difference(&Tables::of_model(&model)), None, "the changelogs");
        let outputs = Tables::of_topics(kafka, &names.store_output, &names.item_output);
        for (store, stock) in outputs.stores {
            assert_eq!(model.stores[&store], stock, "output of {store}");
        }
        assert_eq!(outputs.items, model.items, "the other output");
        assert!(instance.terminate().success());
    }
}

#[test]
fn a_lost_changelog_halts_processing_and_is_not_taken_for_an_empty_one() {
    let kafka = Kafka::shared();
    let names = Names::fresh("changelog-gone");
    names.create_topics(kafka, 2);
    let mut instance = InstanceConfig::new(kafka, &names).start_ready();
    let (rest, mut model) = (instance.rest(), Model::default());
    write(kafka, &names, &mut model, 1, RECORDS);
    wait_rows(&rest, &model);
    consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);

    let changelog = names.changelog(STORES);
    kafka.delete_topics(&[&changelog]);
    kafka.create_topic(&changelog, 2, &[("cleanup.policy", "compact")]);
    wait_said_once(&instance, &[&changelog, "was deleted", "holdfast reset", "halted"]);
    wait::until_equal("not ready", LIMIT, &503, || rest.fetch("/healthz/ready").status);
    rest.fetch("/healthz/live").expect_status(200);
    wait::until_equal("default reads are refused", LIMIT, &503, || {
        rest.fetch(&format!("/v1/stores/{STORES}/keys/Store_1")).status
    });
    rows_at_any_age(&rest, &model);
    assert_eq!(rest.metric("holdfast_stream_halted", &[]), Some(1.0));
    assert!(instance.terminate().success());

    // A restart knows that the rows are not the new topic's, and keeps them.
    instance.start_again(&StateFate::Keep);
    let (status, log) = instance.wait_for_exit();
    assert!(code(status) > 0, "ended with {status}");
    assert!(log.lines().any(|line| line.contains(&changelog) && line.contains("recreated")), "{log}");
}

#[test]
fn a_lost_repartition_topic_halts_processing() {
    let kafka = Kafka::shared();
    let names = Names::fresh("repartition-gone");
    names.create_topics(kafka, 2);
    let mut instance = InstanceConfig::new(kafka, &names).start_ready();
    let (rest, mut model) = (instance.rest(), Model::default());
    write(kafka, &names, &mut model, 1, RECORDS);
    wait_rows(&rest, &model);
    consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);
    let repartition = names.repartition(kafka);
    consumer::wait_committed(kafka, &names.application_id, &repartition, LIMIT);

    kafka.delete_topics(&[&repartition]);
    wait_said_once(&instance, &[&repartition, "was deleted", "holdfast reset", "halted"]);
    rows_at_any_age(&rest, &model);
    assert!(instance.terminate().success());

    // Nothing was left in it: going on without it, which a restart does, loses nothing.
    write(kafka, &names, &mut model, 2, RECORDS);
    instance.start_again(&StateFate::Keep);
    instance.wait_ready();
    check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());
}

#[test]
fn more_partitions_of_an_input_halt_processing_before_keys_go_astray() {
    let kafka = Kafka::shared();
    let names = Names::fresh("more-partitions");
    names.create_topics(kafka, 2);
    let mut instance = InstanceConfig::new(kafka, &names).start_ready();
    let (rest, mut model) = (instance.rest(), Model::default());
    write(kafka, &names, &mut model, 1, RECORDS);
    wait_rows(&rest, &model);
    consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);

    kafka.add_partitions(&names.items, 5);
    wait_said_once(&instance, &[&names.items, "5 partitions", "new topic", "halted"]);
    rows_at_any_age(&rest, &model);
    wait::until_equal("not ready", LIMIT, &503, || rest.fetch("/healthz/ready").status);
    assert_eq!(rest.metric("holdfast_stream_halted", &[]), Some(1.0));
    assert_eq!(rest.metric("holdfast_stream_topics_in_trouble", &[]), Some(1.0));
    assert!(instance.terminate().success());

    // A restart says the same, and ends.
    instance.start_again(&StateFate::Keep);
    let (status, log) = instance.wait_for_exit();
    assert!(code(status) > 0, "ended with {status}");
    assert!(log.lines().any(|line| line.contains("partitions") && line.contains("holdfast reset")), "{log}");

    // The way out that the line names: keys in one partition each again, and everything computed anew.
    kafka.delete_topics(&[&names.items]);
    kafka.create_topic(&names.items, 5, &[]);
    instance.command(&["reset", "--topics"]);
    let mut model = Model::default();
    write(kafka, &names, &mut model, 2, RECORDS);
    instance.start_again(&StateFate::Keep);
    instance.wait_ready();
    wait_rows(&instance.rest(), &model);
    assert!(instance.terminate().success());
}
