//! Restarts: of the instance over its state, of the broker under the instance; and state or topics that do not fit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_tests::{
    consumer,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::{ITEMS, STORES, Tables, check_at_least, check_exactly, wait_rows},
    kafka::{Kafka, Names},
    load::{Load, LoadConfig, transaction},
    log,
    model::Model,
    process::code,
    producer::Producer,
    rest::Rest,
    state,
    tasks::wait_settled,
    wait,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const RECORDS: u64 = 20_000;
const LOAD: LoadConfig = LoadConfig { stores: 100, skus: 20, bad_one_in: 0, counting: false };

/// The first records, and what they come to.
fn fill(kafka: &Kafka, names: &Names, seed: u64) -> Model {
    let mut model = Model::default();
    Load::new(LOAD, seed).write(kafka, names, RECORDS, &mut model);
    model
}

fn restock(producer: &Producer, names: &Names, store: &str, quantity: i64) {
    let value = transaction(store, "Item_1", "RESTOCK", quantity);
    producer.send(&names.items, Some(store.as_bytes()), Some(&value));
    producer.flush();
}

/// Changelog records replayed since the process started.
fn restored(rest: &Rest) -> f64 {
    rest.metric("holdfast_stream_restored_records_total", &[]).unwrap_or(0.0)
}

/// The stock of `Item_1` in `Store_1`, however old: this read is answered whether the broker is there or not.
#[track_caller]
fn stock_at_any_age(rest: &Rest) -> i64 {
    let answer = rest.fetch("/v1/stores/StoreInventoryStock/keys/Store_1?consistency=any");
    match answer.status {
        404 => 0,
        _ => answer.expect_status(200).json()["value"]["stock"]["Item_1"].as_i64().unwrap(),
    }
}

#[test]
fn state_is_used_again_after_a_clean_restart() {
    let kafka = Kafka::shared();
    for guarantee in ["exactly_once", "at_least_once"] {
        let names = Names::fresh("reuse");
        names.create_topics(kafka, 3);
        let mut instance = InstanceConfig::new(kafka, &names).set("processing_guarantee", guarantee).start_ready();
        let model = fill(kafka, &names, 1);
        wait_rows(&instance.rest(), &model, LIMIT);
        consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);
        let committed = consumer::committed_offsets(kafka, &names.application_id, &names.items);
        assert!(instance.terminate().success());

        instance.start_again(&StateFate::Keep);
        instance.wait_ready();
        let rest = instance.rest();
        assert_eq!(Tables::of_rest(&rest), Tables::of_model(&model), "{guarantee}: ready means that all is there");
        assert!(restored(&rest) == 0.0, "{guarantee}: {} records replayed after a clean stop", restored(&rest));
        let again = consumer::committed_offsets(kafka, &names.application_id, &names.items);
        assert_eq!(again, committed, "{guarantee}: offsets moved without input");

        // A lost volume: everything comes back from the changelog, with the positions.
        assert!(instance.terminate().success());
        instance.start_again(&StateFate::Remove);
        instance.wait_ready();
        let rest = instance.rest();
        assert_eq!(Tables::of_rest(&rest), Tables::of_model(&model), "{guarantee}: restored");
        let rows = (model.stores.len() + model.items.len()) as f64;
        assert!(restored(&rest) >= rows, "{guarantee}: {} records replayed for {rows} rows", restored(&rest));
        check_exactly(kafka, &names, &rest, &model, LIMIT);
        assert!(instance.terminate().success());
    }
}

#[test]
fn state_older_than_its_changelog_keeps_deletions_is_rebuilt() {
    let kafka = Kafka::shared();
    let names = Names::fresh("expired");
    names.create_topics(kafka, 3);
    // Any stop is longer than this.
    kafka.create_topic(
        &names.changelog(STORES),
        3,
        &[("cleanup.policy", "compact"), ("delete.retention.ms", "1"), ("message.timestamp.type", "CreateTime")],
    );
    let mut instance = InstanceConfig::new(kafka, &names).start_ready();
    let model = fill(kafka, &names, 3);
    wait_rows(&instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());

    instance.start_again(&StateFate::Keep);
    instance.wait_ready();
    let rest = instance.rest();
    // The other changelog has Kafka's default of a day.
    let rebuilt = instance.log().matches("the state is older than its changelog keeps deletions").count();
    assert_eq!(rebuilt, 3, "one directory for each partition of {STORES}:\n{}", instance.log());
    let stores = model.stores.len() as f64;
    assert!(restored(&rest) >= stores, "{} records replayed for {stores} rows", restored(&rest));
    check_exactly(kafka, &names, &rest, &model, LIMIT);
    assert!(instance.terminate().success());
}

