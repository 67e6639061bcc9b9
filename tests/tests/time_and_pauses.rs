//! Time that is not what it seems: a process that is stopped for longer than its session, a wall clock that is moved.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use holdfast_tests::{
    consumer,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::{check_exactly, check_twice_at_most, committed},
    kafka::{Kafka, Names},
    load::LoadConfig,
    rest::Rest,
    traffic::Traffic,
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 200, skus: 20, bad_one_in: 50, counting: false };
const PER_S: f64 = 2_000.0;
const HOUR_S: i64 = 3_600;
const ROW: &str = "/v1/stores/StoreInventoryStock/keys/Store_1";

/// Waits until everything that is written now is committed, and then some: the instance keeps up with its input.
#[track_caller]
fn wait_keeps_up(kafka: &Kafka, names: &Names) {
    let end: i64 = consumer::end_offsets(kafka, &names.items).values().sum();
    wait::until(format!("{end} records to be committed"), LIMIT, || match committed(kafka, names) {
        seen if seen > end => Ok(()),
        seen => Err(format!("{seen} are")),
    });
}

#[test]
fn a_pause_longer_than_the_session_is_survived_without_a_stale_answer() {
    let kafka = Kafka::shared();
    for guarantee in ["exactly_once", "at_least_once"] {
        let names = Names::fresh("pause");
        names.create_topics(kafka, 2);
        let mut instance = InstanceConfig::new(kafka, &names)
            .set("processing_guarantee", guarantee)
            .set("session_timeout_ms", "2000")
            .set("heartbeat_interval_ms", "300")
            .set("transaction_timeout_ms", "2000")
            .start_ready();
        let rest = instance.rest();
        // Under at-least-once, only counts tell what was lost from what counted twice.
        let load = LoadConfig { counting: true, bad_one_in: 0, ..LOAD };
        let traffic = Traffic::start(kafka, &names.items, load, 5, PER_S);
        // From here on, "no such key" is a wrong answer.
        wait::until("the row that is asked for to be committed", LIMIT, || match rest.get(ROW) {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let mut at_risk = 0;
        for _ in 0..2 {
            wait_keeps_up(kafka, &names);
            instance.pause();
            at_risk += uncommitted(kafka, &names);
            wait::until_equal("the coordinator to remove the member", LIMIT, &0, || {
                consumer::members(kafka, &names.application_id)
            });
            // Asked while it stands still, answered after it goes on: by then it knows nothing of who owns what.
            let waiting: Vec<_> = ["strong", "bounded&max_staleness=1000"]
                .map(|consistency| {
                    let (rest, kafka, group) = (rest.clone(), kafka, names.application_id.clone());
                    thread::spawn(move || assert_never_stale(&rest, kafka, &group, consistency))
                })
                .into();
            instance.resume();
            for asker in waiting {
                asker.join().unwrap();
            }
            instance.wait_ready();
            wait_keeps_up(kafka, &names);
        }
        let model = traffic.finish();
        if guarantee == "exactly_once" {
            check_exactly(kafka, &names, &rest, &model, LIMIT);
        } else {
            check_twice_at_most(kafka, &names, &rest, &model, at_risk, LIMIT);
        }
        assert!(instance.terminate().success());
    }
}

/// Asks until there is an answer with a row. While the group has no member, nobody may answer at this consistency.
fn assert_never_stale(rest: &Rest, kafka: &Kafka, group: &str, consistency: &str) {
    let path = format!("{ROW}?timeout=500&consistency={consistency}");
    wait::until(format!("{consistency} reads to be answered again"), LIMIT, || {
        let Ok(answer) = rest.get(&path) else { return Err("no answer".to_owned()) };
        if answer.status != 200 {
            assert!(matches!(answer.status, 503 | 504), "{consistency}: {} {}", answer.status, answer.body);
            return Err(format!("{} {}", answer.status, answer.body));
        }
        assert_eq!(consumer::members(kafka, group), 1, "{consistency}: answered by one that is no member: {answer:?}");
        let staleness_ms: u64 = answer.header("Holdfast-Staleness-Ms").parse().unwrap();
        assert!(staleness_ms <= 1_000, "{consistency}: {staleness_ms} ms old");
        Ok(())
    });
}

/// Records of both hops that the group has not committed.
fn uncommitted(kafka: &Kafka, names: &Names) -> i64 {
    let of_topic = |topic: &str| consumer::uncommitted(kafka, &names.application_id, topic);
    of_topic(&names.items) + of_topic(&names.repartition(kafka))
}

#[test]
fn a_clock_that_jumps_changes_no_row_and_stops_nothing() {
    let kafka = Kafka::shared();
    let names = Names::fresh("clock");
    names.create_topics(kafka, 2);
    let mut instance = InstanceConfig::new(kafka, &names).faulty().set("max_replay_ms", "500").start_ready();
    let traffic = Traffic::start(kafka, &names.items, LOAD, 6, PER_S);
    let reader = Reader::start(instance.rest());
    // While it runs: on, back past where it was, and home again. A timer that waits for the wall clock would stand still.
    for hours in [1, -1, 0] {
        instance.faults().move_clock(hours * HOUR_S);
        wait_keeps_up(kafka, &names);
        reader.assert_answered(100);
        assert_eq!(instance.rest().fetch("/healthz/ready").status, 200);
    }
    reader.stop();
    // Between two lives: state that seems to come from the future, and from an hour ago.
    for hours in [1, -1, 0] {
        wait_keeps_up(kafka, &names);
        instance.kill();
        instance.faults().move_clock(hours * HOUR_S);
        instance.start_again(&StateFate::Keep);
        instance.wait_ready();
        assert_state_was_used(&instance);
    }
    let model = traffic.finish();
    check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());
}

#[track_caller]
fn assert_state_was_used(instance: &Instance) {
    let log = instance.log();
    assert!(!log.contains("restoring from zero"), "an hour is no reason to restore from zero:\n{log}");
}

/// Reads within a bound all the while; each must be answered.
struct Reader {
    thread: Option<thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Reader {
    fn start(rest: Rest) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for consistency in ["strong", "bounded"] {
                    let path = format!("/v1/stores/ItemStock/keys/Item_1?consistency={consistency}");
                    let answer = rest.fetch(&path);
                    assert!(matches!(answer.status, 200 | 404), "{consistency}: {} {}", answer.status, answer.body);
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { thread: Some(thread), stop, answered }
    }

    /// Waits for further answers.
    #[track_caller]
    fn assert_answered(&self, more: u64) {
        let from = self.answered.load(Ordering::Relaxed);
        wait::until_true("reads to be answered", LIMIT, || {
            assert!(!self.thread.as_ref().unwrap().is_finished(), "a read failed; its message is above");
            self.answered.load(Ordering::Relaxed) >= from + more
        });
    }

    #[track_caller]
    fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("a read failed; its message is above");
    }
}
