//! Side by side with Kafka Streams: under one application id, one after the other, each goes on where the other stopped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use holdfast_tests::{
    chance, consumer,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::{ITEMS, STORES, check_exactly},
    kafka::{Kafka, Names},
    load::{Load, LoadConfig},
    log,
    model::Model,
    producer::Producer,
    streams::{Streams, StreamsConfig},
    wait,
};
use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 3;
/// Records sent between two looks.
const BATCH: usize = 300;
/// Batches sent while a side stops: it is always stopped in the middle of work.
const BATCHES_AT_STOP: usize = 3;
/// Hand-overs beyond those of the test, for records to be found in a repartition topic at one.
const MORE_LEGS: usize = 6;

/// Store → key → row.
type Tables = BTreeMap<&'static str, BTreeMap<String, Value>>;

/// An application that exists in both languages, with its load and the rows that it must come to.
trait Application {
    fn application_id(&self) -> &str;
    fn stores(&self) -> &'static [&'static str];
    fn inputs(&self) -> Vec<String>;
    fn ours(&self, kafka: &Kafka) -> InstanceConfig;
    fn java(&self, kafka: &Kafka) -> StreamsConfig;
    /// Sends the next record.
    fn send(&mut self, producer: &Producer, timestamp_ms: i64);
    /// What the rows must be, computed from what was sent.
    fn expected(&self) -> Tables;
    /// Rows as they are compared: without what may differ.
    fn comparable(&self, tables: Tables) -> Tables {
        tables
    }
    /// Whatever else must hold in the end, with our side running.
    fn check_topics(&self, kafka: &Kafka, ours: &mut Instance);

    /// Topics of its own in which records are on their way from one of its halves to the other.
    fn repartitions(&self) -> Vec<String>;
}

struct Inventory {
    names: Names,
    load: Load,
    model: Model,
}

impl Inventory {
    fn new(kafka: &Kafka, test: &str, seed: u64) -> Self {
        let names = Names::fresh(test);
        names.create_topics(kafka, PARTITIONS);
        // Whoever comes first would create it; Kafka Streams does not.
        kafka.create_topic(&names.dead_letters(), PARTITIONS, &[]);
        let config = LoadConfig { stores: 100, skus: 20, bad_one_in: 40, counting: false };
        Self { names, load: Load::new(config, seed), model: Model::default() }
    }
}

impl Application for Inventory {
    fn application_id(&self) -> &str {
        &self.names.application_id
    }
    fn stores(&self) -> &'static [&'static str] {
        &[STORES, ITEMS]
    }
    fn inputs(&self) -> Vec<String> {
        vec![self.names.items.clone()]
    }
    fn repartitions(&self) -> Vec<String> {
        vec![format!("{}-{ITEMS}-repartition", self.names.application_id)]
    }
    fn ours(&self, kafka: &Kafka) -> InstanceConfig {
        InstanceConfig::new(kafka, &self.names)
    }
    fn java(&self, kafka: &Kafka) -> StreamsConfig {
        StreamsConfig::inventory(kafka, &self.names)
    }
    fn send(&mut self, producer: &Producer, timestamp_ms: i64) {
        let item = self.load.next_item();
        self.model.apply(&item.value);
        producer.send_full(&self.names.items, None, Some(&item.key), Some(&item.value), Some(timestamp_ms), None);
    }
    fn expected(&self) -> Tables {
        let store = |(name, stock): (&String, _)| (name.clone(), json!({ "storeName": name, "stock": stock }));
        let item = |(sku, stock): (&String, _)| (sku.clone(), json!({ "itemID": sku, "currentStock": stock }));
        Tables::from([
            (STORES, self.model.stores.iter().map(store).collect()),
            (ITEMS, self.model.items.iter().map(item).collect()),
        ])
    }
    fn check_topics(&self, kafka: &Kafka, ours: &mut Instance) {
        check_exactly(kafka, &self.names, &ours.rest(), &self.model, LIMIT);
    }
}

/// Counts of words, a table with deletions, and that table grouped anew; some records have no key.
struct TablesApplication {
    application_id: String,
    rng: StdRng,
    counts: BTreeMap<String, i64>,
    homes: BTreeMap<String, String>,
}

impl TablesApplication {
    fn new(kafka: &Kafka, test: &str, seed: u64) -> Self {
        let application_id = Names::fresh(test).application_id;
        let application =
            Self { application_id, rng: chance::rng(seed), counts: BTreeMap::new(), homes: BTreeMap::new() };
        for topic in application.inputs() {
            kafka.create_topic(&topic, PARTITIONS, &[]);
        }
        application
    }

    fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.application_id)
    }

    fn changelog(&self, kafka: &Kafka, store: &str) -> BTreeMap<String, Vec<u8>> {
        consumer::last_by_key(&consumer::read_committed(kafka, &format!("{}-{store}-changelog", self.application_id)))
    }
}

