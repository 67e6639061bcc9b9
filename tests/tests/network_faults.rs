//! The network between an instance and its broker: slow, silent in one direction or in both, cut.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use futures::future::join_all;
use holdfast_tests::{
    block_on, chance,
    instance::{Instance, InstanceConfig},
    inventory::{check_at_least, check_exactly},
    kafka::{Kafka, KafkaConfig, Names},
    load::{Load, LoadConfig},
    log,
    model::Model,
    network::{Direction, Proxy},
    rest::Rest,
    tasks::wait_settled,
    traffic::Traffic,
    wait,
};
use rand::RngExt;
use reqwest::Method;

const LIMIT: Duration = Duration::from_secs(90);
const LOAD: LoadConfig = LoadConfig { stores: 50, skus: 10, bad_one_in: 0, counting: false };
const PER_S: f64 = 300.0;
const KEY: &str = "/v1/stores/StoreInventoryStock/keys/Store_1";

fn broker() -> Kafka {
    Kafka::start_with(KafkaConfig { proxied: true, ..KafkaConfig::default() })
}

fn config(kafka: &Kafka, names: &Names, guarantee: &str) -> InstanceConfig {
    InstanceConfig::new(kafka, names)
        .set("bootstrap_servers", kafka.proxied_bootstrap())
        .set("processing_guarantee", guarantee)
}

/// Waits until a row of the traffic can be read.
#[track_caller]
fn wait_first_row(rest: &Rest) {
    wait::until_equal("a first row", LIMIT, &200, || rest.fetch(KEY).status);
}

#[test]
fn a_slow_broker_is_only_slow() {
    let kafka = broker();
    kafka.proxy().delay(Duration::from_millis(200));
    for &guarantee in chance::guarantees() {
        let names = Names::fresh("slow");
        names.create_topics(&kafka, 2);
        let mut instance = config(&kafka, &names, guarantee).start_ready();
        let traffic = Traffic::start(&kafka, &names.items, LOAD, 11, PER_S);
        let rest = instance.rest();
        wait_first_row(&rest);
        wait::until_true("records enough", LIMIT, || traffic.sent() >= 1_000);
        for _ in 0..50 {
            // Heartbeats take 200 ms: far from what default reads allow.
            rest.fetch(KEY).expect_status(200);
        }
        rest.fetch(&format!("{KEY}?consistency=strong")).expect_status(200);
        let model = traffic.finish();
        check_exactly(&kafka, &names, &rest, &model, LIMIT);
        assert_eq!(log::count(&instance.log(), &["membership lost"]), 0, "{guarantee}: slow is not gone");
        assert!(instance.terminate().success());
    }
}

#[test]
fn strong_reads_that_wait_at_the_same_time_share_heartbeats() {
    const READS: usize = 200;
    let kafka = broker();
    let names = Names::fresh("read-index");
    names.create_topics(&kafka, 2);
    let mut instance = config(&kafka, &names, "exactly_once").start_ready();
    let traffic = Traffic::start(&kafka, &names.items, LOAD, 12, PER_S);
    let rest = instance.rest();
    wait_first_row(&rest);
    traffic.finish();
    let heartbeats = || rest.metric("holdfast_group_heartbeat_latency_seconds_count", &[]).unwrap_or(0.0);
    // So that the reads do come while one is under way.
    kafka.proxy().delay(Duration::from_millis(200));
    let before = heartbeats();
    let path = format!("{KEY}?consistency=strong");
    let reads = (0..READS).map(|_| rest.request(Method::GET, &path, None));
    for answer in block_on(join_all(reads)) {
        assert_eq!(answer.unwrap().status, 200);
    }
    let shared = heartbeats() - before;
    assert!(shared >= 1.0, "nobody asked the coordinator");
    assert!(shared < READS as f64 / 4.0, "{shared} heartbeats for {READS} reads");
    kafka.proxy().mend();
    assert!(instance.terminate().success());
}

#[test]
fn a_broker_that_is_away_at_the_start_is_said_once_and_waited_for() {
    let kafka = broker();
    let names = Names::fresh("away");
    names.create_topics(&kafka, 1);
    kafka.proxy().cut();
    let mut instance = config(&kafka, &names, "exactly_once").start();
    let waits = ["no broker answers yet", &kafka.proxied_bootstrap()];
    log::wait_said_once(&instance, &waits, LIMIT);
    instance.begin_termination();
    let (status, log) = instance.wait_for_exit();
    assert!(status.success());
    log::assert_said(&log, &["stopped before it had joined its group"]);
    assert_eq!(log::count(&log, &["drained: everything is committed"]), 0, "{log}");

    let mut instance = config(&kafka, &names, "exactly_once").start();
    log::wait_said_once(&instance, &waits, LIMIT);
    kafka.proxy().mend();
    instance.wait_ready();
    log::wait_said_once(&instance, &["the cluster answers", &kafka.proxied_bootstrap()], LIMIT);
    assert_eq!(log::count(&instance.log(), &waits), 1, "{}", instance.log());
    let mut model = Model::default();
    Load::new(LOAD, 15).write(&kafka, &names, 2_000, &mut model);
    check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);
    instance.begin_termination();
    log::assert_said(&instance.wait_for_exit().1, &["drained: everything is committed"]);
}

/// What a cut does to the network.
type Cut = fn(&Proxy);

