//! Slow and failing user code: a closure that takes long, one that fails, one that panics. It costs the record that it was
//! given, at most; it is counted, and named in the log; heartbeats and look-ups go on.
//!
//! The service here is `tests/examples/unruly.rs`, whose closures do what its records say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use holdfast_tests::{
    chance, consumer,
    instance::{Instance, InstanceConfig, StateFate},
    kafka::Kafka,
    letters, log,
    producer::Producer,
    rest::Rest,
    tasks, wait,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(120);

/// An unruly service with topics of its own.
struct Unruly {
    kafka: &'static Kafka,
    name: String,
    orders: String,
    producer: Producer,
    /// The sum and the count of each key, of the orders that are to count.
    expected: BTreeMap<String, (i64, i64)>,
    /// The orders that are to become dead letters, by their number.
    refused: BTreeSet<i64>,
    next: i64,
}

impl Unruly {
    fn new(name: &str, partitions: i32) -> Self {
        let kafka = Kafka::shared();
        let orders = format!("{name}.orders");
        kafka.create_topic(&orders, partitions, &[]);
        let (producer, name) = (Producer::new(kafka), name.to_owned());
        Self { kafka, name, orders, producer, expected: BTreeMap::new(), refused: BTreeSet::new(), next: 1 }
    }

    fn config(&self) -> InstanceConfig {
        InstanceConfig::example("unruly", self.kafka, &self.name)
            .set("orders_topic", &self.orders)
            .set("sums_topic", format!("{}.sums", self.name))
            .set("num_stream_threads", "1")
    }

    /// An instance that has committed a first order, of the key `first`.
    fn start(&mut self) -> (Instance, Rest) {
        let mut instance = self.config().start_ready();
        self.work("first");
        self.producer.flush();
        let rest = instance.rest();
        wait::until_true("the first row", LIMIT, || rows(&rest).contains_key("first"));
        (instance, rest)
    }

    /// Sends an order that does `act` at `place`; whether it is to count in the end.
    fn send(&mut self, key: &str, act: &str, place: &str, ms: u64, counts: bool) {
        let n = self.next;
        self.next += 1;
        let order = json!({"n": n, "act": act, "at": place, "ms": ms}).to_string();
        self.producer.send(&self.orders, Some(key.as_bytes()), Some(order.as_bytes()));
        if counts {
            let (sum, count) = self.expected.entry(key.to_owned()).or_default();
            *sum += n;
            *count += 1;
        } else {
            self.refused.insert(n);
        }
    }

    fn work(&mut self, key: &str) {
        self.send(key, "work", "filter", 0, true);
    }

    /// Waits until every row is as expected, then holds the dead letters against what was to be refused.
    fn check(&self, rest: &Rest) {
        self.producer.flush();
        wait::until_equal("the rows", LIMIT, &self.expected, || rows(rest));
        consumer::wait_committed(self.kafka, &self.name, &self.orders, LIMIT);
        let letters = letters::by_place(self.kafka, &format!("{}.dlq", self.orders));
        let refused: BTreeSet<i64> = letters.values().map(|letter| letter.json()["n"].as_i64().unwrap()).collect();
        assert_eq!(refused, self.refused);
        assert_eq!(letters.len(), refused.len(), "each once");
    }
}

fn rows(rest: &Rest) -> BTreeMap<String, (i64, i64)> {
    let counts: BTreeMap<String, Value> = rest.scan("counts", 1_000).into_iter().collect();
    let row = |(key, value): (String, Value)| {
        let count = counts.get(&key).and_then(Value::as_i64).unwrap_or(0);
        (key, (value["sum"].as_i64().unwrap(), count))
    };
    rest.scan("sums", 1_000).into_iter().map(row).collect()
}

/// Look-ups that go on until it is dropped; each must be answered.
struct Lookups {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    asking: Option<JoinHandle<()>>,
}