impl Application for TablesApplication {
    fn application_id(&self) -> &str {
        &self.application_id
    }
    fn stores(&self) -> &'static [&'static str] {
        &["Counts", "Homes", "Residents"]
    }
    fn inputs(&self) -> Vec<String> {
        vec![self.topic("lines"), self.topic("homes")]
    }
    fn repartitions(&self) -> Vec<String> {
        ["Counts", "Residents"].map(|store| format!("{}-{store}-repartition", self.application_id)).to_vec()
    }
    fn ours(&self, kafka: &Kafka) -> InstanceConfig {
        InstanceConfig::example("tables", kafka, &self.application_id)
            .set("lines_topic", self.topic("lines"))
            .set("homes_topic", self.topic("homes"))
    }
    fn java(&self, kafka: &Kafka) -> StreamsConfig {
        StreamsConfig::tables(kafka, &self.application_id)
            .set("lines_topic", self.topic("lines"))
            .set("homes_topic", self.topic("homes"))
    }
    fn send(&mut self, producer: &Producer, timestamp_ms: i64) {
        if self.rng.random_bool(0.5) {
            let words: Vec<String> = (0..3).map(|_| format!("word{}", self.rng.random_range(0..200))).collect();
            for word in &words {
                *self.counts.entry(word.clone()).or_default() += 1;
            }
            // The key spreads the lines over partitions; a word needs none to be counted.
            let (key, line) = (self.rng.random_bool(0.8).then(|| words[0].as_bytes()), words.join(" "));
            producer.send_full(&self.topic("lines"), None, key, Some(line.as_bytes()), Some(timestamp_ms), None);
            return;
        }
        if self.rng.random_bool(0.1) {
            // A table has no row for it.
            let value = self.rng.random_bool(0.5).then_some(&b"city0"[..]);
            producer.send_full(&self.topic("homes"), None, None, value, Some(timestamp_ms), None);
            return;
        }
        // One of them has the empty key.
        let person = match self.rng.random_range(0..300) {
            0 => String::new(),
            number => format!("person{number}"),
        };
        let city = self.rng.random_bool(0.7).then(|| format!("city{}", self.rng.random_range(0..20)));
        let value = city.as_ref().map(String::as_bytes);
        producer.send_full(&self.topic("homes"), None, Some(person.as_bytes()), value, Some(timestamp_ms), None);
        match city {
            Some(city) => self.homes.insert(person, city),
            None => self.homes.remove(&person),
        };
    }
    fn expected(&self) -> Tables {
        let mut residents = BTreeMap::<String, i64>::new();
        for city in self.homes.values() {
            *residents.entry(city.clone()).or_default() += 1;
        }
        let count = |counts: &BTreeMap<String, i64>| counts.iter().map(|(key, n)| (key.clone(), json!(n))).collect();
        Tables::from([
            ("Counts", count(&self.counts)),
            ("Homes", self.homes.iter().map(|(person, city)| (person.clone(), json!(city))).collect()),
            ("Residents", count(&residents)),
        ])
    }
    fn comparable(&self, mut tables: Tables) -> Tables {
        // Whether a city has a row of 0 depends on how often its changes were merged.
        if let Some(residents) = tables.get_mut("Residents") {
            residents.retain(|_, count| *count != json!(0));
        }
        tables
    }
    fn check_topics(&self, kafka: &Kafka, _ours: &mut Instance) {
        let number = |bytes: Vec<u8>| json!(i64::from_be_bytes(bytes.try_into().expect("8 bytes")));
        let text = |bytes: Vec<u8>| json!(String::from_utf8(bytes).expect("text"));
        let numbers = |store| self.changelog(kafka, store).into_iter().map(|(key, v)| (key, number(v))).collect();
        let changelogs = Tables::from([
            ("Counts", numbers("Counts")),
            ("Homes", self.changelog(kafka, "Homes").into_iter().map(|(key, v)| (key, text(v))).collect()),
            ("Residents", numbers("Residents")),
        ]);
        assert_eq!(self.comparable(changelogs), self.expected(), "changelogs");
    }
}

/// Who processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Java,
}

/// Both sides of an application, of which at most one runs.
struct Relay<'a, A> {
    kafka: &'a Kafka,
    application: A,
    producer: Producer,
    ours: Instance,
    java: Streams,
    /// Time stamp of the first records; all later ones are older.
    latest_ms: i64,
    handed_over_in_flight: usize,
}

