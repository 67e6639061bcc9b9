//! Instances in two zones: copies are in the other zone than the task, and a whole zone that dies at once takes no row along.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, time::Duration};

use holdfast_tests::{
    chance,
    cluster::{self, wait_owned},
    instance::{Instance, InstanceConfig},
    inventory::check_exactly,
    kafka::{Kafka, Names},
    load::LoadConfig,
    readers::{BOUNDED, Readers, wait_items},
    rest::Rest,
    tasks,
    traffic::Traffic,
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 100, skus: 40, bad_one_in: 0, counting: true };
const PER_S: f64 = 400.0;
const TASKS: usize = 6;
/// Nothing but their zones makes one of them hold a copy of each task.
const ZONES: [&str; 4] = ["a", "a", "a", "b"];

fn config(kafka: &Kafka, names: &Names, zone: &str) -> InstanceConfig {
    InstanceConfig::new(kafka, names)
        .set("session_timeout_ms", "45000")
        .set("num_stream_threads", "1")
        .set("num_standby_replicas", "1")
        .set("tags", format!("zone={zone}"))
}

/// Tasks whose copies are all in one zone.
fn in_one_zone(rests: &[Rest]) -> Vec<String> {
    let mut zones: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (rest, zone) in rests.iter().zip(ZONES) {
        tasks::of(rest).into_iter().for_each(|task| zones.entry(task.id).or_default().push(zone));
    }
    zones
        .into_iter()
        .filter(|(_, zones)| !(zones.contains(&"a") && zones.contains(&"b")))
        .map(|(task, _)| task)
        .collect()
}

#[test]
fn a_zone_that_is_killed_as_a_whole_takes_no_row_along() {
    let seed = chance::seed("zones");
    let kafka = Kafka::shared();
    let names = Names::fresh("zones");
    names.create_topics(kafka, 3);
    let mut instances: Vec<Instance> = ZONES.iter().map(|zone| config(kafka, &names, zone).start()).collect();
    cluster::wait_spread(&mut instances);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    let rests: Vec<Rest> = instances.iter_mut().map(Instance::rest).collect();
    wait_items(&rests, LOAD.skus);
    // Copies that were placed before all four were there may move yet.
    wait::until("each task to have a copy in each zone", LIMIT, || {
        tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), TASKS, 1, LIMIT);
        let alike = in_one_zone(&rests);
        if alike.is_empty() { Ok(()) } else { Err(format!("{alike:?} are in one zone only")) }
    });

    // The last one is the other zone.
    let (dying, alive) = instances.split_at_mut(ZONES.len() - 1);
    let survivors: Vec<Rest> = alive.iter_mut().map(Instance::rest).collect();
    let readers = Readers::start(&survivors, &[BOUNDED], LOAD.skus);
    readers.wait_answers();
    dying.iter_mut().for_each(Instance::kill);
    wait_owned(&survivors, TASKS);
    readers.wait_answers();
    let (answered, refused) = readers.finish();
    assert!(refused.is_empty(), "of {answered} reads: {refused:?}");
    let model = traffic.finish();
    for rest in &survivors {
        check_exactly(kafka, &names, rest, &model, LIMIT);
    }
    alive.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}