impl Lookups {
    fn start(instance: &mut Instance) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted, rest) = (Arc::clone(&stop), Arc::clone(&answered), instance.rest());
        let asking = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for path in [
                    "/v1/stores/counts/keys/first",
                    "/v1/stores/counts/keys/first?consistency=strong",
                    "/healthz/ready",
                    "/healthz/live",
                ] {
                    rest.fetch(path).expect_status(200);
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, answered, asking: Some(asking) }
    }

    /// Waits for some more answers: what is going on does not hold them up.
    fn go_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        wait::until_true("look-ups to go on", LIMIT, || self.answered.load(Ordering::Relaxed) >= before + 5);
    }

    fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.asking.take().unwrap().join().expect("a look-up was not answered");
    }
}

fn generation(rest: &Rest) -> f64 {
    rest.metric("holdfast_group_generation", &[]).unwrap()
}

/// The named record of each line is one of the topic's.
fn check_names(lines: &[Value], topic: &str) {
    for line in lines {
        let record = log::text(line, "record");
        assert!(record.starts_with(&format!("{topic}-")) && record.contains(" offset "), "{line}");
    }
}

/// Closures of 100 ms, for longer than the session timeout in all.
#[test]
fn closures_of_100_ms_are_counted_and_named_and_hold_nobody_up() {
    let mut unruly = Unruly::new("slow-100", 2);
    let (mut instance, rest) = unruly.start();
    let (generation_before, lookups) = (generation(&rest), Lookups::start(&mut instance));
    for index in 0..70 {
        unruly.send("slow", "sleep", ["filter", "aggregate", "end"][index % 3], 100, true);
        // On the thread's other tasks and behind the slow ones alike.
        unruly.work(&format!("key {}", index % 7));
    }
    unruly.producer.flush();
    // Rows get committed between the slow ones, not after them.
    let began = Instant::now();
    wait::until("some of the slow ones to count", LIMIT, || match rows(&rest).get("slow") {
        Some((_, count)) if *count < 70 => Ok(()),
        Some(_) => panic!("nothing could be read before all was done, {:?}", began.elapsed()),
        None => Err("none does"),
    });
    lookups.go_on();
    unruly.check(&rest);
    lookups.finish();
    assert_eq!(generation(&rest), generation_before, "it stayed in the group");
    let slow = rest.metric("holdfast_stream_slow_records_total", &[]).unwrap();
    // The first ones, before the thread is attentive, may be counted together.
    assert!(slow >= 60.0, "{slow} slow records");
    let lines = log::lines(&instance.log(), "a record took long");
    assert!((1..20).contains(&lines.len()), "{} lines", lines.len());
    check_names(&lines, &unruly.orders);
    assert!(lines.iter().all(|line| log::number(line, "took_ms") >= 100));
    assert!(instance.terminate().success());
}

/// One closure that blocks for longer than the session timeout.
#[test]
fn a_closure_that_blocks_is_named_while_it_does_and_the_member_stays() {
    let mut unruly = Unruly::new("slow-8000", 1);
    let (mut instance, rest) = unruly.start();
    let generation_before = generation(&rest);
    unruly.send("slow", "sleep", "aggregate", 8_000, true);
    unruly.work("behind");
    unruly.producer.flush();
    let told = wait::until("the record to be named", LIMIT, || {
        log::lines(&instance.log(), "is being processed for long").pop().ok_or("no line yet")
    });
    assert_eq!(log::text(&told, "record"), format!("{}-0 offset 1", unruly.orders));
    // In the middle of it: the closure is not back yet.
    let lookups = Lookups::start(&mut instance);
    lookups.go_on();
    assert!(!rows(&rest).contains_key("slow"), "the closure came back too early for this test");
    unruly.check(&rest);
    lookups.finish();
    assert_eq!(generation(&rest), generation_before, "it stayed in the group");
    let lines = log::lines(&instance.log(), "a record took long");
    assert!(lines.iter().any(|line| log::number(line, "took_ms") >= 8_000), "{lines:?}");
    assert!(instance.terminate().success());
}