impl<'a, A: Application> Relay<'a, A> {
    fn new(kafka: &'a Kafka, application: A, guarantee: &str) -> Self {
        let java_guarantee = if guarantee == "exactly_once" { "exactly_once_v2" } else { guarantee };
        let ours = application.ours(kafka).set("processing_guarantee", guarantee).prepare();
        let java = application.java(kafka).set("processing.guarantee", java_guarantee).prepare();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let latest_ms = i64::try_from(now.as_millis()).unwrap();
        let producer = Producer::new(kafka);
        Self { kafka, application, producer, ours, java, latest_ms, handed_over_in_flight: 0 }
    }

    /// Runs the sides in turn, beginning with `first`, each with the state that `fates` says.
    fn run(&mut self, first: Side, fates: &[StateFate]) {
        self.send(BATCH, self.latest_ms);
        let mut side = first;
        for leg in 0.. {
            let fate = fates.get(leg).unwrap_or(&StateFate::Keep);
            self.start(side, fate);
            self.wait_rows(side, &format!("leg {leg}, {side:?}, state {fate:?}"));
            // Where records stand at a stop is chance: some more legs if they never stood where they are to be taken over.
            let enough = self.handed_over_in_flight > 0 || leg >= fates.len() + MORE_LEGS;
            if leg + 1 >= fates.len() && side == Side::Ours && enough {
                break;
            }
            self.stop_in_the_middle(side);
            self.check_stream_time(&format!("after leg {leg}, {side:?}"));
            self.handed_over_in_flight += self.in_flight();
            side = if side == Side::Ours { Side::Java } else { Side::Ours };
        }
        assert_eq!(side, Side::Ours, "the last leg is ours");
        self.application.check_topics(self.kafka, &mut self.ours);
        assert!(self.ours.terminate().success());
        assert!(self.handed_over_in_flight > 0, "no record stood in a repartition topic at any hand-over");
    }

    fn send(&mut self, records: usize, timestamp_ms: i64) {
        for _ in 0..records {
            self.application.send(&self.producer, timestamp_ms);
        }
        self.producer.flush();
    }

    fn start(&mut self, side: Side, fate: &StateFate) {
        match side {
            Side::Ours => {
                self.ours.start_again(fate);
                self.ours.wait_ready();
            }
            Side::Java => {
                self.java.start_again(fate);
                self.java.wait_running();
            }
        }
    }

    fn rows(&mut self, side: Side) -> Result<Tables, String> {
        let mut tables = Tables::new();
        for store in self.application.stores() {
            let rows = match side {
                Side::Ours => self.ours.rest().scan(store, 200).into_iter().collect(),
                Side::Java => self.java.rows(store)?,
            };
            tables.insert(*store, rows);
        }
        Ok(self.application.comparable(tables))
    }

    fn wait_rows(&mut self, side: Side, when: &str) {
        let expected = self.application.expected();
        wait::until(format!("the rows to be the model's ({when})"), LIMIT, || {
            let rows = self.rows(side)?;
            if rows == expected { Ok(()) } else { Err(difference(&rows, &expected)) }
        });
    }

    /// Stops a side while records come in, some of them processed by half.
    fn stop_in_the_middle(&mut self, side: Side) {
        let before = self.committed();
        wait::until(format!("{side:?} to commit more"), LIMIT, || {
            self.send(BATCH, self.latest_ms - 3_600_000);
            if self.committed() > before { Ok(()) } else { Err("nothing more is committed") }
        });
        match side {
            Side::Ours => self.ours.begin_termination(),
            Side::Java => self.java.begin_termination(),
        }
        for _ in 0..BATCHES_AT_STOP {
            self.send(BATCH, self.latest_ms - 3_600_000);
        }
        match side {
            Side::Ours => assert!(self.ours.wait_for_exit().0.success()),
            Side::Java => {
                let (_, log) = self.java.wait_for_exit();
                assert!(log.lines().any(|line| line == "closed"), "it did not close cleanly:\n{log}");
            }
        }
    }

    /// Offsets committed of the inputs, added up.
    fn committed(&self) -> i64 {
        let offsets = |topic: &String| {
            let offsets = consumer::committed_offsets(self.kafka, self.application.application_id(), topic);
            offsets.values().sum::<i64>()
        };
        self.application.inputs().iter().map(offsets).sum()
    }

    /// Stream time travels with the offsets, as Kafka Streams encodes it, and never goes back.
    fn check_stream_time(&self, when: &str) {
        for topic in self.application.inputs() {
            for (partition, (offset, metadata)) in
                consumer::committed(self.kafka, self.application.application_id(), &topic)
            {
                let bytes = STANDARD.decode(&metadata).unwrap_or_else(|e| panic!("{when}: metadata {metadata:?}: {e}"));
                let (version, time) = bytes.split_first().expect("a version");
                let time = i64::from_be_bytes(time[..8].try_into().unwrap());
                assert_eq!((*version, time), (2, self.latest_ms), "{when}: {topic}-{partition} at {offset}");
            }
        }
    }

