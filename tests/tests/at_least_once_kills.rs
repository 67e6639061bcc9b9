//! At least once under `kill -9`: nothing is lost, and a kill counts no more than the last commit interval twice; a
//! clean restart counts nothing twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::time::Duration;

use holdfast_tests::{
    chance, consumer,
    instance::{InstanceConfig, StateFate},
    inventory::{Tables, check_exactly},
    kafka::{Kafka, Names},
    load::LoadConfig,
    traffic::Traffic,
    wait,
};
use rand::RngExt;

const KILLS: usize = 12;
const PER_S: f64 = 1_000.0;
const LIMIT: Duration = Duration::from_secs(60);
/// Commit interval, the commit itself, and a machine that is busy with other things: far below a backlog's worth.
const LAST_INTERVAL: Duration = Duration::from_millis(1_500);
const LOAD: LoadConfig = LoadConfig { stores: 40, skus: 20, bad_one_in: 0, counting: true };

fn config(kafka: &Kafka, names: &Names) -> InstanceConfig {
    InstanceConfig::new(kafka, names)
        .set("processing_guarantee", "at_least_once")
        .set("session_timeout_ms", "3000")
        .set("heartbeat_interval_ms", "500")
}

/// Records of `topic` that the group has not committed.
fn uncommitted(kafka: &Kafka, names: &Names, topic: &str) -> i64 {
    let ends = consumer::end_offsets(kafka, topic);
    let committed = consumer::committed_offsets(kafka, &names.application_id, topic);
    ends.iter().map(|(partition, end)| end - committed[partition]).sum()
}

fn repartition_topic(kafka: &Kafka, names: &Names) -> String {
    let topics = kafka.topics().into_iter();
    let mut found = topics.filter(|t| t.starts_with(&names.application_id) && t.ends_with("-repartition"));
    found.next().expect("a repartition topic")
}

#[test]
fn nothing_is_lost_and_little_counts_twice_over_kills() {
    let seed = chance::seed("at least once");
    let mut rng = chance::rng(seed);
    let kafka = Kafka::shared();
    let names = Names::fresh("at-least-once");
    names.create_topics(kafka, 3);
    let mut instance = config(kafka, &names).start_ready();
    let repartition = repartition_topic(kafka, &names);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    let kills = chance::repetitions(KILLS);
    let mut at_risk = 0;
    for kill in 1..=kills {
        instance.wait_ready();
        // Caught up: what a kill can count twice is the last interval, not a backlog that is being worked off.
        let small = (PER_S * LAST_INTERVAL.as_secs_f64()) as i64;
        wait::until("the backlog to be worked off", LIMIT, || {
            let behind = uncommitted(kafka, &names, &names.items).max(uncommitted(kafka, &names, &repartition));
            if behind <= small / 2 { Ok(()) } else { Err(format!("{behind} records behind")) }
        });
        wait::random_moment(&mut rng, Duration::from_millis(1_000));
        instance.kill();
        let (of_items, of_repartition) =
            (uncommitted(kafka, &names, &names.items), uncommitted(kafka, &names, &repartition));
        assert!(of_items <= small, "kill {kill}: {of_items} records uncommitted, more than {LAST_INTERVAL:?} of input");
        at_risk += of_items + of_repartition;
        let fate = if rng.random_range(0..4) == 0 { StateFate::Remove } else { StateFate::Keep };
        eprintln!("kill {kill} of {kills}: {of_items} and {of_repartition} records uncommitted, then {fate:?}");
        instance.start_again(&fate);
    }
    instance.wait_ready();
    let model = traffic.finish();
    let sent = i64::try_from(model.accepted).unwrap();
    consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);
    consumer::wait_committed(kafka, &names.application_id, &repartition, LIMIT);
    let rest = instance.rest();
    let expected = Tables::of_model(&model);
    // Rows may be read a moment after their offsets are committed.
    let tables = wait::until("the rows to stand still", LIMIT, || {
        let tables = Tables::of_rest(&rest);
        if tables == Tables::of_rest(&rest) { Ok(tables) } else { Err("they move") }
    });
    for (store, stock) in &expected.stores {
        for (sku, count) in stock {
            let seen = tables.stores[store][sku];
            assert!(seen >= *count, "{store}, {sku}: {seen} of {count} records");
        }
    }
    for (sku, count) in &expected.items {
        assert!(tables.items[sku] >= *count, "{sku}: {} of {count} records", tables.items[sku]);
    }
    let (by_store, by_item) = tables.totals();
    eprintln!("{sent} records; {} counted twice by store, {} by item", by_store - sent, by_item - sent);
    assert!(by_store - sent <= at_risk, "{} counted twice, {at_risk} were uncommitted at the kills", by_store - sent);
    // What is read again is sent on again: the second step may double what the first did, and its own interval.
    assert!(by_item - sent <= 2 * at_risk, "{} counted twice, {at_risk} were uncommitted", by_item - sent);
    assert!(instance.terminate().success());
}

#[test]
fn a_clean_restart_counts_nothing_twice() {
    let seed = chance::seed("clean restarts");
    let kafka = Kafka::shared();
    let names = Names::fresh("clean");
    names.create_topics(kafka, 3);
    let mut instance = config(kafka, &names).start_ready();
    let load = LoadConfig { counting: false, bad_one_in: 50, ..LOAD };
    let traffic = Traffic::start(kafka, &names.items, load, seed, PER_S);
    let mut rng = chance::rng(seed);
    for _ in 0..4 {
        instance.wait_ready();
        wait::random_moment(&mut rng, Duration::from_millis(1_500));
        assert!(instance.terminate().success());
        instance.start_again(&StateFate::Keep);
    }
    instance.wait_ready();
    let model = traffic.finish();
    check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());
}