/// A closure of `ms` milliseconds while its thread's tasks move to another instance, and what it had in hand beside it.
fn closure_in_a_hand_over(name: &str, ms: u64) {
    let is_given_up = ms > 60_000;
    let mut unruly = Unruly::new(name, 2);
    let (mut old, _) = unruly.start();
    for index in 0..200 {
        unruly.work(&format!("key {}", index % 20));
    }
    // Last of a batch: what was processed before it in the same turn is not sealed yet.
    unruly.send("slow", "sleep", "aggregate", ms, true);
    unruly.producer.flush();
    wait::until("the record to be named", LIMIT, || {
        log::lines(&old.log(), "is being processed for long").pop().ok_or("no line yet")
    });
    let mut new = unruly.config().start();
    for index in 0..200 {
        unruly.work(&format!("key {}", index % 20));
    }
    unruly.producer.flush();
    let moved = new.rest();
    let processes = |rest: &Rest| tasks::of(rest).iter().filter(|task| task.role == "active").count();
    let returned = |old: &Instance| !log::lines(&old.log(), "a record took long").is_empty();
    if is_given_up {
        wait::until_true("the other one to process both", LIMIT, || processes(&moved) == 2);
        assert!(!returned(&old), "the closure came back too early for this test");
    } else {
        wait::until_true("the other one to process", LIMIT, || processes(&moved) == 1);
        assert!(returned(&old), "its task was given away while the thread had it");
    }
    let given_up = log::count(&old.log(), &["given up without a commit"]);
    assert_eq!(given_up, usize::from(is_given_up));
    new.wait_ready();
    unruly.check(&moved);
    wait::until_true("the closure to come back", LIMIT, || returned(&old));
    assert!(old.terminate().success());
    unruly.check(&moved);
    assert!(new.terminate().success());
}

#[test]
fn a_hand_over_waits_for_the_closure_in_hand() {
    closure_in_a_hand_over("slow-move", 20_000);
}

/// The group does not wait for ever, and what the thread had in hand counts nowhere but with the tasks' next owner.
#[test]
fn a_closure_that_outlasts_a_hand_over_counts_nothing_twice() {
    if chance::soak() {
        closure_in_a_hand_over("slow-given-up", 75_000);
    }
}

/// A stop in the middle of a closure waits for it, and nothing counts twice.
#[test]
fn a_stop_waits_for_the_closure_in_hand() {
    let mut unruly = Unruly::new("slow-stop", 1);
    let mut instance = unruly.config().start_ready();
    unruly.send("slow", "sleep", "aggregate", 3_000, true);
    unruly.work("behind");
    unruly.producer.flush();
    wait::until("the record to be named", LIMIT, || {
        log::lines(&instance.log(), "is being processed for long").pop().ok_or("no line yet")
    });
    assert!(instance.terminate().success());
    instance.start_again(&StateFate::Keep);
    instance.wait_ready();
    unruly.check(&instance.rest());
    assert!(instance.terminate().success());
}

/// One in three fails, one in ten panics, in every place where a closure can.
fn failing_closures(guarantee: &str) {
    let mut unruly = Unruly::new(&format!("failing-{guarantee}").replace('_', "-"), 2);
    let mut instance = unruly.config().set("processing_guarantee", guarantee).start_ready();
    for index in 0..1_500_usize {
        let mut key = format!("key {}", index % 11);
        // What fails after the tables have changed takes the task back: rarer, so that the test is quick.
        let place = match index % 50 {
            0..20 => "filter",
            20..45 => "aggregate",
            45..48 => "end",
            // Downstream sees the last change of a row only: each such order has a row of its own.
            _ => {
                key = format!("alone {index}");
                "downstream"
            }
        };
        match index % 30 {
            9 | 19 | 29 => unruly.send(&key, "panic", place, 0, false),
            n if n % 3 == 0 => unruly.send(&key, "fail", place, 0, false),
            _ => unruly.work(&key),
        }
    }
    let rest = instance.rest();
    unruly.check(&rest);
    let failed = |kind| rest.metric("holdfast_stream_failed_records_total", &[("kind", kind)]).unwrap_or(0.0) as usize;
    assert!(failed("processing") >= unruly.refused.len());
    assert_eq!(rest.metric("holdfast_stream_thread_failures_total", &[]).unwrap_or(0.0), 0.0);
    let letters = letters::by_place(unruly.kafka, &format!("{}.dlq", unruly.orders));
    for letter in letters.values() {
        let (exception, message) = letters::reason(letter);
        let order = letter.json();
        if order["act"] == "panic" {
            assert_eq!(exception, "holdfast.PanicError");
            assert!(message.contains("unruly.rs:") && message.contains("wants a panic"), "{message}");
        } else {
            assert_eq!(exception, "holdfast.ProcessingError");
            assert!(message.ends_with(&format!("order {} is refused", order["n"])), "{message}");
        }
    }
    let log = instance.log();
    let lines = log::lines(&log, "a record failed");
    assert!((1..50).contains(&lines.len()), "{} lines", lines.len());
    check_names(&lines, &unruly.orders);
    assert!(!log.contains("panicked at") || log.lines().all(|line| line.starts_with('{')), "a panic's own report");
    assert!(instance.terminate().success());
}

