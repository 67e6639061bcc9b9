//! Slow is not dead: an instance, or a link between two, that stands still for two seconds costs nobody its membership, and reads
//! go around it at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use holdfast_tests::{
    chance,
    cluster::{self, evictions},
    instance::{Instance, InstanceConfig},
    inventory::check_exactly,
    kafka::{Kafka, Names},
    load::LoadConfig,
    network::Proxy,
    ports,
    readers::{Asking, BOUNDED, Kind, Readers, wait_items},
    rest::Rest,
    tasks::{Homes, wait_settled},
    traffic::Traffic,
    wait,
};

const LIMIT: Duration = Duration::from_secs(40);
const LOAD: LoadConfig = LoadConfig { stores: 100, skus: 40, bad_one_in: 0, counting: true };
const PER_S: f64 = 500.0;
const TASKS: usize = 6;
/// Less than after what a peer is held to be gone.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Three instances, each task with a copy besides, and the ways on which their peers reach them.
struct Three {
    kafka: &'static Kafka,
    names: Names,
    instances: Vec<Instance>,
    links: Vec<Proxy>,
    rests: Vec<Rest>,
    traffic: Traffic,
}

impl Three {
    fn start(test: &str) -> Self {
        let seed = chance::seed(test);
        let kafka = Kafka::shared();
        let names = Names::fresh(test);
        names.create_topics(kafka, 3);
        let config = InstanceConfig::new(kafka, &names)
            .set("session_timeout_ms", "45000")
            .set("num_stream_threads", "1")
            .set("num_standby_replicas", "1");
        let (mut instances, mut links) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let port = ports::free();
            let link = Proxy::start("127.0.0.1", 0, &format!("127.0.0.1:{port}"));
            let config = config.clone().set("peer_listen", format!("127.0.0.1:{port}"));
            instances.push(config.set("peer_advertise", link.address().to_string()).start());
            links.push(link);
        }
        cluster::wait_spread(&mut instances);
        let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
        let rests: Vec<Rest> = instances.iter_mut().map(Instance::rest).collect();
        wait_items(&rests, LOAD.skus);
        Self { kafka, names, instances, links, rests, traffic }
    }

    fn homes(&mut self) -> Homes {
        wait_settled(&mut self.instances.iter_mut().collect::<Vec<_>>(), TASKS, 1, LIMIT)
    }

    /// The group's generations, as each knows them.
    fn generations(&self) -> BTreeSet<i64> {
        let described = self.rests.iter().map(|rest| rest.fetch("/v1/instances").json());
        described.map(|described| described["generation"].as_i64().unwrap()).collect()
    }

    fn wait_condition(&self, of: usize, as_found_by: usize, condition: &str) {
        let (found_by, address) = (&self.rests[as_found_by], self.rests[of].address());
        let what = format!("{} to find {address} {condition}", found_by.address());
        wait::until_equal(what, LIMIT, &condition.to_owned(), || cluster::condition(found_by, address));
    }

    /// Nobody was evicted and nothing moved, no record was lost and none counted twice.
    fn finish(mut self, generations: &BTreeSet<i64>, homes: &Homes) {
        assert_eq!(evictions(&self.rests), 0.0);
        assert_eq!((&self.generations(), &self.homes()), (generations, homes), "nothing moved");
        let model = self.traffic.finish();
        for rest in &self.rests {
            check_exactly(self.kafka, &self.names, rest, &model, LIMIT);
        }
        self.instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
    }
}

/// All kinds of reads, of which those that a copy may answer must not be refused.
fn readers(rests: &[Rest]) -> Readers {
    let kinds = [Asking::Strong.into(), Kind::from(BOUNDED), BOUNDED.in_batches(), BOUNDED.in_scans()];
    let readers = Readers::start(rests, &kinds, LOAD.skus);
    readers.wait_answers();
    readers
}

fn check_answered(readers: Readers) {
    readers.wait_answers();
    let (answered, refused) = readers.finish();
    let (strong, refused): (Vec<_>, Vec<_>) = refused.into_iter().partition(|refusal| refusal.asking == Asking::Strong);
    eprintln!("{answered} reads answered, {} strong ones refused", strong.len());
    assert!(refused.is_empty(), "of {answered} reads: {refused:#?}");
}

#[test]
fn an_instance_that_stands_still_for_two_seconds_is_gone_around_and_not_evicted() {
    let mut three = Three::start("standstill");
    let homes = three.homes();
    let generations = three.generations();
    let readers = readers(&three.rests[1..]);

    three.instances[0].pause();
    let paused = Instant::now();
    three.wait_condition(0, 1, "slow");
    wait::until_true("two seconds to pass", LIMIT, || paused.elapsed() >= STANDSTILL);
    three.instances[0].resume();
    three.wait_condition(0, 1, "alive");
    check_answered(readers);
    three.finish(&generations, &homes);
}

#[test]
fn a_link_between_two_that_stands_still_for_two_seconds_costs_neither_its_membership() {
    let mut three = Three::start("still-link");
    let homes = three.homes();
    let generations = three.generations();
    let readers = readers(&three.rests);

    let pids = [three.instances[0].pid(), three.instances[1].pid()];
    three.links[0].silence_for(pids[1]);
    three.links[1].silence_for(pids[0]);
    let silent = Instant::now();
    three.wait_condition(0, 1, "slow");
    three.wait_condition(1, 0, "slow");
    for (of, as_found_by) in [(0, 2), (1, 2), (2, 0), (2, 1)] {
        let condition = cluster::condition(&three.rests[as_found_by], three.rests[of].address());
        assert!(matches!(&*condition, "alive" | "slow"), "{of} is {condition} as found by {as_found_by}");
    }
    wait::until_true("two seconds to pass", LIMIT, || silent.elapsed() >= STANDSTILL);
    three.links.iter().for_each(Proxy::mend);
    three.wait_condition(0, 1, "alive");
    three.wait_condition(1, 0, "alive");
    check_answered(readers);
    three.finish(&generations, &homes);
}