#[test]
fn a_kill_replays_seconds_and_not_everything() {
    let kafka = Kafka::shared();
    let names = Names::fresh("replay");
    names.create_topics(kafka, 3);
    let mut instance = InstanceConfig::new(kafka, &names).set("max_replay_ms", "500").start_ready();
    let mut model = fill(kafka, &names, 2);
    wait_rows(&instance.rest(), &model, LIMIT);
    let all: usize = [STORES, ITEMS].iter().map(|s| consumer::read_committed(kafka, &names.changelog(s)).len()).sum();
    // One record more, later than `max_replay_ms`: what stood in memory before is on disk by then, soon.
    let producer = Producer::new(kafka);
    let value = transaction("Store_0", "Item_0", "RESTOCK", 1);
    wait::until("a restart after a kill that replays little", LIMIT, || {
        model.apply(&value);
        producer.send(&names.items, Some(b"Store_0"), Some(&value));
        producer.flush();
        wait_rows(&instance.rest(), &model, LIMIT);
        instance.kill();
        instance.start_again(&StateFate::Keep);
        instance.wait_ready();
        let replayed = restored(&instance.rest());
        if replayed < all as f64 / 4.0 { Ok(()) } else { Err(format!("{replayed} of {all} records replayed")) }
    });
    check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());
}

#[test]
fn a_broker_that_is_away_at_the_start_is_waited_for() {
    let kafka = Kafka::start();
    let names = Names::fresh("away");
    names.create_topics(&kafka, 3);
    kafka.stop();
    let mut instance = InstanceConfig::new(&kafka, &names).start();
    let rest = instance.rest();
    assert_eq!(rest.fetch("/healthz/live").status, 200);
    assert_eq!(rest.fetch("/healthz/ready").status, 503);
    let answer = rest.fetch("/v1/stores/StoreInventoryStock/keys/Store_1?timeout=300");
    assert_eq!(answer.expect_status(503).json()["code"], "UNAVAILABLE");
    assert!(instance.runs());

    kafka.start_again();
    let model = fill(&kafka, &names, 4);
    instance.wait_ready();
    check_exactly(&kafka, &names, &rest, &model, LIMIT);
    assert!(instance.terminate().success());
}

#[test]
fn a_broker_restart_in_the_middle_is_survived_and_reads_go_on() {
    let kafka = Kafka::start();
    for guarantee in ["exactly_once", "at_least_once"] {
        let names = Names::fresh("middle");
        names.create_topics(&kafka, 3);
        let mut instance = InstanceConfig::new(&kafka, &names).set("processing_guarantee", guarantee).start_ready();
        let (rest, producer) = (instance.rest(), Producer::new(&kafka));
        let (mut sent, mut model) = (0, Model::default());
        // At least once: what was under way when the broker went may be counted again.
        let fits = |stock: i64, sent: i64| {
            stock == sent || (guarantee == "at_least_once" && (sent..=2 * sent).contains(&stock))
        };
        for stop in [Kafka::stop as fn(&Kafka), Kafka::kill] {
            restock(&producer, &names, "Store_1", 1);
            sent += 1;
            wait::until_true(format!("{guarantee}: the row before"), LIMIT, || fits(stock_at_any_age(&rest), sent));
            // The item's hop is under way, in the middle of a transaction or not.
            stop(&kafka);
            let before = stock_at_any_age(&rest);
            for _ in 0..200 {
                assert_eq!(stock_at_any_age(&rest), before, "{guarantee}: reads go on without the broker");
            }
            kafka.start_again();
            restock(&producer, &names, "Store_1", 1);
            sent += 1;
            wait::until_true(format!("{guarantee}: the row after"), LIMIT, || fits(stock_at_any_age(&rest), sent));
            instance.wait_ready();
        }
        // One commit later than the store's row: its records come through the repartition topic.
        wait::until_true(format!("{guarantee}: the item"), LIMIT, || {
            rest.item_stock("Item_1").is_some_and(|stock| fits(stock, sent))
        });
        (0..sent).for_each(|_| assert!(model.apply(&transaction("Store_1", "Item_1", "RESTOCK", 1))));
        Load::new(LoadConfig { counting: true, ..LOAD }, 5).write(&kafka, &names, 2_000, &mut model);
        match guarantee {
            "exactly_once" => check_exactly(&kafka, &names, &rest, &model, LIMIT),
            _ => check_at_least(&kafka, &names, &rest, &model, LIMIT),
        }
        assert!(instance.terminate().success(), "{guarantee}");
    }
}

