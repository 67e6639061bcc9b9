//! One of three instances is killed, or stands still, under reads and writes: who is gone is evicted long before its session
//! ends, nobody else is, and no answer is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use holdfast_tests::{
    chance, cluster,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::{ITEMS, check_exactly},
    kafka::{Kafka, Names},
    load::LoadConfig,
    network::Proxy,
    ports,
    rest::Rest,
    tasks,
    traffic::Traffic,
    wait,
};

/// Kafka's default: whoever waits for it fails these tests.
const SESSION_MS: &str = "45000";
const LIMIT: Duration = Duration::from_secs(40);
const LOAD: LoadConfig = LoadConfig { stores: 100, skus: 40, bad_one_in: 0, counting: true };
const PER_S: f64 = 500.0;

fn config(kafka: &Kafka, names: &Names) -> InstanceConfig {
    InstanceConfig::new(kafka, names).set("session_timeout_ms", SESSION_MS).set("num_stream_threads", "1")
}

/// Reads all items through some instances all the while; all of them exist. Stock only grows: of strong reads, a smaller one
/// than was read before is a wrong answer. An answer may be refused, with a reason and a time to try again.
struct Readers {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
}

impl Readers {
    fn start(rests: &[Rest], consistency: &'static str) -> Self {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let seen: Arc<Vec<AtomicI64>> = Arc::new((0..LOAD.skus).map(|_| AtomicI64::new(0)).collect());
        let threads = rests.iter().cloned().map(|rest| {
            let (stop, counts, seen) = (Arc::clone(&stop), Arc::clone(&counts), Arc::clone(&seen));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for (item, seen) in seen.iter().enumerate() {
                        read(&rest, consistency, item, seen, &counts);
                    }
                }
            })
        });
        Self { threads: threads.collect(), stop, counts }
    }

    /// Waits until every instance has answered for each item again, on average.
    #[track_caller]
    fn wait_answers(&self) {
        let more = self.counts.answered.load(Ordering::Relaxed) + u64::from(LOAD.skus) * self.threads.len() as u64;
        wait::until_true("reads to be answered", LIMIT, || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a reader failed; its message is above");
            self.counts.answered.load(Ordering::Relaxed) >= more
        });
    }

    fn finish(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a reader failed; its message is above"));
        (self.counts.answered.load(Ordering::Relaxed), self.counts.refused.load(Ordering::Relaxed))
    }
}