/// Cuts the network for longer than the session, under load, and mends it.
fn cut_and_mend(kafka: &Kafka, names: &Names, instance: &mut Instance, what: &str, cut: Cut) {
    let rest = instance.rest();
    let said = |instance: &Instance| {
        let log = instance.log();
        log::count(&log, &["the group cannot be reached"]) + log::count(&log, &["membership lost; joining again"])
    };
    let before = said(instance);
    cut(kafka.proxy());
    let any = format!("{KEY}?consistency=any");
    wait::until(format!("{what}: default reads to be refused as stale, others to go on"), LIMIT, || {
        let answer = rest.fetch(&any).expect_status(200);
        assert!(!answer.header("Holdfast-Role").is_empty(), "{what}: the answer does not say what it is");
        let bounded = rest.fetch(KEY);
        match bounded.status {
            200 => Err("answered".to_owned()),
            _ => match bounded.expect_status(503).json()["reason"].as_str() {
                Some("stale") => Ok(()),
                other => Err(format!("refused as {other:?}")),
            },
        }
    });
    wait::until_equal(format!("{what}: members after the session"), LIMIT, &0, || {
        rest.fetch(&any).expect_status(200);
        kafka.members(&names.application_id)
    });
    assert_eq!(rest.fetch(KEY).expect_status(503).json()["reason"], "stale", "{what}");
    assert!(instance.runs());

    kafka.proxy().mend();
    wait::until_equal(format!("{what}: members after the cut"), LIMIT, &1, || kafka.members(&names.application_id));
    instance.wait_ready();
    wait::until_equal(format!("{what}: default reads"), LIMIT, &200, || rest.fetch(KEY).status);
    let said = said(instance) - before;
    assert!((1..=2).contains(&said), "{what}: said {said} times\n{}", instance.log());
}

fn cuts() -> Vec<(&'static str, Cut)> {
    let mut cuts: Vec<(&'static str, Cut)> = vec![
        ("silence in both directions", Proxy::silence),
        ("answers unheard", |proxy| proxy.silence_one(Direction::ToClient)),
    ];
    if chance::soak() {
        cuts.push(("requests unheard", |proxy| proxy.silence_one(Direction::ToTarget)));
        cuts.push(("connections cut", Proxy::cut));
    }
    cuts
}

#[test]
fn cuts_longer_than_the_session_are_survived() {
    let kafka = broker();
    let names = Names::fresh("cut");
    names.create_topics(&kafka, 2);
    let mut instance = config(&kafka, &names, "exactly_once").start_ready();
    // The harness writes past the proxy: input goes on during the cut.
    let traffic = Traffic::start(&kafka, &names.items, LOAD, 12, PER_S);
    wait_first_row(&instance.rest());
    for (what, cut) in cuts() {
        cut_and_mend(&kafka, &names, &mut instance, what, cut);
    }
    let model = traffic.finish();
    check_exactly(&kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());
}

/// At least once, what was on its way when the network was cut may count twice; nothing is lost.
#[test]
fn cuts_under_at_least_once_lose_nothing() {
    if !chance::soak() {
        return;
    }
    let kafka = broker();
    let names = Names::fresh("cut-twice");
    names.create_topics(&kafka, 2);
    let mut instance = config(&kafka, &names, "at_least_once").start_ready();
    let load = LoadConfig { counting: true, ..LOAD };
    let traffic = Traffic::start(&kafka, &names.items, load, 13, PER_S);
    wait_first_row(&instance.rest());
    for (what, cut) in cuts() {
        cut_and_mend(&kafka, &names, &mut instance, what, cut);
    }
    let model = traffic.finish();
    check_at_least(&kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());
}

/// What an instance had in hand when it lost its membership is the new owner's business: committed under the generation in which
/// the instance came back, it would count twice.
#[test]
fn what_a_cut_off_instance_had_in_hand_is_not_committed_when_it_is_back() {
    const TASKS: usize = 6;
    let kafka = broker();
    let names = Names::fresh("cut-off");
    names.create_topics(&kafka, 3);
    let of = |config: InstanceConfig| {
        config
            .set("num_standby_replicas", "1")
            .set("num_stream_threads", "1")
            .set("session_timeout_ms", "3000")
            .set("heartbeat_interval_ms", "300")
            .set("transaction_timeout_ms", "20000")
    };
    let mut cut_off = of(config(&kafka, &names, "exactly_once")).start_ready();
    let mut other = of(InstanceConfig::new(&kafka, &names)).start_ready();
    let traffic = Traffic::start(&kafka, &names.items, LoadConfig { stores: 120, skus: 20, ..LOAD }, 14, 800.0);
    let mut rng = chance::rng(chance::seed("cut_off"));
    for round in 0..chance::repetitions(4) {
        wait_settled(&mut [&mut cut_off, &mut other], TASKS, 1, LIMIT);
        let lost = log::count(&cut_off.log(), &["membership lost; joining again"]);
        match round % 3 {
            0 => kafka.proxy().silence(),
            1 => kafka.proxy().silence_one(Direction::ToClient),
            _ => kafka.proxy().cut(),
        }
        if rng.random_bool(0.5) {
            wait::until_equal("members", LIMIT, &1, || kafka.members(&names.application_id));
        } else {
            wait::until_true("it to know that it is out", LIMIT, || {
                log::count(&cut_off.log(), &["membership lost; joining again"]) > lost
            });
        }
        kafka.proxy().mend();
        wait::until_equal("members", LIMIT, &2, || kafka.members(&names.application_id));
    }
    let model = traffic.finish();
    wait_settled(&mut [&mut cut_off, &mut other], TASKS, 1, LIMIT);
    check_exactly(&kafka, &names, &other.rest(), &model, LIMIT);
    assert!(cut_off.terminate().success());
    assert!(other.terminate().success());
}
