//! Records that break something: they end as dead letters, lose nothing else, and count once, under exactly-once.
//!
//! An engine in this process, on a real broker: the topologies here are not the service's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use holdfast_discovery::{GroupConfig, GroupEvent, GroupMember};
use holdfast_store::{MemoryBudget, ScanRange, StateDirectory};
use holdfast_stream::{
    codec::Utf8,
    dsl::{Consumed, Materialized, TopologyBuilder},
    engine::{Engine, EngineConfig, EngineEvent, OnFatalError},
    errors::{self, ErrorPolicy},
    kafka::ConnectionSettings,
    topology::Topology,
};
use holdfast_tests::{
    consumer::{Record, read_committed},
    kafka::Kafka,
    producer::Producer,
    runtime, wait,
};
use holdfast_types::{Endpoint, InstanceInfo, SystemClock};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// An engine that processes `topology` in this process.
struct Running {
    engine: Arc<Engine>,
    member: GroupMember,
    events: crossbeam_channel::Receiver<EngineEvent>,
    _state: TempDir,
}

impl Running {
    fn start(kafka: &Kafka, application_id: &str, topology: Topology, adjust: impl FnOnce(&mut EngineConfig)) -> Self {
        let state = TempDir::new().unwrap();
        let directory = StateDirectory::open(state.path(), application_id).unwrap();
        let connection = ConnectionSettings {
            bootstrap_servers: kafka.bootstrap(),
            client_id: directory.process_id().to_string(),
            properties: BTreeMap::new(),
        };
        let mut config = EngineConfig::new(application_id, directory.process_id(), connection);
        config.on_fatal_error = OnFatalError::Exit;
        adjust(&mut config);
        let transactional_ids = config.transactional_ids();
        let budget = MemoryBudget::new(256 << 20);
        let clock = Arc::new(SystemClock);
        let stop = AtomicBool::new(false);
        let process_id = directory.process_id();
        let prepared = Engine::prepare(topology, config, directory, budget, clock, &stop).unwrap();
        let endpoint = Endpoint::new("127.0.0.1", 1);
        let instance = InstanceInfo {
            process_id,
            endpoint: endpoint.clone(),
            peer_endpoint: endpoint,
            threads: 1,
            tags: BTreeMap::new(),
            transactional_ids,
        };
        let mut group =
            GroupConfig::new(kafka.bootstrap(), application_id, instance, prepared.subtopologies().to_vec());
        group.fence_on_start = true;
        let (member, mut group_events) = GroupMember::start(group, runtime().handle().clone()).unwrap();
        let (engine, events) = prepared.start(Arc::new(member.clone())).unwrap();
        let engine = Arc::new(engine);
        let assigned = Arc::clone(&engine);
        runtime().spawn(async move {
            while let Some(event) = group_events.recv().await {
                if let GroupEvent::Assigned(assignment) = event {
                    assigned.assign(assignment);
                }
            }
        });
        Self { engine, member, events, _state: state }
    }

    /// Waits until every input partition is committed to its end.
    fn wait_until_committed(&self, records: i64) {
        wait::until("everything to be committed", LIMIT, || {
            if let Some(reason) = self.fatal() {
                panic!("the engine gave up: {reason}");
            }
            let status = self.engine.status();
            let committed: i64 = status.tasks.iter().flat_map(|task| task.committed.values()).sum();
            if committed >= records { Ok(()) } else { Err(format!("{committed} of {records} are; {:?}", status.state)) }
        });
    }

    fn fatal(&self) -> Option<String> {
        self.events.try_iter().find_map(|event| match event {
            EngineEvent::Fatal { reason } => Some(reason.to_string()),
            _ => None,
        })
    }

    fn rows(&self, store: &str) -> BTreeMap<String, Vec<u8>> {
        let range = ScanRange { from: Bound::Unbounded, to: Bound::Unbounded, reverse: false };
        let mut rows = BTreeMap::new();
        for (_, served) in self.engine.stores().partitions(store) {
            let page = served.table.scan(&range, 100_000, 64 << 20).unwrap();
            assert!(!page.more, "one page holds every row");
            rows.extend(
                page.rows.into_iter().map(|(key, row)| (String::from_utf8(key.to_vec()).unwrap(), row.value.to_vec())),
            );
        }
        rows
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.engine.shutdown(Duration::from_secs(20));
        let _ = self.member.leave(Duration::from_secs(5));
    }
}

fn topic(kafka: &Kafka, name: &str) {
    kafka.create_topic(name, 2, &[]);
}

fn send(kafka: &Kafka, topic: &str, records: impl IntoIterator<Item = (String, String)>) -> i64 {
    let producer = Producer::new(kafka);
    let mut sent = 0;
    for (key, value) in records {
        producer.send(topic, Some(key.as_bytes()), Some(value.as_bytes()));
        sent += 1;
    }
    producer.flush();
    sent
}