#[test]
fn closures_that_fail_or_panic_cost_their_record_exactly_once() {
    failing_closures("exactly_once");
}

#[test]
fn closures_that_fail_or_panic_cost_their_record_at_least_once() {
    failing_closures("at_least_once");
}

/// 20,000 panics in a row.
#[test]
fn a_flood_of_panics_is_worked_off() {
    let mut unruly = Unruly::new("panics", 1);
    let mut instance = unruly.config().start_ready();
    unruly.work("first");
    for index in 0..20_000 {
        unruly.send("first", "panic", ["filter", "aggregate"][index % 2], 0, false);
    }
    unruly.work("first");
    unruly.check(&instance.rest());
    let lines = log::lines(&instance.log(), "failed").len();
    assert!(lines < 50, "{lines} lines");
    assert!(instance.terminate().success());
}

/// Records that fail after they have changed a table, in a row: each costs a way back, and none of those before it again.
#[test]
fn a_flood_of_half_way_failures_is_worked_off() {
    let mut unruly = Unruly::new("half-way", 1);
    let mut instance = unruly.config().start_ready();
    for index in 0..40 {
        unruly.work("first");
        unruly.send("first", ["panic", "fail"][index % 2], "end", 0, false);
    }
    unruly.check(&instance.rest());
    assert!(instance.terminate().success());
}

/// What fails for a passing reason counts when it is tried again.
#[test]
fn a_retry_lets_a_passing_failure_count_once() {
    let mut unruly = Unruly::new("retried", 2);
    let mut instance = unruly.config().set("processing_error", "retry:3:10ms:dead_letter").start_ready();
    for index in 0..60 {
        let key = format!("key {}", index % 5);
        match index % 6 {
            2 => unruly.send(&key, "fail_once", "filter", 0, true),
            4 => unruly.send(&key, "fail_once", "aggregate", 0, true),
            5 => unruly.send(&key, "fail", "filter", 0, false),
            _ => unruly.work(&key),
        }
    }
    unruly.check(&instance.rest());
    assert!(instance.terminate().success());
}

/// Closures behind a table are called while a commit is made: slow ones, of many rows, hold up neither commands nor look-ups.
#[test]
fn slow_closures_behind_a_table_hold_nobody_up() {
    let mut unruly = Unruly::new("slow-rows", 1);
    let (mut instance, rest) = unruly.start();
    let (generation_before, lookups) = (generation(&rest), Lookups::start(&mut instance));
    for index in 0..70 {
        unruly.send(&format!("row {index}"), "sleep", "downstream", 100, true);
    }
    unruly.producer.flush();
    lookups.go_on();
    unruly.check(&rest);
    assert_eq!(consumer::last_by_key(&consumer::read_committed(unruly.kafka, "slow-rows.sums")).len(), 71);
    lookups.finish();
    assert_eq!(generation(&rest), generation_before, "it stayed in the group");
    assert!(rest.metric("holdfast_stream_slow_records_total", &[]).unwrap() >= 30.0);
    assert!(instance.terminate().success());
}