#[test]
fn a_broker_that_hangs_is_waited_for_and_reads_go_on() {
    let kafka = Kafka::start();
    let names = Names::fresh("hangs");
    names.create_topics(&kafka, 2);
    let config = InstanceConfig::new(&kafka, &names).set("num_standby_replicas", "1");
    let (mut instance, mut other) = (config.clone().start_ready(), config.start_ready());
    wait_settled(&mut [&mut instance, &mut other], 4, 1, LIMIT);
    let (rest, producer) = (instance.rest(), Producer::new(&kafka));
    restock(&producer, &names, "Store_1", 1);
    wait::until_equal("the row", LIMIT, &true, || rest.store_stock("Store_1").is_some());
    kafka.pause();
    // Longer than the session: the coordinator forgets the member when the broker goes on.
    let silent = std::time::Instant::now();
    wait::until_true("reads over a silence of 8 s", LIMIT, || {
        assert_eq!(stock_at_any_age(&rest), 1);
        silent.elapsed() > Duration::from_secs(8)
    });
    let strong = rest.fetch("/v1/stores/StoreInventoryStock/keys/Store_1?consistency=strong&timeout=300");
    assert_ne!(strong.status, 200, "nobody can confirm a strong read now");
    for rest in [&rest, &other.rest()] {
        // A standby, too, does not know whether there is something newer.
        let bounded = rest.fetch("/v1/stores/StoreInventoryStock/keys/Store_1?consistency=bounded&max_staleness=5000");
        assert_eq!(bounded.expect_status(503).json()["reason"], "stale");
    }
    kafka.resume();
    restock(&producer, &names, "Store_1", 1);
    for instance in [&mut instance, &mut other] {
        let rest = instance.rest();
        wait::until_equal("the row after", LIMIT, &2, || stock_at_any_age(&rest));
        instance.wait_ready();
    }
    let mut model = Model::default();
    (0..2).for_each(|_| assert!(model.apply(&transaction("Store_1", "Item_1", "RESTOCK", 1))));
    Load::new(LOAD, 6).write(&kafka, &names, 2_000, &mut model);
    check_exactly(&kafka, &names, &rest, &model, LIMIT);
    for instance in [&mut instance, &mut other] {
        assert!(instance.terminate().success());
    }
}

#[test]
fn an_internal_topic_with_the_wrong_partition_count_is_refused() {
    let kafka = Kafka::shared();
    let names = Names::fresh("wrong");
    names.create_topics(kafka, 3);
    let changelog = names.changelog(ITEMS);
    kafka.create_topic(&changelog, 7, &[("cleanup.policy", "compact")]);
    let mut instance = InstanceConfig::new(kafka, &names).start();
    let (status, log) = instance.wait_for_exit();
    assert!(code(status) > 0, "ended with {status}");
    log::assert_said(&log, &[&changelog, "7", "3"]);
    assert_eq!(kafka.partitions(&changelog), Some(7), "the topic is left as it is");
}

/// An instance that has state, stopped cleanly.
fn with_state(kafka: &Kafka, names: &Names) -> Instance {
    let mut instance = InstanceConfig::new(kafka, names).start_ready();
    restock(&Producer::new(kafka), names, "Store_1", 5);
    let rest = instance.rest();
    wait::until_equal("a row", LIMIT, &true, || rest.store_stock("Store_1").is_some());
    wait::until_equal("a row of the other store", LIMIT, &Some(5), || rest.item_stock("Item_1"));
    assert!(instance.terminate().success());
    instance
}

/// Starts over a directory that does not fit: it must end by itself, say why and where, and delete nothing.
#[track_caller]
fn assert_refused(instance: &mut Instance, named: &Path, words: &[&str]) {
    let before = state::files(&instance.state_dir());
    instance.start_again(&StateFate::Keep);
    let (status, log) = instance.wait_for_exit();
    assert!(code(status) > 0, "ended with {status}\n{log}");
    let named = named.display().to_string();
    log::assert_said(&log, &[&[&*named], words].concat());
    assert_nothing_gone(&before, &state::files(&instance.state_dir()));
}

/// Tasks that fit were opened before the one that does not, and RocksDB rolls its logs and manifest when it opens.
#[track_caller]
fn assert_nothing_gone(before: &[(String, u64)], after: &[(String, u64)]) {
    let lasts = |name: &str| !name.ends_with(".log") && !name.contains("MANIFEST") && !name.contains("OPTIONS");
    let gone = before.iter().filter(|(name, _)| lasts(name) && !after.iter().any(|(kept, _)| kept == name));
    let gone: Vec<_> = gone.collect();
    assert!(gone.is_empty(), "deleted: {gone:?}");
}

