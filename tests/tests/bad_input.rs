//! Bad input: nothing that a producer can send stops an instance or loses another record. Each bad record ends as exactly
//! one dead letter that says where it stands and why it failed, or is skipped as Kafka Streams skips it; every good one
//! between them counts once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use holdfast_tests::{
    chance,
    consumer::{self, Record},
    instance::{InstanceConfig, StateFate},
    inventory::{ITEMS, STORES, Tables, wait_rows},
    kafka::{Kafka, Names},
    letters::{self, Place},
    load::{Load, LoadConfig, transaction},
    log,
    model::Model,
    producer::Producer,
    wait,
};
use rdkafka::message::{Header, OwnedHeaders};

const LIMIT: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;
const DESERIALIZATION: &str = "holdfast.DeserializationError";
const PROCESSING: &str = "holdfast.ProcessingError";
const REFUSED: &str = "holdfast.RecordRefusedError";
/// Names a record, so that it is found again in the input topic and among the dead letters.
const CASE: &str = "case";

/// What is to become of a record.
#[derive(Clone, Debug)]
enum Fate {
    /// It counts.
    Counts,
    /// Nothing comes of it: Kafka Streams skips nulls in an aggregation.
    Skipped,
    /// A dead letter with this exception and these words in its message.
    Letter(&'static str, &'static str),
    /// The same, but this of the record does not fit into the dead-letter topic.
    ShortLetter(&'static str, &'static str, &'static str),
}

/// A record to send, and what is to become of it.
struct Case {
    name: &'static str,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    timestamp_ms: Option<i64>,
    headers: OwnedHeaders,
    fate: Fate,
}

impl Case {
    fn new(name: &'static str, key: &[u8], value: impl Into<Vec<u8>>, fate: Fate) -> Self {
        let headers = OwnedHeaders::new().insert(Header { key: CASE, value: Some(name) });
        Self { name, key: Some(key.to_vec()), value: Some(value.into()), timestamp_ms: None, headers, fate }
    }

    /// JSON of store `S` that its reader refuses.
    fn unreadable(name: &'static str, value: impl Into<Vec<u8>>, words: &'static str) -> Self {
        Self::new(name, b"S", value, Fate::Letter(DESERIALIZATION, words))
    }