fn read(rest: &Rest, consistency: &str, item: usize, seen: &AtomicI64, counts: &Counts) {
    // Before the question: what others read meanwhile may be newer than this answer.
    let at_least = seen.load(Ordering::SeqCst);
    let answer = rest.fetch(&format!("/v1/stores/{ITEMS}/keys/Item_{item}?consistency={consistency}"));
    let stock = match answer.status {
        200 => answer.json()["value"]["currentStock"].as_i64().unwrap(),
        503 | 504 => {
            assert!(answer.json()["retryable"].as_bool().unwrap(), "{answer:?}");
            counts.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        _ => panic!("item {item}: {answer:?}"),
    };
    let staleness_ms: u64 = answer.header("Holdfast-Staleness-Ms").parse().unwrap();
    assert!(staleness_ms <= 5_000, "item {item}: {staleness_ms} ms old");
    let older = consistency == "bounded";
    assert!(older || stock >= at_least, "item {item}: {stock} after {at_least} was read: {answer:?}");
    seen.fetch_max(stock, Ordering::SeqCst);
    counts.answered.fetch_add(1, Ordering::Relaxed);
}

/// Waits until every item exists, whomever one asks.
#[track_caller]
fn wait_items(instances: &mut [Instance]) {
    for instance in instances {
        let rest = instance.rest();
        let expected = LOAD.skus as usize;
        wait::until_equal("a row for each item", LIMIT, &expected, || rest.scan(ITEMS, 100).len());
    }
}

/// Waits until those that are left own all tasks and are all that is in the group.
#[track_caller]
fn wait_owned(rests: &[Rest], tasks: usize) {
    for rest in rests {
        wait::until(format!("{} to know all tasks' owners", rest.address()), LIMIT, || {
            let described = rest.fetch("/v1/instances").json();
            let members: Vec<_> = cluster::members(&described).collect();
            let owned: usize = members.iter().map(|member| member["active"].as_array().unwrap().len()).sum();
            if members.len() == rests.len() && owned == tasks { Ok(()) } else { Err(described.to_string()) }
        });
    }
}

#[test]
fn a_killed_instance_is_evicted_and_its_tasks_go_on_long_before_its_session_ends() {
    let seed = chance::seed("failover");
    let kafka = Kafka::shared();
    let names = Names::fresh("failover");
    names.create_topics(kafka, 3);
    let mut instances = cluster::start(&config(kafka, &names), 3);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&mut instances);
    for kill in 0..chance::repetitions(2) {
        let dead = kill % 3;
        let address = instances[dead].address();
        let rests: Vec<Rest> =
            instances.iter_mut().enumerate().filter(|(index, _)| *index != dead).map(|(_, i)| i.rest()).collect();
        let readers = Readers::start(&rests, "strong");
        readers.wait_answers();
        instances[dead].kill();
        let killed = Instant::now();
        wait_owned(&rests, 6);
        let owned = killed.elapsed();
        // What is written from now on becomes readable, and what was open at the kill with it.
        let sent = i64::try_from(traffic.sent()).unwrap();
        wait::until("what was written after the kill to be readable", LIMIT, || {
            let rows = rests[0].try_scan(ITEMS, 100).map_err(|refused| refused.body)?;
            let total: i64 = rows.iter().map(|(_, row)| row["currentStock"].as_i64().unwrap()).sum();
            if total >= sent { Ok(()) } else { Err(format!("{total} of {sent}")) }
        });
        eprintln!("kill {kill} of {address}: tasks owned after {owned:?}, rows fresh after {:?}", killed.elapsed());
        readers.wait_answers();
        let (answered, refused) = readers.finish();
        eprintln!("kill {kill}: {answered} reads answered, {refused} refused");
        let removed: f64 = rests
            .iter()
            .map(|rest| rest.metric("holdfast_evictions_total", &[("outcome", "removed")]).unwrap_or(0.0))
            .sum();
        assert!(removed >= 1.0, "its peers removed it, not its session's end");
        instances[dead].start_again(&StateFate::Keep);
        cluster::wait_spread(&mut instances);
    }
    let model = traffic.finish();
    for instance in &mut instances {
        check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    }
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

#[test]
fn with_a_standby_no_read_fails_when_an_instance_is_killed() {
    let seed = chance::seed("standby failover");
    let kafka = Kafka::shared();
    let names = Names::fresh("standby-failover");
    names.create_topics(kafka, 3);
    let mut instances = cluster::start(&config(kafka, &names).set("num_standby_replicas", "1"), 3);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&mut instances);
    tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), 6, 1, LIMIT);
    let rests: Vec<Rest> = instances[1..].iter_mut().map(Instance::rest).collect();
    let readers = Readers::start(&rests, "bounded");
    readers.wait_answers();
    instances[0].kill();
    wait_owned(&rests, 6);
    readers.wait_answers();
    let (answered, refused) = readers.finish();
    assert_eq!(refused, 0, "of {answered} and more reads");
    let model = traffic.finish();
    for instance in &mut instances[1..] {
        check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    }
    instances[1..].iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

