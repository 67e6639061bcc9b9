//! A second instance that nobody ever hears of: dead before it answered, or behind addresses that are wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use holdfast_tests::{
    cluster::{self, evictions, wait_owned},
    instance::{Instance, InstanceConfig},
    inventory::check_exactly,
    kafka::{Kafka, Names},
    load::LoadConfig,
    ports,
    rest::Rest,
    traffic::Traffic,
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Less than the session of a member that is waited for.
const EVICTED: Duration = Duration::from_secs(20);
/// The default of `peer_timeout_ms`.
const PEER_TIMEOUT: Duration = Duration::from_secs(3);
const LOAD: LoadConfig = LoadConfig { stores: 60, skus: 30, bad_one_in: 0, counting: false };
const PER_S: f64 = 400.0;
const TASKS: usize = 6;

/// Nobody listens where it says that peers find it.
fn unheard(kafka: &Kafka, names: &Names) -> InstanceConfig {
    InstanceConfig::new(kafka, names)
        .set("session_timeout_ms", "45000")
        .set("num_stream_threads", "1")
        .set("peer_advertise", format!("127.0.0.1:{}", ports::free()))
}

/// How many tasks each member has.
fn owned(rest: &Rest) -> Vec<usize> {
    let described = rest.fetch("/v1/instances").json();
    cluster::members(&described).map(|member| member["active"].as_array().unwrap().len()).collect()
}

fn is_shared(rest: &Rest) -> bool {
    let owned = owned(rest);
    owned.len() == 2 && owned.iter().all(|owned| *owned > 0)
}

#[test]
fn two_that_never_hear_of_each_other_share_the_tasks_and_a_dead_one_is_not_waited_for() {
    let kafka = Kafka::shared();
    let names = Names::fresh("unheard");
    names.create_topics(kafka, 3);
    let mut instances = vec![unheard(kafka, &names).start_ready()];
    let traffic = Traffic::start(kafka, &names.items, LOAD, 5, PER_S);

    // Dead before anything was heard of it.
    instances.push(unheard(kafka, &names).start());
    let survivor = instances[0].rest();
    wait::until_true("the newcomer to be given tasks", LIMIT, || is_shared(&survivor));
    instances.remove(1).kill();
    wait::until_equal("the survivor to own all tasks", EVICTED, &vec![TASKS], || owned(&survivor));

    // Alive, and taken for dead once at most by each.
    instances.push(unheard(kafka, &names).start());
    wait::until_true("the two to share the tasks", LIMIT, || is_shared(&survivor));
    let since = Instant::now();
    wait::until_true("one to be evicted that is silent", LIMIT, || since.elapsed() > 2 * PEER_TIMEOUT);
    wait::until_true("the two to share the tasks again", LIMIT, || is_shared(&survivor));
    let rests: Vec<Rest> = instances.iter_mut().map(Instance::rest).collect();
    wait_owned(&rests, TASKS);
    assert!(evictions(&rests) <= 3.0, "{}", evictions(&rests));

    let model = traffic.finish();
    // They cannot be asked through one another: the last one has everything.
    let mut last = instances.pop().unwrap();
    assert!(instances.pop().unwrap().terminate().success());
    wait_owned(&[last.rest()], TASKS);
    check_exactly(kafka, &names, &last.rest(), &model, LIMIT);
    assert!(last.terminate().success());
}
