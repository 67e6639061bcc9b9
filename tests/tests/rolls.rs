//! Rolling restarts and tasks that move, under reads: no read is refused while a copy within its bound is up somewhere.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use holdfast_tests::{
    chance, cluster,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::check_exactly,
    kafka::{Kafka, KafkaConfig, Names},
    load::LoadConfig,
    readers::{Asking, BOUNDED, Kind, Readers, Refusal, wait_items},
    rest::Rest,
    tasks::wait_settled,
    traffic::Traffic,
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 60, skus: 30, bad_one_in: 0, counting: true };
const PER_S: f64 = 400.0;
const TASKS: usize = 6;
/// What a stop takes at most, beside what it is told to wait. It is well under 5 s where nothing else runs.
const STOP: Duration = Duration::from_secs(10);

/// Threads that do nothing but compute, as on a machine that has too much to do.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn start(threads: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spin = |stop: Arc<AtomicBool>| {
            move || {
                let mut sum = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    sum = black_box(sum.wrapping_mul(31).wrapping_add(1));
                }
            }
        };
        let threads = (0..threads).map(|_| thread::spawn(spin(Arc::clone(&stop)))).collect();
        Self { stop, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn config(kafka: &Kafka, names: &Names, standbys: usize) -> InstanceConfig {
    InstanceConfig::new(kafka, names)
        .set("session_timeout_ms", "45000")
        .set("num_stream_threads", "1")
        .set("num_standby_replicas", standbys.to_string())
}

fn rests(instances: &mut [Instance], away: Option<usize>) -> Vec<Rest> {
    let there = instances.iter_mut().enumerate().filter(|(index, _)| Some(*index) != away);
    there.map(|(_, instance)| instance.rest()).collect()
}

/// Restarts one after the other under reads; the reads that nobody could answer.
fn roll(
    instances: &mut [Instance],
    readers: &Readers,
    order: &[usize],
    settled: impl Fn(&mut [Instance]),
) -> Vec<Refusal> {
    let begin = Instant::now();
    let mut unanswerable = Vec::new();
    for &number in order {
        readers.go_through(&rests(instances, Some(number)));
        readers.wait_answers();
        assert!(instances[number].terminate().success());
        let stopped = begin.elapsed();
        instances[number].start_again(&StateFate::Keep);
        instances[number].wait_ready();
        readers.go_through(&rests(instances, None));
        settled(instances);
        readers.wait_answers();
        // On a machine that is too busy to answer at all, more copies would not help.
        let (late, refused): (Vec<_>, Vec<_>) =
            readers.refused().into_iter().partition(|refusal| refusal.status == 504);
        eprintln!(
            "instance {number} was stopped at {:.1} s, all is well at {:.1} s; {} reads refused, {} too late",
            stopped.as_secs_f64(),
            begin.elapsed().as_secs_f64(),
            refused.len(),
            late.len(),
        );
        unanswerable.extend(refused);
    }
    unanswerable
}

#[track_caller]
fn check(kafka: &Kafka, names: &Names, instances: &mut [Instance], readers: Readers, traffic: Traffic) {
    readers.finish();
    let model = traffic.finish();
    for rest in rests(instances, None) {
        check_exactly(kafka, names, &rest, &model, LIMIT);
    }
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
}

#[test]
fn a_task_without_standbys_is_readable_on_its_way_to_another_instance() {
    let seed = chance::seed("rolls without standbys");
    let kafka = Kafka::start_with(KafkaConfig { proxied: true, ..KafkaConfig::default() });
    let names = Names::fresh("on-the-way");
    names.create_topics(&kafka, 3);
    let config = config(&kafka, &names, 0);
    let mut instances = cluster::start(&config, 2);
    // What it restores takes longer than a read looks for somebody who can answer, and others let go of tasks at once.
    instances.push(config.set("bootstrap_servers", kafka.proxied_bootstrap()).start());
    cluster::wait_spread(&mut instances);
    let traffic = Traffic::start(&kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&rests(&mut instances, None), LOAD.skus);
    // However long a machine that is busy with other tests takes: a copy must be there all the while, not a fresh one.
    let old = Asking::Bounded(LIMIT);
    let readers = Readers::start(&rests(&mut instances, None)[..2], &[old, Asking::Any], LOAD.skus);
    kafka.proxy().delay(Duration::from_millis(250));
    let refused = roll(&mut instances, &readers, &[2, 0].repeat(chance::repetitions(1)), |instances| {
        let mut all: Vec<&mut Instance> = instances.iter_mut().collect();
        wait_settled(&mut all, TASKS, 0, LIMIT);
    });
    kafka.proxy().mend();
    assert!(refused.is_empty(), "{refused:#?}");
    check(&kafka, &names, &mut instances, readers, traffic);
}

#[test]
fn a_roll_on_a_loaded_machine_refuses_no_read() {
    let seed = chance::seed("rolls under load");
    let kafka = Kafka::shared();
    let names = Names::fresh("loaded-roll");
    names.create_topics(kafka, 3);
    let mut instances = cluster::start(&config(kafka, &names, 1), 3);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&rests(&mut instances, None), LOAD.skus);
    let mut all: Vec<&mut Instance> = instances.iter_mut().collect();
    wait_settled(&mut all, TASKS, 1, LIMIT);
    let readers = Readers::start(&rests(&mut instances, None)[..2], &[BOUNDED, Asking::Any], LOAD.skus);
    wait::until_true("the changelogs to grow", LIMIT, || traffic.sent() >= 1_000);
    let busy = Busy::start(3);
    let refused = roll(&mut instances, &readers, &[0, 1, 2].repeat(chance::repetitions(1)), |instances| {
        let mut all: Vec<&mut Instance> = instances.iter_mut().collect();
        wait_settled(&mut all, TASKS, 1, LIMIT);
    });
    drop(busy);
    assert!(refused.is_empty(), "{refused:#?}");
    check(kafka, &names, &mut instances, readers, traffic);
}