fn counts(rows: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, i64> {
    rows.iter().map(|(key, value)| (key.clone(), i64::from_be_bytes(value.as_slice().try_into().unwrap()))).collect()
}

fn letters(kafka: &Kafka, application_id: &str) -> Vec<Record> {
    read_committed(kafka, &format!("{application_id}.dlq"))
}

/// A closure that panics, and one that fails after another branch has counted the record: neither leaves a trace in a table.
#[test]
fn a_record_that_fails_half_way_changes_nothing() {
    let kafka = Kafka::shared();
    let app = "awkward-half-way";
    topic(kafka, "half-way");
    let builder = TopologyBuilder::new();
    let input = builder.stream("half-way", Consumed::with(Utf8, Utf8));
    input.group_by_key().count(Materialized::named("Counts"));
    // The second branch meets the record after the first has counted it.
    input.try_for_each(|_: &String, value: &String| match value.as_str() {
        "bad" => Err("refused"),
        "panic" => panic!("the closure's own words"),
        _ => Ok(()),
    });
    let running = Running::start(kafka, app, builder.build().unwrap(), |_| {});

    let value = |index: usize| match index % 50 {
        7 => "bad",
        23 => "panic",
        _ => "good",
    };
    let records: Vec<_> = (0..1_000).map(|index| (format!("k{}", index % 13), value(index).to_owned())).collect();
    let mut expected = BTreeMap::new();
    for (key, value) in &records {
        if value == "good" {
            *expected.entry(key.clone()).or_insert(0_i64) += 1;
        }
    }
    let sent = send(kafka, "half-way", records);
    running.wait_until_committed(sent);

    wait::until_equal("the counts of good records", LIMIT, &expected, || counts(&running.rows("Counts")));
    let letters = letters(kafka, app);
    assert_eq!(letters.len(), 40, "20 bad ones and 20 that panic, each once");
    for letter in letters {
        let message = letter.header(errors::MESSAGE).unwrap();
        match std::str::from_utf8(letter.value.as_deref().unwrap()).unwrap() {
            "bad" => assert!(message.contains("refused"), "{message}"),
            "panic" => assert!(message.contains("the closure's own words"), "{message}"),
            other => panic!("{other} is no dead letter"),
        }
        assert_eq!(letter.header(errors::TOPIC).as_deref(), Some("half-way"));
    }
}

/// A row that grows past what its changelog takes: the record that made it so is found and becomes a dead letter.
#[test]
fn a_row_too_large_for_its_topic_costs_one_record() {
    let kafka = Kafka::shared();
    let app = "awkward-large";
    topic(kafka, "large");
    let builder = TopologyBuilder::new();
    builder.stream("large", Consumed::with(Utf8, Utf8)).group_by_key().aggregate(
        String::new,
        |all: &mut String, _key: &String, value: &String| all.push_str(value),
        Materialized::named("All"),
    );
    let running = Running::start(kafka, app, builder.build().unwrap(), |_| {});

    // Together 1.2 MB under one key, more than the 1 MB of a record; small ones before, between and after.
    let large = "x".repeat(600_000);
    let mut records = Vec::new();
    for round in 0..40 {
        for key in ["a", "b", "c", "d"] {
            records.push((key.to_owned(), format!("{round},")));
        }
        if round == 10 || round == 20 {
            records.push(("a".to_owned(), large.clone()));
        }
    }
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    let mut seen_large = false;
    for (key, value) in &records {
        let is_large = value.len() > 1_000;
        let second_large = is_large && seen_large;
        seen_large |= is_large;
        if !second_large {
            expected.entry(key.clone()).or_default().push_str(value);
        }
    }
    let sent = send(kafka, "large", records);
    running.wait_until_committed(sent);

    let text = |rows: BTreeMap<String, Vec<u8>>| -> BTreeMap<String, String> {
        rows.into_iter().map(|(key, value)| (key, String::from_utf8(value).unwrap())).collect()
    };
    let rows = text(running.rows("All"));
    for (key, value) in &expected {
        assert_eq!(rows.get(key).map(String::len), Some(value.len()), "length of row {key}");
        assert!(rows.get(key) == Some(value), "row {key} differs");
    }
    let letters = letters(kafka, app);
    assert_eq!(letters.len(), 1, "the second large one");
    assert_eq!(letters[0].value.as_ref().map(Vec::len), Some(large.len()));
    assert_eq!(letters[0].header(errors::EXCEPTION).as_deref(), Some("holdfast.RecordRefusedError"));
}

/// With the policy `fail` the engine stops at the record, says which, and commits nothing of it.
#[test]
fn a_policy_of_fail_stops_at_the_record() {
    let kafka = Kafka::shared();
    let app = "awkward-fail";
    topic(kafka, "fail");
    let builder = TopologyBuilder::new();
    builder
        .stream("fail", Consumed::with(Utf8, Utf8))
        .try_for_each(|_: &String, value: &String| if value == "bad" { Err("refused") } else { Ok(()) });
    let running = Running::start(kafka, app, builder.build().unwrap(), |config| {
        config.error_handlers.processing = ErrorPolicy::Fail;
    });
    send(kafka, "fail", [("k".to_owned(), "good".to_owned()), ("k".to_owned(), "bad".to_owned())]);
    let reason = wait::until("a fatal error", LIMIT, || running.fatal().ok_or("none yet"));
    assert!(reason.contains("refused") && reason.contains("offset 1"), "{reason}");
    assert!(letters(kafka, app).is_empty());
}
