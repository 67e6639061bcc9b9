//! Serving: health that means something, metrics by name, bounds with their errors, a drain that fails no request, and
//! the exit codes of the command line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use holdfast_proto::holdfast::v1::GetRequest;
use holdfast_tests::{
    block_on,
    collector::Collector,
    grpc::{Grpc, text_key},
    instance::{self, Instance, InstanceConfig},
    inventory::STORES,
    kafka::{Kafka, Names},
    load::transaction,
    producer::Producer,
    rest::Rest,
    runtime, wait,
};
use reqwest::Method;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// An instance with one row: `Store_1` has five of `Item_1`.
fn with_a_row(kafka: &Kafka, names: &Names, config: InstanceConfig) -> Instance {
    names.create_topics(kafka, 2);
    let mut instance = config.start_ready();
    let producer = Producer::new(kafka);
    producer.send(&names.items, Some(b"Store_1"), Some(&transaction("Store_1", "Item_1", "RESTOCK", 5)));
    producer.flush();
    let rest = instance.rest();
    wait::until_equal("the row", LIMIT, &true, || rest.store_stock("Store_1").is_some());
    wait::until_equal("the other row", LIMIT, &Some(5), || rest.item_stock("Item_1"));
    instance
}

#[test]
fn traces_reach_a_collector() {
    let kafka = Kafka::shared();
    let names = Names::fresh("traces");
    let collector = Collector::start();
    let config = InstanceConfig::new(kafka, &names).set("otlp_endpoint", collector.endpoint());
    let mut instance = with_a_row(kafka, &names, config);
    let path = "/v1/stores/StoreInventoryStock/keys/Store_1";
    let answer = instance.rest().fetch_as("trace-me-1", path).expect_status(200);
    assert_eq!(answer.header("x-request-id"), "trace-me-1");
    let get = GetRequest { store: STORES.to_owned(), key: Some(text_key("Store_1")), options: None };
    let mut get = tonic::Request::new(get);
    get.metadata_mut().insert("x-request-id", "trace-me-2".parse().unwrap());
    block_on(Grpc::connect(&instance.address()).queries().get(get)).unwrap();
    // The last spans are sent before it ends.
    assert!(instance.terminate().success());
    for (id, name) in [("trace-me-1", "/v1/stores/{store}/keys/{key}"), ("trace-me-2", "/holdfast.v1.QueryService/Get")]
    {
        let spans = collector.spans();
        let found: Vec<_> =
            spans.iter().filter(|s| s.attributes.get("request_id").is_some_and(|sent| sent == id)).collect();
        let [span] = found.as_slice() else { panic!("{} spans of {id} among {}", found.len(), spans.len()) };
        assert_eq!((span.name.as_str(), span.service.as_str()), (name, "holdfast"));
    }
}

#[test]
fn health_metrics_and_descriptions_answer() {
    let kafka = Kafka::shared();
    let names = Names::fresh("health");
    let mut instance = with_a_row(kafka, &names, InstanceConfig::new(kafka, &names));
    let rest = instance.rest();
    for path in ["/healthz/live", "/healthz/ready", "/healthz/startup"] {
        assert_eq!(rest.fetch(path).expect_status(200).json()["status"], "ok", "{path}");
    }

    let metrics = rest.fetch("/metrics").expect_status(200).body;
    let names_seen: BTreeSet<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    for expected in [
        "holdfast_ready",
        "holdfast_requests_total",
        "holdfast_stream_processed_records_total",
        "holdfast_stream_commits_total",
        "holdfast_stream_committed_records_total",
        "holdfast_stream_lag_records",
        "holdfast_store_memory_limit_bytes",
        "holdfast_store_rocksdb_block_cache_bytes",
        "holdfast_group_generation",
    ] {
        assert!(names_seen.contains(expected), "no {expected} among {names_seen:?}");
    }
    assert_eq!(rest.metric("holdfast_ready", &[]), Some(1.0));
    assert_eq!(rest.metric("holdfast_stream_dead_letter_records_total", &[]).unwrap_or(0.0), 0.0);
    assert!(rest.metric("holdfast_stream_processed_records_total", &[]).unwrap() >= 1.0);

    let openapi = rest.fetch("/openapi.json").expect_status(200).json();
    assert!(openapi["paths"]["/v1/stores/{store}/keys/{key}"]["get"].is_object());
    let stores = rest.fetch("/v1/stores").expect_status(200).json();
    assert_eq!(stores["stores"][1]["name"], STORES, "{stores}");
    let topology = rest.fetch("/v1/topology?format=text").expect_status(200).body;
    assert!(topology.contains(STORES), "{topology}");
    let instances = rest.fetch("/v1/instances").expect_status(200).json();
    assert_eq!(instances["instances"][0]["endpoint"], instance.address(), "{instances}");
    let tasks = rest.fetch("/v1/tasks").expect_status(200).json();
    assert_eq!(tasks["tasks"].as_array().map(Vec::len), Some(4), "two sub-topologies, two partitions: {tasks}");

    // The public listener changes nothing; the peer's answers health too.
    let peer = Rest::new(&instance.peer_address());
    assert_eq!(peer.fetch("/healthz/ready").status, 200);
    assert!(instance.terminate().success());
}