#[test]
fn an_instance_that_drains_is_unready_at_once_answers_on_and_is_gone_in_seconds() {
    const DELAY: Duration = Duration::from_secs(4);
    let seed = chance::seed("drains");
    let kafka = Kafka::shared();
    let names = Names::fresh("drains");
    names.create_topics(kafka, 3);
    let config = config(kafka, &names, 1);
    let delayed = config.clone().set("drain_delay_ms", DELAY.as_millis().to_string());
    let mut instances = vec![delayed.start(), config.clone().start(), config.start()];
    cluster::wait_spread(&mut instances);
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, PER_S);
    wait_items(&rests(&mut instances, None), LOAD.skus);
    let kinds = [Kind::from(BOUNDED), BOUNDED.in_batches(), BOUNDED.in_scans()];
    let readers = Readers::start(&rests(&mut instances, None)[1..2], &kinds, LOAD.skus);
    for (index, delay) in [(0, DELAY), (1, Duration::ZERO)] {
        let mut all: Vec<&mut Instance> = instances.iter_mut().collect();
        wait_settled(&mut all, TASKS, 1, LIMIT);
        readers.go_through(&rests(&mut instances, Some(index)));
        readers.wait_answers();
        let rest = instances[index].rest();
        let ready = || rest.fetch("/healthz/ready").status;
        assert_eq!(ready(), 200);
        instances[index].begin_termination();
        let begin = Instant::now();
        if delay > Duration::ZERO {
            wait::until_equal("it to be unready", LIMIT, &503, ready);
            for item in 0..LOAD.skus {
                rest.fetch(&format!("/v1/stores/ItemStock/keys/Item_{item}")).expect_status(200);
            }
            assert_eq!(ready(), 503);
        }
        let (status, log) = instances[index].wait_for_exit();
        let took = begin.elapsed();
        eprintln!("a drain with a delay of {delay:?} took {took:?}");
        assert!(status.success() && took < delay + STOP, "{took:?}\n{log}");
        readers.wait_answers();
        instances[index].start_again(&StateFate::Keep);
        instances[index].wait_ready();
    }
    let refused = readers.refused();
    assert!(refused.is_empty(), "{refused:#?}");
    check(kafka, &names, &mut instances, readers, traffic);
}