#[test]
fn with_a_standby_no_read_fails_while_all_instances_are_restarted_in_turn() {
    let seed = chance::seed("roll");
    let kafka = Kafka::shared();
    let names = Names::fresh("rolling");
    names.create_topics(kafka, 3);
    let mut instances = cluster::start(&config(kafka, &names).set("num_standby_replicas", "1"), 3);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&mut instances);
    for rolled in 0..instances.len() {
        tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), 6, 1, LIMIT);
        let others = instances.iter_mut().enumerate().filter(|(index, _)| *index != rolled);
        let rests: Vec<Rest> = others.map(|(_, instance)| instance.rest()).collect();
        let readers = Readers::start(&rests, "bounded");
        readers.wait_answers();
        assert!(instances[rolled].terminate().success());
        readers.wait_answers();
        instances[rolled].start_again(&StateFate::Keep);
        instances[rolled].wait_ready();
        readers.wait_answers();
        let (answered, refused) = readers.finish();
        assert_eq!(refused, 0, "restart {rolled}: of {answered} and more reads");
    }
    let model = traffic.finish();
    for instance in &mut instances {
        check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    }
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

#[test]
fn an_instance_whose_peers_do_not_reach_it_is_gone_around_and_not_evicted() {
    let seed = chance::seed("links");
    let kafka = Kafka::shared();
    let names = Names::fresh("links");
    names.create_topics(kafka, 3);
    let port = ports::free();
    let link = Proxy::start("127.0.0.1", 0, &format!("127.0.0.1:{port}"));
    let config = config(kafka, &names).set("num_standby_replicas", "1");
    let behind = config
        .clone()
        .set("peer_listen", format!("127.0.0.1:{port}"))
        .set("peer_advertise", link.address().to_string());
    let mut instances = vec![behind.start(), config.clone().start(), config.start()];
    cluster::wait_spread(&mut instances);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&mut instances);
    tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), 6, 1, LIMIT);
    let rests: Vec<Rest> = instances.iter_mut().map(Instance::rest).collect();
    let members = cluster::member_addresses(&rests[1]);

    for fault in [Proxy::silence as fn(&Proxy), Proxy::cut] {
        let readers = Readers::start(&rests[1..], "bounded");
        readers.wait_answers();
        fault(&link);
        for _ in 0..5 {
            readers.wait_answers();
        }
        link.mend();
        readers.wait_answers();
        let (answered, refused) = readers.finish();
        assert_eq!(refused, 0, "of {answered} reads");
    }
    for rest in &rests {
        assert_eq!(rest.metric("holdfast_evictions_total", &[]).unwrap_or(0.0), 0.0, "{}", rest.address());
        assert_eq!(cluster::member_addresses(rest), members);
    }
    let model = traffic.finish();
    for rest in &rests {
        check_exactly(kafka, &names, rest, &model, LIMIT);
    }
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

#[test]
fn an_instance_that_stands_still_for_two_seconds_is_not_evicted() {
    let seed = chance::seed("standstill");
    let mut rng = chance::rng(seed);
    let kafka = Kafka::shared();
    let names = Names::fresh("standstill");
    names.create_topics(kafka, 3);
    let mut instances = cluster::start(&config(kafka, &names), 3);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    let rests: Vec<Rest> = instances.iter_mut().map(Instance::rest).collect();
    wait_items(&mut instances);
    let readers = Readers::start(&rests[1..], "strong");
    readers.wait_answers();
    let address = instances[0].address();
    let generation = |rest: &Rest| rest.fetch("/v1/instances").json()["generation"].clone();
    let before = generation(&rests[1]);

    instances[0].pause();
    let paused = Instant::now();
    wait::until("the others to find it slow", LIMIT, || match cluster::condition(&rests[1], &address) {
        slow if slow == "slow" => Ok(()),
        other => Err(other),
    });
    // Two seconds in all: less than the time-out, which is three.
    wait::random_moment(&mut rng, Duration::from_secs(2).saturating_sub(paused.elapsed()));
    instances[0].resume();
    wait::until_equal("the others to find it alive again", LIMIT, &"alive".to_owned(), || {
        cluster::condition(&rests[1], &address)
    });
    readers.wait_answers();
    readers.finish();
    for rest in &rests {
        assert_eq!(rest.metric("holdfast_evictions_total", &[]).unwrap_or(0.0), 0.0, "{}", rest.address());
        assert_eq!(generation(rest), before, "nothing moved");
    }
    let model = traffic.finish();
    for rest in &rests {
        check_exactly(kafka, &names, rest, &model, LIMIT);
    }
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}