#[test]
fn every_bound_has_its_error() {
    let kafka = Kafka::shared();
    let names = Names::fresh("bounds");
    let config = InstanceConfig::new(kafka, &names).set("max_batch_keys", "10").set("max_scan_rows", "5");
    let config = config.set("max_body_bytes", "2KiB").set("max_key_bytes", "100B");
    let mut instance = with_a_row(kafka, &names, config);
    let rest = instance.rest();
    let batch = |keys: &[String]| rest.post(&format!("/v1/stores/{STORES}/keys:batch"), &json!({"keys": keys}));
    let keys = |count: usize, length: usize| -> Vec<String> { (0..count).map(|_| "k".repeat(length)).collect() };
    assert_eq!(batch(&keys(10, 5)).status, 200);
    for (answer, code) in [
        (batch(&keys(11, 5)), "PAYLOAD_TOO_LARGE"),
        (batch(&keys(10, 300)), "PAYLOAD_TOO_LARGE"),
        (rest.fetch(&format!("/v1/stores/{STORES}/keys/{}", "k".repeat(101))), "PAYLOAD_TOO_LARGE"),
        (rest.fetch(&format!("/v1/stores/{STORES}/keys?limit=6")), "INVALID_ARGUMENT"),
        (rest.fetch(&format!("/v1/stores/{STORES}/keys/Store_1?timeout=99999999")), "INVALID_ARGUMENT"),
        (rest.post(&format!("/v1/stores/{STORES}/keys:batch"), &json!({"kys": []})), "INVALID_ARGUMENT"),
        (rest.post(&format!("/v1/stores/{STORES}/keys/Store_1"), &json!({})), "METHOD_NOT_ALLOWED"),
    ] {
        assert_eq!(answer.json()["code"], code, "{}", answer.body);
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    assert_eq!(rest.fetch(&format!("/v1/stores/{STORES}/keys/{}", "k".repeat(100))).status, 404);
    assert!(instance.terminate().success());
}

#[test]
fn consistency_and_positions_are_honoured() {
    let kafka = Kafka::shared();
    let names = Names::fresh("consistency");
    let mut instance = with_a_row(kafka, &names, InstanceConfig::new(kafka, &names));
    let rest = instance.rest();
    let path = format!("/v1/stores/{STORES}/keys/Store_1");
    for consistency in ["strong", "bounded", "any"] {
        let answer = rest.fetch(&format!("{path}?consistency={consistency}")).expect_status(200);
        assert_eq!(answer.json()["value"]["stock"]["Item_1"], 5);
        assert!(!answer.header("holdfast-position").is_empty(), "{:?}", answer.headers);
        assert!(answer.header("holdfast-staleness-ms").parse::<u64>().is_ok(), "{:?}", answer.headers);
    }
    let partition = rest.fetch(&path).header("holdfast-partition").to_owned();
    let reached = format!("{path}?min_position={}-{partition}:0", names.items);
    rest.fetch(&reached).expect_status(200);
    // A record that nobody has written yet: the deadline passes, then the record comes and the same request is answered.
    let ahead = format!("{path}?min_position={}-{partition}:1", names.items);
    assert_eq!(rest.fetch(&format!("{ahead}&timeout=200")).expect_status(504).json()["code"], "DEADLINE_EXCEEDED");
    let producer = Producer::new(kafka);
    producer.send(&names.items, Some(b"Store_1"), Some(&transaction("Store_1", "Item_1", "SALE", 2)));
    let answer = rest.fetch(&format!("{ahead}&timeout=10000")).expect_status(200);
    assert_eq!(answer.json()["value"]["stock"]["Item_1"], 3);
    assert!(instance.terminate().success());
}

/// What became of requests while the instance went away.
#[derive(Debug, Default)]
struct Outcomes {
    answered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

fn is_reset(error: &reqwest::Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(|io| io.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn a_stop_under_load_fails_no_request() {
    let kafka = Kafka::shared();
    let names = Names::fresh("drain");
    let mut instance = with_a_row(kafka, &names, InstanceConfig::new(kafka, &names));
    let rest = instance.rest();
    let outcomes = Arc::new(Outcomes::default());
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let (rest, outcomes, stop) = (rest.clone(), Arc::clone(&outcomes), Arc::clone(&stop));
            runtime().spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = rest.request(Method::GET, "/api/v1/stores/inventory/Store_1", None).await;
                    let outcome = match &answer {
                        Ok(answer) if answer.status == 200 => &outcomes.answered,
                        // Closed listeners refuse, and the kernel resets what they had not accepted yet; a load balancer
                        // has other instances by then.
                        Err(error) if error.is_connect() || is_reset(error) => &outcomes.refused,
                        other => {
                            stop.store(true, Ordering::Relaxed);
                            outcomes.failed.fetch_add(1, Ordering::Relaxed);
                            panic!("a request failed: {other:?}");
                        }
                    };
                    outcome.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    wait::until_true("some load", LIMIT, || outcomes.answered.load(Ordering::Relaxed) > 2_000);
    instance.begin_termination();
    wait::until_true("closed listeners, or a failure", LIMIT, || {
        outcomes.refused.load(Ordering::Relaxed) > 16 || stop.load(Ordering::Relaxed)
    });
    let (status, log) = instance.wait_for_exit();
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        holdfast_tests::block_on(client).unwrap();
    }
    assert!(status.success(), "ended with {status}\n{log}");
    assert_eq!(outcomes.failed.load(Ordering::Relaxed), 0, "{outcomes:?}");
}

fn query(arguments: &[&str]) -> (i32, Value) {
    let output = Command::new(instance::binary()).arg("query").args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_str(&text).unwrap_or_else(|_| json!({ "text": text, "said": said }));
    (output.status.code().unwrap_or(-1), json)
}

#[track_caller]
fn assert_status(expected: i32, arguments: &[&str]) {
    let (status, json) = query(arguments);
    assert_eq!(status, expected, "{arguments:?}: {json}");
}

#[test]
fn query_exits_with_0_1_or_2() {
    let kafka = Kafka::shared();
    let names = Names::fresh("query");
    let mut instance = with_a_row(kafka, &names, InstanceConfig::new(kafka, &names));
    let server = instance.address();
    let (status, row) = query(&["get", STORES, "Store_1", "--server", &server]);
    assert_eq!((status, &row["value"]["stock"]["Item_1"]), (0, &json!(5)), "{row}");
    assert_status(1, &["get", STORES, "nobody", "--server", &server]);
    assert_status(2, &["get", "NoSuchStore", "x", "--server", &server]);
    assert_status(0, &["batch", STORES, "Store_1", "--server", &server]);
    assert_status(1, &["batch", STORES, "Store_1", "nobody", "--server", &server]);
    assert_status(0, &["scan", STORES, "--server", &server]);
    assert_eq!(query(&["route", STORES, "Store_1", "--server", &server]).1["active"], json!(server));
    assert!(instance.terminate().success());
    assert_status(2, &["get", STORES, "Store_1", "--server", &server]);
}

#[test]
fn settings_that_are_wrong_end_the_start() {
    let kafka = Kafka::shared();
    let names = Names::fresh("settings");
    for (key, value) in [
        ("comit_interval_ms", "100"),
        ("commit_interval_ms", "soon"),
        ("processing_guarantee", "maybe_once"),
        ("listen", "nowhere"),
    ] {
        let mut instance = InstanceConfig::new(kafka, &names).set(key, value).start();
        let (status, log) = instance.wait_for_exit();
        assert!(!status.success(), "{key}={value}");
        assert!(log.to_lowercase().contains(key), "no line names {key}:\n{log}");
    }
}