    /// Records that stand in repartition topics behind what is committed of them.
    fn in_flight(&self) -> usize {
        let waiting = |topic: &String| {
            let committed = consumer::committed_offsets(self.kafka, self.application.application_id(), topic);
            let records = consumer::read_committed(self.kafka, topic);
            records.iter().filter(|record| record.offset >= committed[&record.partition]).count()
        };
        self.application.repartitions().iter().map(waiting).sum()
    }
}

fn difference(rows: &Tables, expected: &Tables) -> String {
    let mut lines = Vec::new();
    for (store, expected) in expected {
        let rows = &rows[store];
        let keys: std::collections::BTreeSet<_> = rows.keys().chain(expected.keys()).collect();
        let differing = keys.into_iter().filter(|key| rows.get(*key) != expected.get(*key));
        lines.extend(
            differing.map(|key| format!("{store} {key}: {:?}, expected {:?}", rows.get(key), expected.get(key))),
        );
    }
    format!("{} rows differ: {}", lines.len(), lines.iter().take(5).cloned().collect::<Vec<_>>().join("; "))
}

/// Each side with no state, then with what it had, at last without it.
const THERE_AND_BACK: [StateFate; 5] =
    [StateFate::Keep, StateFate::Keep, StateFate::Keep, StateFate::Keep, StateFate::Remove];
const BACK_AND_THERE: [StateFate; 6] =
    [StateFate::Keep, StateFate::Keep, StateFate::Keep, StateFate::Keep, StateFate::Remove, StateFate::Remove];

fn fates(first: Side) -> &'static [StateFate] {
    match first {
        Side::Ours => &THERE_AND_BACK,
        Side::Java => &BACK_AND_THERE,
    }
}

/// What CI does of all combinations; the soak does every one.
fn combinations(usual: (&'static str, Side)) -> Vec<(&'static str, Side)> {
    if chance::repetitions(1) == 1 {
        return vec![usual];
    }
    let all = ["exactly_once", "at_least_once"];
    all.iter().flat_map(|guarantee| [Side::Ours, Side::Java].map(|first| (*guarantee, first))).collect()
}

#[test]
fn the_inventory_goes_to_and_fro() {
    let kafka = Kafka::shared();
    let seed = chance::seed("the_inventory_goes_to_and_fro");
    for (guarantee, first) in combinations(("exactly_once", Side::Ours)) {
        let application = Inventory::new(kafka, "side-inventory", seed);
        Relay::new(kafka, application, guarantee).run(first, fates(first));
    }
}

#[test]
fn counts_and_tables_go_to_and_fro() {
    let kafka = Kafka::shared();
    let seed = chance::seed("counts_and_tables_go_to_and_fro");
    for (guarantee, first) in combinations(("at_least_once", Side::Java)) {
        let application = TablesApplication::new(kafka, "side-tables", seed);
        Relay::new(kafka, application, guarantee).run(first, fates(first));
    }
}

#[test]
fn while_one_runs_the_other_is_refused() {
    let kafka = Kafka::shared();
    let application = Inventory::new(kafka, "side-refused", chance::seed("while_one_runs_the_other_is_refused"));
    let mut relay = Relay::new(kafka, application, "exactly_once");
    relay.send(BATCH, relay.latest_ms);
    relay.start(Side::Ours, &StateFate::Keep);
    relay.java.start_again(&StateFate::Keep);
    let (status, log) = relay.java.wait_for_exit();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.contains("stopped by org.apache.kafka.common.errors.InconsistentGroupProtocolException"), "{log}");
    relay.send(BATCH, relay.latest_ms);
    relay.wait_rows(Side::Ours, "after Java was refused");
    assert!(relay.ours.terminate().success());

    // It stays in the group when it is closed, as it does unless it is told otherwise.
    relay.java.reconfigure("leave_group", "false");
    relay.start(Side::Java, &StateFate::Keep);
    relay.ours.start_again(&StateFate::Keep);
    let refusal = "has members that are not Holdfast instances";
    log::wait_said(&relay.ours, &[refusal], 1, LIMIT);
    relay.send(BATCH, relay.latest_ms);
    relay.wait_rows(Side::Java, "while our side is refused");
    assert_eq!(relay.ours.rest().fetch("/healthz/ready").status, 503);
    assert_eq!(log::count(&relay.ours.log(), &[refusal]), 1, "it is said once:\n{}", relay.ours.log());

    relay.java.begin_termination();
    relay.java.wait_for_exit();
    // Let in when the last Java member's session is over.
    relay.ours.wait_ready();
    relay.send(BATCH, relay.latest_ms);
    relay.wait_rows(Side::Ours, "after Java's session");
    relay.application.check_topics(kafka, &mut relay.ours);
    assert!(relay.ours.terminate().success());
}
