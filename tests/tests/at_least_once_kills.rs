//! At least once under `kill -9`: nothing is lost, and a kill counts no more twice than was uncommitted; a
//! clean restart counts nothing twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::time::Duration;

use holdfast_tests::{
    chance, consumer,
    instance::{InstanceConfig, StateFate},
    inventory::{check_exactly, check_twice_at_most},
    kafka::{Kafka, Names},
    load::LoadConfig,
    traffic::Traffic,
    wait,
};
use rand::RngExt;

const KILLS: usize = 12;
const PER_S: f64 = 1_000.0;
const LIMIT: Duration = Duration::from_secs(60);
/// Records that may be uncommitted before a kill: some commit intervals' worth, and far below a backlog's.
const FEW: i64 = 750;
const LOAD: LoadConfig = LoadConfig { stores: 40, skus: 20, bad_one_in: 0, counting: true };

fn config(kafka: &Kafka, names: &Names) -> InstanceConfig {
    InstanceConfig::new(kafka, names)
        .set("processing_guarantee", "at_least_once")
        .set("session_timeout_ms", "3000")
        .set("heartbeat_interval_ms", "500")
}

#[test]
fn nothing_is_lost_and_little_counts_twice_over_kills() {
    let seed = chance::seed("at least once");
    let mut rng = chance::rng(seed);
    let kafka = Kafka::shared();
    let names = Names::fresh("at-least-once");
    names.create_topics(kafka, 3);
    let mut instance = config(kafka, &names).start_ready();
    let repartition = names.repartition(kafka);
    let uncommitted = |topic: &str| consumer::uncommitted(kafka, &names.application_id, topic);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    let kills = chance::repetitions(KILLS);
    let mut at_risk = 0;
    for kill in 1..=kills {
        instance.wait_ready();
        // Caught up: what a kill can count twice is the last interval, not a backlog that is being worked off.
        wait::until("the backlog to be worked off", LIMIT, || {
            let behind = uncommitted(&names.items).max(uncommitted(&repartition));
            if behind <= FEW { Ok(()) } else { Err(format!("{behind} records behind")) }
        });
        wait::random_moment(&mut rng, Duration::from_millis(1_000));
        instance.kill();
        let (of_items, of_repartition) = (uncommitted(&names.items), uncommitted(&repartition));
        at_risk += of_items + of_repartition;
        let fate = if rng.random_range(0..4) == 0 { StateFate::Remove } else { StateFate::Keep };
        eprintln!("kill {kill} of {kills}: {of_items} and {of_repartition} records uncommitted, then {fate:?}");
        instance.start_again(&fate);
    }
    instance.wait_ready();
    let model = traffic.finish();
    let (by_store, by_item) = check_twice_at_most(kafka, &names, &instance.rest(), &model, at_risk, LIMIT);
    eprintln!("{} records; {by_store} counted twice by store, {by_item} by item", model.accepted);
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