    fn at(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    fn without_key(mut self) -> Self {
        self.key = None;
        self
    }

    fn without_value(mut self) -> Self {
        self.value = None;
        self
    }

    fn header(mut self, key: &str, value: Option<&[u8]>) -> Self {
        self.headers = self.headers.insert(Header { key, value });
        self
    }
}

/// A restock of one piece.
fn restock(store: &str, sku: &str) -> Vec<u8> {
    transaction(store, sku, "RESTOCK", 1)
}

/// A restock with one field's text in place of another.
fn altered(from: &str, to: &str) -> String {
    let text = String::from_utf8(restock("S", "I")).unwrap();
    assert!(text.contains(from), "{text} has no {from}");
    text.replace(from, to)
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// One record of every kind that a producer may think of.
fn cases() -> Vec<Case> {
    use Fate::{Counts, Letter, ShortLetter, Skipped};
    let good = || restock("S", "I");
    let large = |bytes: usize| "x".repeat(bytes);
    let year_ms = 365 * 24 * 3_600_000;
    let mut cases = vec![
        // Nulls and nothing.
        Case::new("no key", b"", good(), Letter(PROCESSING, "expected the key to be the storeName")).without_key(),
        Case::new("no value", b"S", good(), Skipped).without_value(),
        Case::new("neither", b"S", good(), Skipped).without_key().without_value(),
        Case::new("empty key", b"", good(), Letter(PROCESSING, "expected the key to be the storeName \"S\", got \"\"")),
        Case::unreadable("empty value", "", "EOF while parsing"),
        // Bytes.
        Case::new(
            "key that is no text",
            &[0xff, 0xfe, 0x00],
            good(),
            Letter(DESERIALIZATION, "the key cannot be read"),
        ),
        Case::unreadable("value that is no text", [0xff, 0x00, 0xfe], "the value cannot be read"),
        Case::unreadable("nothing but NULs", vec![0; 1_000], "the value cannot be read"),
        Case::unreadable("half a record", &good()[..20], "EOF while parsing"),
        Case::unreadable("text after the record", [&good()[..], b"}"].concat(), "trailing characters"),
        Case::unreadable("an array", "[1, 2, 3]", "the value cannot be read"),
        Case::unreadable("a null in JSON", "null", "the value cannot be read"),
        // Numbers.
        Case::unreadable("NaN", altered("44.12", "NaN"), "expected value"),
        Case::unreadable("infinity", altered("44.12", "-Infinity"), "the value cannot be read"),
        Case::unreadable("a float beyond f64", altered("44.12", "1e400"), "out of range"),
        Case::unreadable("a fraction of a piece", altered("\"quantity\":1", "\"quantity\":1.5"), "i32"),
        Case::new("the largest i32", b"S", transaction("S", "I", "RESTOCK", i64::from(i32::MAX)), Counts),
        Case::new("the smallest i32", b"S", transaction("S", "I", "SALE", i64::from(i32::MIN)), Counts),
        Case::new("the largest i64", b"S", altered("\"id\":5", "\"id\":9223372036854775807"), Counts),
        Case::new("the smallest i64", b"S", altered("\"id\":5", "\"id\":-9223372036854775808"), Counts),
        Case::unreadable("beyond i32", altered("\"quantity\":1", "\"quantity\":2147483648"), "i32"),
        Case::unreadable("below i32", altered("\"quantity\":1", "\"quantity\":-2147483649"), "i32"),
        Case::unreadable("beyond i64", altered("\"id\":5", "\"id\":9223372036854775808"), "i64"),
        Case::unreadable("beyond u64", altered("\"id\":5", "\"id\":18446744073709551616"), "i64"),
        Case::unreadable("a thousand digits", altered("\"id\":5", &format!("\"id\":{}", "9".repeat(1_000))), "range"),
        Case::unreadable("a number as text", altered("\"quantity\":1", "\"quantity\":\"1\""), "expected i32"),
        Case::unreadable("a number as a truth", altered("\"quantity\":1", "\"quantity\":true"), "expected i32"),
        Case::unreadable("no number", altered("\"quantity\":1,", ""), "missing field `quantity`"),
        Case::unreadable("a key twice", altered("\"id\":5", "\"id\":5,\"id\":6"), "duplicate field"),
        Case::unreadable("deep arrays", vec![b'['; 100_000], "the value cannot be read"),
        Case::unreadable(
            "deep objects",
            altered("\"id\":5", &format!("\"id\":{}", "{\"a\":".repeat(10_000))),
            "the value",
        ),
        // The domain's own.
        Case::new("no store", b"", transaction("", "I", "SALE", 1), Letter(PROCESSING, "expected a storeName")),
        Case::new("no sku", b"S", transaction("S", "", "SALE", 1), Letter(PROCESSING, "expected a sku")),
        Case::new("no known type", b"S", transaction("S", "I", "GIFT", 1), Letter(PROCESSING, "got \"GIFT\"")),
        Case::new("another store's key", b"T", good(), Letter(PROCESSING, "got \"T\"")),
        // Large.
        Case::new(
            "10 MB of garbage",
            b"S",
            vec![b'x'; 10 * MIB],
            ShortLetter(DESERIALIZATION, "", "value (10485760 bytes)"),
        ),
        Case::new(
            "a type of 2 MB",
            b"S",
            transaction("S", "I", &large(2 * MIB), 1),
            ShortLetter(PROCESSING, "xxx…", "value"),
        ),
        Case::new("10 MB that count", b"S", altered("\"id\":5", &format!("\"note\":\"{}\"", large(10 * MIB))), Counts),
        Case::new(
            "a row of 2 MB",
            b"S",
            restock("S", &large(2 * MIB)),
            ShortLetter(REFUSED, "max.message.bytes", "value"),
        ),
        Case::new("a row that grows", b"Grows", restock("Grows", &format!("1{}", large(300_000))), Counts),
        Case::new("a row that grows more", b"Grows", restock("Grows", &format!("2{}", large(300_000))), Counts),
        Case::new("a row that grew", b"Grows", restock("Grows", &format!("3{}", large(300_000))), Counts),
        Case::new(
            "a row that grew too large",
            b"Grows",
            restock("Grows", &format!("4{}", large(300_000))),
            Letter(REFUSED, "max.message.bytes"),
        ),
        Case::new("a row that still counts", b"Grows", restock("Grows", "I"), Counts),
        Case::new(
            "a key of 1 MB",
            large(MIB).as_bytes(),
            good(),
            ShortLetter(PROCESSING, "expected the key", "value (119 bytes), key (1048576 bytes), headers (1)"),
        ),
        // Headers.
        Case::new("headers without names", b"S", good(), Counts).header("", None).header("", Some(b"")),
        Case::unreadable("a thousand headers", "{", "EOF"),
        Case::new("headers that fill a letter", b"S", "{", ShortLetter(DESERIALIZATION, "EOF", "headers (3)"))
            .header("one", Some(&[0xff; 600_000]))
            .header("two", Some(&[0; 600_000])),
        Case::unreadable("a header that says it is ours", "{", "EOF")
            .header("__holdfast.errors.left_out", Some(b"nothing")),
        // Time stamps.
        Case::new("before the epoch", b"S", good(), Counts).at(-5),
        Case::new("at the epoch", b"S", good(), Counts).at(1),
        Case::new("in ten years", b"S", good(), Letter(REFUSED, "message.timestamp.after.max.ms"))
            .at(now_ms() + 10 * year_ms),
        Case::new("at the end of time", b"S", good(), Letter(REFUSED, "message.timestamp.after.max.ms")).at(i64::MAX),
        Case::unreadable("unreadable at the end of time", "{", "EOF").at(i64::MAX),
        Case::new("skipped at the end of time", b"S", good(), Skipped).without_value().at(i64::MAX),
        Case::new("without a time, afterwards", b"S", good(), Counts).at(-1),
    ];
    for case in &mut cases {
        if case.name == "a thousand headers" {
            for index in 0..1_000 {
                let value = vec![b'v'; index % 50];
                case.headers = std::mem::take(&mut case.headers).insert(Header { key: "many", value: Some(&value) });
            }
        }
    }
    cases
}

/// The inventory on a topic that takes what others do not: records of 16 MB, and any time stamp.
fn lenient_topic(kafka: &Kafka, names: &Names, partitions: i32) {
    let configs = [("max.message.bytes", "16777216"), ("message.timestamp.after.max.ms", "9223372036854775807")];
    kafka.create_topic(&names.items, partitions, &configs);
    for output in [&names.store_output, &names.item_output] {
        kafka.create_topic(output, 1, &[("cleanup.policy", "compact")]);
    }
}

fn producer_of_large(kafka: &Kafka) -> Producer {
    let mut client = kafka.client();
    client.set("message.max.bytes", "16777216");
    Producer::with(client)
}

/// What the model must come to, where every bad record is, and what is to become of it.
#[derive(Default)]
struct Expected {
    model: Model,
    letters: BTreeMap<Place, Fate>,
    skipped: u64,
}

/// Sends `cases` with good records between them, and looks where each of them stands in the topic.
fn send(kafka: &Kafka, names: &Names, cases: &[Case], seed: u64) -> Expected {
    let mut expected = Expected::default();
    let load = LoadConfig { stores: 20, skus: 30, bad_one_in: 0, counting: false };
    let mut load = Load::new(load, seed);
    let producer = producer_of_large(kafka);
    for case in cases {
        for _ in 0..20 {
            let item = load.next_item();
            expected.model.apply(&item.value);
            producer.send(&names.items, Some(&item.key), Some(&item.value));
        }
        let headers = Some(case.headers.clone());
        let (key, value) = (case.key.as_deref(), case.value.as_deref());
        producer.send_full(&names.items, Some(0), key, value, case.timestamp_ms, headers);
        match case.fate {
            Fate::Counts => assert!(expected.model.apply(value.unwrap()), "{} is to count", case.name),
            Fate::Skipped => expected.skipped += 1,
            Fate::Letter(..) | Fate::ShortLetter(..) => {}
        }
    }
    producer.flush();
    for record in consumer::read_committed(kafka, &names.items) {
        let Some(name) = record.header(CASE) else { continue };
        let case = cases.iter().find(|case| case.name == name).unwrap();
        if matches!(case.fate, Fate::Letter(..) | Fate::ShortLetter(..)) {
            expected.letters.insert((names.items.clone(), record.partition, record.offset), case.fate.clone());
        }
    }
    expected
}

/// Every expected letter is there, says why, and holds what fits; and there is no other.
fn check_letters(kafka: &Kafka, names: &Names, expected: &BTreeMap<Place, Fate>) {
    let input: BTreeMap<Place, Record> = consumer::read_committed(kafka, &names.items)
        .into_iter()
        .map(|record| ((names.items.clone(), record.partition, record.offset), record))
        .collect();
    let letters = letters::by_place(kafka, &names.dead_letters());
    let name = |place: &Place| input.get(place).and_then(|record| record.header(CASE)).unwrap_or_default();
    let unexpected = letters.iter().find(|(place, _)| !expected.contains_key(*place));
    assert!(unexpected.is_none(), "a dead letter for {:?}", unexpected.map(|(place, _)| (place, name(place))));
    for (place, fate) in expected {
        let (case, original) = (name(place), &input[place]);
        let letter = letters.get(place).unwrap_or_else(|| panic!("no dead letter for {place:?} ({case})"));
        let (Fate::Letter(exception, words) | Fate::ShortLetter(exception, words, _)) = fate else { unreachable!() };
        let reason = letters::reason(letter);
        assert!(reason.0 == *exception && reason.1.contains(words), "{case}: {reason:?}");
        assert!(reason.1.len() < 4_096, "{case}: a message of {} bytes", reason.1.len());
        let left_out = letter.headers.iter().rev().find(|(key, _)| key == "__holdfast.errors.left_out");
        let left_out = left_out.map(|(_, value)| String::from_utf8_lossy(value.as_deref().unwrap()).into_owned());
        if let Fate::ShortLetter(_, _, missing) = fate {
            let left_out = left_out.unwrap_or_else(|| panic!("{case}: nothing is said to be left out"));
            assert!(left_out.contains(missing), "{case}: {left_out}");
            assert_eq!(letter.value, None, "{case}");
        } else {
            assert_eq!((&letter.key, &letter.value), (&original.key, &original.value), "{case}");
            assert_eq!(letter.headers[..original.headers.len()], original.headers[..], "{case}");
        }
    }
}

fn one_of_each(guarantee: &str) {
    let kafka = Kafka::shared();
    let names = Names::fresh(&format!("bad-{guarantee}").replace('_', "-"));
    lenient_topic(kafka, &names, 2);
    // Small: one fetched record is larger than a partition's queue, one row than what may be dirty.
    let config = InstanceConfig::new(kafka, &names).set("processing_guarantee", guarantee).set("memory_limit", "48MiB");
    let mut instance = config.start_ready();
    let seed = chance::seed("one_of_each");
    let cases = cases();
    let expected = send(kafka, &names, &cases, seed);
    let rest = instance.rest();
    consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);
    check_letters(kafka, &names, &expected.letters);
    wait_rows(&rest, &expected.model, LIMIT);

    let metric = |name: &str| rest.metric(name, &[]).unwrap_or(0.0) as u64;
    let letters = expected.letters.len() as u64;
    wait::until_equal("letters to be counted", LIMIT, &letters, || metric("holdfast_stream_dead_letter_records_total"));
    assert!(metric("holdfast_stream_skipped_records_total") >= expected.skipped);
    assert!(metric("holdfast_stream_failed_records_total") >= expected.letters.len() as u64);
    assert_eq!(metric("holdfast_stream_thread_failures_total"), 0);
    assert_eq!(rest.fetch("/healthz/ready").status, 200);
    let failures = log::lines(&instance.log(), "a record failed");
    assert!(log::text(&failures[0], "record").starts_with(&format!("{}-0 offset ", names.items)), "{}", failures[0]);
    let longest = instance.log().lines().map(str::len).max().unwrap_or(0);
    assert!(longest < 8_192, "a line of {longest} bytes in the log");

    // What the changelogs hold is the same: nothing of a refused record is left in them.
    instance.kill();
    instance.start_again(&StateFate::Remove);
    instance.wait_ready();
    wait_rows(&instance.rest(), &expected.model, LIMIT);
    check_letters(kafka, &names, &expected.letters);
    assert!(instance.terminate().success());
}

#[test]
fn one_of_each_kind_exactly_once() {
    one_of_each("exactly_once");
}

#[test]
fn one_of_each_kind_at_least_once() {
    one_of_each("at_least_once");
}

/// The dead-letter topic is deleted under the instance. Nothing is committed without it, and nothing lost: it is made again,
/// by the instance where it may, and else by somebody who reads its log.
fn missing_letters(create_topics: bool) {
    let kafka = Kafka::shared();
    let names = Names::fresh("no-letters");
    names.create_topics(kafka, 1);
    kafka.create_topic(&names.dead_letters(), 1, &[]);
    let config = InstanceConfig::new(kafka, &names).set("create_topics", create_topics.to_string());
    let mut instance = config.start_ready();
    let (producer, rest) = (Producer::new(kafka), instance.rest());
    producer.send(&names.items, Some(b"S"), Some(b"bad before"));
    producer.send(&names.items, Some(b"S"), Some(&restock("S", "I")));
    wait::until_equal("the first good one", LIMIT, &Some(1), || rest.item_stock("I"));
    kafka.delete_topics(&[&names.dead_letters()]);
    wait::until_true("the topic to be gone", LIMIT, || kafka.partitions(&names.dead_letters()).is_none());
    for round in 0..5 {
        producer.send(&names.items, Some(b"S"), Some(format!("bad {round}").as_bytes()));
        producer.send(&names.items, Some(b"S"), Some(&restock("S", "I")));
    }
    producer.flush();
    let words = if create_topics { "it is made again" } else { "until somebody creates it" };
    log::wait_said_once(&instance, &[words], LIMIT);
    if !create_topics {
        assert_eq!(rest.item_stock("I"), Some(1), "reads go on");
        kafka.create_topic(&names.dead_letters(), 1, &[]);
    }
    wait::until_equal("every good one", LIMIT, &Some(6), || rest.item_stock("I"));
    let letters = letters::by_place(kafka, &names.dead_letters());
    let values: BTreeSet<_> = letters.values().map(|letter| letter.value.clone().unwrap()).collect();
    assert_eq!(values, (0..5).map(|round| format!("bad {round}").into_bytes()).collect());
    assert!(instance.terminate().success());
}

#[test]
fn a_missing_dead_letter_topic_is_made_again() {
    missing_letters(true);
}

#[test]
fn a_missing_dead_letter_topic_that_may_not_be_made_is_waited_for() {
    missing_letters(false);
}

/// Rows at the edge of their type: what would go over it is refused, and what goes back from it counts.
#[test]
fn a_stock_that_would_overflow_is_refused_and_kept() {
    let kafka = Kafka::shared();
    let names = Names::fresh("overflow");
    names.create_topics(kafka, 1);
    let producer = Producer::new(kafka);
    // As an earlier life has left them: no test lives for long enough to restock so much.
    let full = format!(r#"{{"stock":{{"I":{}}},"storeName":"Full"}}"#, i64::MAX);
    let item = format!(r#"{{"itemID":"J","currentStock":{}}}"#, i64::MIN);
    for (store, key, row) in [(STORES, "Full", full), (ITEMS, "J", item)] {
        kafka.create_topic(&names.changelog(store), 1, &[("cleanup.policy", "compact")]);
        producer.send(&names.changelog(store), Some(key.as_bytes()), Some(row.as_bytes()));
    }
    producer.flush();
    let mut instance = InstanceConfig::new(kafka, &names).start_ready();
    let rest = instance.rest();
    for (store, sku, kind, quantity) in [
        ("Full", "I", "RESTOCK", 1),
        ("S", "I", "RESTOCK", 1),
        ("Full", "I", "SALE", 5),
        ("Full", "I", "RESTOCK", 6),
        ("Full", "I", "RESTOCK", 5),
        ("S", "J", "SALE", 1),
        ("S", "J", "RESTOCK", 3),
    ] {
        let value = transaction(store, sku, kind, quantity);
        producer.send(&names.items, Some(store.as_bytes()), Some(&value));
    }
    producer.flush();
    consumer::wait_committed(kafka, &names.application_id, &names.items, LIMIT);
    let repartition = names.repartition(kafka);
    consumer::wait_committed(kafka, &names.application_id, &repartition, LIMIT);
    let stock =
        |pairs: &[(&str, i64)]| pairs.iter().map(|(sku, n)| ((*sku).to_owned(), *n)).collect::<BTreeMap<_, _>>();
    let expected = Tables {
        stores: [("Full".to_owned(), stock(&[("I", i64::MAX)])), ("S".to_owned(), stock(&[("I", 1), ("J", 2)]))].into(),
        items: stock(&[("I", 1), ("J", i64::MIN + 3)]),
    };
    wait::until("the rows", LIMIT, || Tables::of_rest(&rest).difference(&expected).map_or(Ok(()), Err));
    let letters = letters::by_place(kafka, &names.dead_letters());
    let places: Vec<_> = letters.keys().map(|(topic, _, offset)| (topic.clone(), *offset)).collect();
    // Over the store's edge, twice; and over the item's, where the record came through between the two tables.
    let over_the_item = letters.keys().filter(|(topic, ..)| *topic == repartition).count();
    assert_eq!((letters.len(), over_the_item), (3, 1), "{places:?}");
    for letter in letters.values() {
        let (exception, message) = letters::reason(letter);
        assert!(exception == PROCESSING && message.contains("range of 64 bits"), "{exception}: {message}");
    }
    assert!(instance.terminate().success());
}
