//! Kills in the middle of what moves tasks: of who restores one, of who was told to release one, of who was promised it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::time::Duration;

use holdfast_tests::{
    chance,
    cluster::{self, wait_owned},
    instance::{Instance, InstanceConfig, StateFate},
    inventory::check_exactly,
    kafka::{Kafka, KafkaConfig, Names},
    load::LoadConfig,
    log,
    rest::Rest,
    tasks,
    traffic::Traffic,
    wait,
};
use rand::RngExt;

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 100, skus: 40, bad_one_in: 0, counting: false };
const PER_S: f64 = 800.0;
const TASKS: usize = 6;

fn config(kafka: &Kafka, names: &Names) -> InstanceConfig {
    // Kafka's default: whoever waits for it fails these tests.
    InstanceConfig::new(kafka, names).set("session_timeout_ms", "45000").set("num_stream_threads", "1")
}

fn all(instances: &mut [Instance]) -> Vec<Rest> {
    instances.iter_mut().map(Instance::rest).collect()
}

/// Holds everything that each instance answers against the traffic's model, and stops all.
#[track_caller]
fn check(kafka: &Kafka, names: &Names, instances: &mut [Instance], traffic: Traffic) {
    let model = traffic.finish();
    for rest in all(instances) {
        check_exactly(kafka, names, &rest, &model, LIMIT);
    }
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

#[test]
fn who_is_killed_while_it_restores_leaves_nothing_wrong() {
    let seed = chance::seed("restore kills");
    let mut rng = chance::rng(seed);
    let kafka = Kafka::start_with(KafkaConfig { proxied: true, ..KafkaConfig::default() });
    let names = Names::fresh("restore");
    names.create_topics(&kafka, 3);
    let config = config(&kafka, &names).set("bootstrap_servers", kafka.proxied_bootstrap());
    let mut instances = cluster::start(&config, 3);
    let traffic = Traffic::start(&kafka, &names.items, LOAD, seed, PER_S);
    for round in 0..chance::repetitions(1) {
        let enough = traffic.sent() + 4_000;
        wait::until_true("the changelogs to grow", LIMIT, || traffic.sent() >= enough);
        // Restores take long enough to be caught in one.
        kafka.proxy().delay(Duration::from_millis(200));
        instances[0].kill();
        let rests = all(&mut instances[1..]);
        let restores =
            |rest: &Rest| tasks::of(rest).iter().any(|task| (&*task.assigned, &*task.role) == ("active", "restoring"));
        let second = wait::until("an heir to restore", LIMIT, || rests.iter().position(restores).ok_or("nobody does"));
        wait::random_moment(&mut rng, Duration::from_millis(200));
        instances[1 + second].kill();
        kafka.proxy().mend();
        let survivor = rests[1 - second].clone();
        eprintln!("round {round}: {} and {} are killed", instances[0].host(), instances[1 + second].host());
        wait_owned(&[survivor], TASKS);
        let fate = if rng.random_bool(0.5) { StateFate::Remove } else { StateFate::Keep };
        instances[0].start_again(&fate);
        instances[1 + second].start_again(&StateFate::Keep);
        cluster::wait_spread(&mut instances);
    }
    check(&kafka, &names, &mut instances, traffic);
}

/// Hand-overs that the leader has begun: generations in which it withheld tasks for those who were promised them.
fn hand_overs(leader: &Instance) -> usize {
    let assigned = log::lines(&leader.log(), "assigned tasks as the leader");
    assigned.iter().filter(|line| log::number(line, "withheld") > 0).count()
}

#[test]
fn who_is_killed_while_tasks_are_handed_over_leaves_nothing_wrong() {
    let seed = chance::seed("hand-over kills");
    let mut rng = chance::rng(seed);
    let kafka = Kafka::shared();
    for round in 0..2 * chance::repetitions(1) {
        let names = Names::fresh("hand-over");
        names.create_topics(kafka, 3);
        let config = config(kafka, &names);
        // The first one leads and owns half of the tasks; the third one gets some of them.
        let mut instances = vec![config.clone().start_ready(), config.clone().start()];
        cluster::wait_spread(&mut instances);
        let traffic = Traffic::start(kafka, &names.items, LOAD, seed + round as u64, PER_S);
        wait::until_true("the changelogs to grow", LIMIT, || traffic.sent() >= 3_000);
        let before = hand_overs(&instances[0]);
        instances.push(config.start());
        wait::until_true("a hand-over", LIMIT, || hand_overs(&instances[0]) > before);
        wait::random_moment(&mut rng, Duration::from_millis(100));
        // Who was told to release, or who was promised.
        let killed = if round % 2 == 0 { 0 } else { 2 };
        instances[killed].kill();
        eprintln!("round {round}: {} is killed", instances[killed].host());
        let mut survivors: Vec<&mut Instance> = instances
            .iter_mut()
            .enumerate()
            .filter(|(index, _)| *index != killed)
            .map(|(_, instance)| instance)
            .collect();
        let rests: Vec<Rest> = survivors.iter_mut().map(|instance| instance.rest()).collect();
        wait_owned(&rests, TASKS);
        instances[killed].start_again(&StateFate::Keep);
        cluster::wait_spread(&mut instances);
        check(kafka, &names, &mut instances, traffic);
    }
}
