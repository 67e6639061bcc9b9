//! One instance becomes three, five, and two, under writes and reads: no read is refused, rows stay exact, tasks move only as far
//! as they must, and who has no task to process answers for every key all the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{collections::BTreeSet, time::Duration};

use holdfast_tests::{
    chance, cluster,
    instance::{Instance, InstanceConfig},
    inventory::{ITEMS, STORES, check_exactly},
    kafka::{Kafka, Names},
    load::LoadConfig,
    log,
    readers::{Asking, BOUNDED, Kind, Readers, wait_items},
    rest::Rest,
    tasks::{self, Homes, wait_settled},
    traffic::Traffic,
    wait,
};
use rand::RngExt;

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 60, skus: 30, bad_one_in: 50, counting: true };
const PER_S: f64 = 400.0;
const PARTITIONS: i32 = 2;
/// Of two sub-topologies: fewer than instances.
const TASKS: usize = 4;

fn all(instances: &mut [Instance]) -> Vec<&mut Instance> {
    instances.iter_mut().collect()
}

fn rests(instances: &mut [Instance]) -> Vec<Rest> {
    instances.iter_mut().map(Instance::rest).collect()
}

/// How often tasks were brought up to where they can be processed; one that stays is left alone.
fn starts(instances: &[Instance]) -> usize {
    instances.iter().map(|instance| log::count(&instance.log(), &["task restored"])).sum()
}

fn moved(before: &Homes, after: &Homes) -> usize {
    after.iter().filter(|(task, home)| before[*task] != **home).count()
}

#[track_caller]
fn check_refused(readers: &Readers, when: &str) {
    readers.wait_answers();
    let refused = readers.refused();
    assert!(refused.is_empty(), "{when}: {refused:#?}");
}

/// An instance that processes nothing answers for each key, from the copies that it follows and through others.
#[track_caller]
fn check_idle(rest: &Rest) {
    let forwards = || rest.metric("holdfast_forwards_total", &[]).unwrap_or(0.0);
    let before = forwards();
    assert!(tasks::of(rest).iter().all(|task| task.assigned != "active"));
    let keys = (0..LOAD.stores).map(|store| (STORES, format!("Store_{store}")));
    for (store, key) in keys.chain((0..LOAD.skus).map(|item| (ITEMS, format!("Item_{item}")))) {
        rest.fetch(&format!("/v1/stores/{store}/keys/{key}?consistency=strong")).expect_status(200);
        rest.fetch(&format!("/v1/stores/{store}/keys/{key}")).expect_status(200);
    }
    assert_eq!(rest.scan(STORES, 7).len(), LOAD.stores as usize);
    assert!(forwards() > before, "it has nothing of its own to answer strong reads");
}

#[test]
fn one_becomes_three_five_and_two_and_no_read_is_refused() {
    let seed = chance::seed("elasticity");
    let mut rng = chance::rng(seed);
    let kafka = Kafka::shared();
    let names = Names::fresh("elasticity");
    names.create_topics(kafka, PARTITIONS);
    let config = InstanceConfig::new(kafka, &names)
        // Kafka's default: whoever waits for it fails this test.
        .set("session_timeout_ms", "45000")
        .set("num_stream_threads", "1")
        .set("num_standby_replicas", "1")
        // So few that nobody has caught up without following.
        .set("acceptable_recovery_lag", "200")
        // Who goes does not come back: others build its copies soon.
        .set("drained_slot_retention_ms", "2000");
    let mut instances = vec![config.clone().start_ready()];
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&rests(&mut instances), LOAD.skus);
    wait::until_true("the changelogs to grow", LIMIT, || traffic.sent() > 2_000);
    let kinds = [BOUNDED.into(), Kind::from(Asking::Any), BOUNDED.in_batches(), BOUNDED.in_scans()];
    let readers = Readers::start(&rests(&mut instances), &kinds, LOAD.skus);

    let mut homes = wait_settled(&mut all(&mut instances), TASKS, 0, LIMIT);
    for (count, fair, at_most) in [
        // Who comes a moment later than the other may get what that one has just been given.
        (3, 2, 3),
        (5, 1, 1),
    ] {
        let before = starts(&instances);
        instances.extend((instances.len()..count).map(|_| config.clone().start()));
        instances.iter_mut().for_each(Instance::wait_ready);
        readers.go_through(&rests(&mut instances));
        let now = wait_settled(&mut all(&mut instances), TASKS, 1, LIMIT);
        check_refused(&readers, &format!("{count} instances"));
        let (moved, started) = (moved(&homes, &now), starts(&instances) - before);
        eprintln!("{count} instances: {moved} tasks moved, {started} were started");
        assert!(moved == fair && started <= at_most, "{count}: {moved} moved, {started} started: {homes:?}, {now:?}");
        homes = now;
    }
    let busy: BTreeSet<usize> = homes.values().copied().collect();
    let idle: Vec<Rest> = (0..5).filter(|index| !busy.contains(index)).map(|index| instances[index].rest()).collect();
    assert_eq!(idle.len(), 1, "{homes:?}");
    idle.iter().for_each(check_idle);

    while instances.len() > 2 {
        let mut gone = instances.remove(rng.random_range(0..instances.len()));
        let held = tasks::of(&gone.rest()).iter().filter(|task| task.assigned == "active").count();
        let before = starts(&instances);
        readers.go_through(&rests(&mut instances));
        readers.wait_answers();
        assert!(gone.terminate().success());
        tasks::wait_processed(&rests(&mut instances), TASKS, LIMIT);
        check_refused(&readers, &format!("{} instances", instances.len()));
        let started = starts(&instances) - before;
        eprintln!("{} instances: of one that went with {held} tasks, {started} were started", instances.len());
        // One more may move, so that the load is fair.
        assert!((held..=held + 1).contains(&started), "{started} tasks started for {held}");
    }
    wait_settled(&mut all(&mut instances), TASKS, 1, LIMIT);
    check_refused(&readers, "in the end");
    assert_eq!(cluster::evictions(&rests(&mut instances)), 0.0);
    readers.finish();
    let model = traffic.finish();
    for rest in rests(&mut instances) {
        check_exactly(kafka, &names, &rest, &model, LIMIT);
    }
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}