/// Task directories of an application.
fn tasks(application: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(application).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.join("task.json").exists());
    found.sort();
    found
}

/// Rewrites a JSON file.
fn edit(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    change(&mut value);
    fs::write(file, value.to_string()).unwrap();
}

#[test]
fn state_that_does_not_fit_is_refused_and_kept() {
    let kafka = Kafka::shared();
    let names = Names::fresh("unfit");
    names.create_topics(kafka, 1);
    let mut instance = with_state(kafka, &names);
    let application = instance.state_dir().join(&names.application_id);
    let good = tempfile::tempdir().unwrap();
    let good = good.path().join("state");
    state::copy(&instance.state_dir(), &good);
    let reset = |instance: &Instance| {
        state::remove(&instance.state_dir());
        state::copy(&good, &instance.state_dir());
    };
    let newer = |value: &mut Value| value["format_version"] = 999.into();
    let task = tasks(&application).first().expect("a task directory").clone();

    for file in [application.join("process.json"), task.join("task.json")] {
        reset(&instance);
        edit(&file, newer);
        assert_refused(&mut instance, &file, &["999"]);

        reset(&instance);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        assert_refused(&mut instance, &file, &[]);
    }

    // The directory of another application, moved here by mistake.
    reset(&instance);
    edit(&application.join("process.json"), |value| value["application_id"] = "another".into());
    assert_refused(&mut instance, &application, &["another"]);

    // And the good one is as good as before.
    reset(&instance);
    instance.start_again(&StateFate::Keep);
    instance.wait_ready();
    assert_eq!(instance.rest().item_stock("Item_1"), Some(5));
    assert!(instance.terminate().success());
}

/// A service with other tables, started with the inventory's name and over its directory.
#[test]
fn the_state_of_another_topology_is_refused_and_kept() {
    let kafka = Kafka::shared();
    let names = Names::fresh("other-tables");
    names.create_topics(kafka, 1);
    let mut instance = with_state(kafka, &names);
    let application = instance.state_dir().join(&names.application_id);
    let fingerprint = |task: &Path| {
        let identity: Value = serde_json::from_slice(&fs::read(task.join("task.json")).unwrap()).unwrap();
        identity["fingerprint"].as_str().unwrap().to_owned()
    };
    let found: Vec<_> = tasks(&application).into_iter().map(|task| (task.clone(), fingerprint(&task))).collect();
    let [lines, homes] = ["lines", "homes"].map(|what| format!("{}.{what}", names.application_id));
    kafka.create_topic(&lines, 1, &[]);
    kafka.create_topic(&homes, 1, &[]);
    let kept = state::files(&instance.state_dir());
    let other = InstanceConfig::example("tables", kafka, &names.application_id)
        .set("lines_topic", lines)
        .set("homes_topic", homes)
        .set("state_dir", instance.state_dir().display().to_string());
    let (status, log) = other.start().wait_for_exit();
    assert!(code(status) > 0, "ended with {status}\n{log}");
    let ended: Vec<_> = log.lines().filter(|line| line.contains("was made by another topology")).collect();
    let told = |(task, theirs): &(PathBuf, String)| {
        let words =
            [&*task.display().to_string(), &format!("found {theirs}"), "expected fingerprint", "holdfast reset"];
        ended.iter().any(|line| words.iter().all(|word| line.contains(word)))
    };
    assert!(found.iter().any(told), "no line with path, identities and the way out:\n{log}");
    assert_nothing_gone(&kept, &state::files(&instance.state_dir()));

    instance.start_again(&StateFate::Keep);
    instance.wait_ready();
    let rest = instance.rest();
    assert_eq!(rest.item_stock("Item_1"), Some(5));
    restock(&Producer::new(kafka), &names, "Store_1", 2);
    wait::until_equal("the row to go on", LIMIT, &Some(7), || rest.item_stock("Item_1"));
    assert!(instance.terminate().success());
}

#[test]
fn a_state_directory_serves_one_process_at_a_time() {
    let kafka = Kafka::shared();
    let names = Names::fresh("locked");
    names.create_topics(kafka, 1);
    let mut first = InstanceConfig::new(kafka, &names).start_ready();
    let directory = first.state_dir().display().to_string();
    let mut second = InstanceConfig::new(kafka, &names).set("state_dir", &directory).start();
    let (status, log) = second.wait_for_exit();
    assert!(code(status) > 0, "ended with {status}");
    assert!(log.contains(&directory), "no line names {directory}:\n{log}");
    assert_eq!(first.rest().fetch("/healthz/ready").status, 200);
    assert!(first.terminate().success());
}
