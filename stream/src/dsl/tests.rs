//! Every operation, in the test driver.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{errors, prelude::*, processor::Header, test_driver::TopologyTestDriver};

type Lines = KStream<String, String>;

fn stream(builder: &TopologyBuilder) -> Lines {
    builder.stream("in", Consumed::with(Utf8, Utf8))
}

fn driver(builder: &TopologyBuilder) -> TopologyTestDriver {
    TopologyTestDriver::new(&builder.build().unwrap()).unwrap()
}

/// Pipes `key=value` words into `in`, and answers what came out of `out` in the same form (`key=` for a tombstone).
fn run(driver: &TopologyTestDriver, words: &str) -> String {
    let input = driver.input_topic("in", Utf8, Utf8);
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap();
        if value.is_empty() { input.pipe_tombstone(key) } else { input.pipe(key, value) }.unwrap();
    }
    read(driver, "out")
}

fn read(driver: &TopologyTestDriver, topic: &str) -> String {
    let records = driver.output_topic(topic, Utf8, Utf8).read_key_values().unwrap();
    let words: Vec<String> =
        records.into_iter().map(|(k, v)| format!("{}={}", k.unwrap_or_default(), v.unwrap_or_default())).collect();
    words.join(" ")
}

fn check(words: &str, expected: &str, program: impl FnOnce(Lines)) {
    let builder = TopologyBuilder::new();
    program(stream(&builder));
    assert_eq!(run(&driver(&builder), words), expected);
}

#[test]
fn stateless_operations() {
    let words = "a=1 b=2 c=3";
    check(words, "b=2", |s| s.filter(|k, _| k == "b").to("out"));
    check(words, "a=1 c=3", |s| s.filter_not(|k, _| k == "b").to("out"));
    check(words, "1=a 2=b 3=c", |s| s.map(|k, v| (v.clone(), k.clone())).to("out"));
    check(words, "a=11 b=22 c=33", |s| s.map_values(|v| v.repeat(2)).to("out"));
    check(words, "a=a1 b=b2 c=c3", |s| s.try_map_values(|k, v| Ok::<_, BoxError>(format!("{k}{v}"))).to("out"));
    check("a=2 b=0", "a0=2 a1=2", |s| {
        s.flat_map(|k, v| {
            let (key, value) = (k.clone(), v.clone());
            (0..v.parse().unwrap_or(0)).map(move |n: u32| (format!("{key}{n}"), value.clone()))
        })
        .to("out");
    });
    check("a=x,y b=z", "a=x a=y b=z", |s| {
        s.flat_map_values(|v| v.split(',').map(str::to_owned).collect::<Vec<_>>()).to("out");
    });
    check(words, "1=1 2=2 3=3", |s| s.select_key(|_, v| v.clone()).to("out"));
    check(words, "a=1 b=2 c=3", |s| s.repartition(Repartitioned::default().named("r")).to("out"));
    check(words, "1=1 2=2 3=3", |s| s.select_key(|_, v| v.clone()).repartition(Repartitioned::default()).to("out"));
}

#[test]
fn peek_sees_and_passes_on_and_for_each_ends() {
    let builder = TopologyBuilder::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (peeked, ended) = (Arc::clone(&seen), Arc::clone(&seen));
    let peek = stream(&builder).peek(move |k, v| peeked.lock().unwrap().push(format!("peek {k}{v}")));
    peek.to("out");
    peek.for_each(move |k, v| ended.lock().unwrap().push(format!("end {k}{v}")));
    assert_eq!(run(&driver(&builder), "a=1"), "a=1");
    assert_eq!(*seen.lock().unwrap(), ["peek a1", "end a1"]);
}

#[test]
fn branches_take_the_first_that_fits() {
    let builder = TopologyBuilder::new();
    let branches = stream(&builder)
        .split()
        .branch(|k, _| k.starts_with('a'))
        .branch_named("-b", |k, _| k.starts_with('b') || k.starts_with('a'))
        .default_branch();
    for (branch, topic) in branches.iter().zip(["a", "b", "rest"]) {
        branch.to(topic);
    }
    let driver = driver(&builder);
    run(&driver, "a1=1 b1=2 c1=3 a2=4");
    assert_eq!(
        (read(&driver, "a").as_str(), read(&driver, "b").as_str(), read(&driver, "rest").as_str()),
        ("a1=1 a2=4", "b1=2", "c1=3")
    );

    let builder = TopologyBuilder::new();
    let branches = stream(&builder).split_named("cut").branch(|k, _| k == "a").no_default_branch();
    branches[0].to("out");
    assert!(builder.build().unwrap().describe().to_string().contains("Processor: cut1 "));
    assert_eq!(run(&self::driver(&builder), "a=1 b=2"), "a=1");
}

#[test]
fn a_merge_is_one_node_below_both() {
    let builder = TopologyBuilder::new();
    let left = stream(&builder);
    let right = builder.stream("other", Consumed::with(Utf8, Utf8));
    // A table below the merge: both parents must reach the same one, and each task its own.
    let counts = left.filter(|_, v| v != "0").merge(&right.map_values(|v| v.repeat(2))).group_by_key();
    counts.count(Materialized::named("counts")).to_stream().to("counts");
    let topology = builder.build().unwrap();
    let (first, second) = (TopologyTestDriver::new(&topology).unwrap(), TopologyTestDriver::new(&topology).unwrap());
    for _ in 0..2 {
        first.input_topic("in", Utf8, Utf8).pipe("k", "1").unwrap();
        first.input_topic("other", Utf8, Utf8).pipe("k", "2").unwrap();
    }
    second.input_topic("other", Utf8, Utf8).pipe("k", "2").unwrap();
    assert_eq!(first.output_topic("counts", Utf8, I64).read_values().unwrap(), [1, 2, 3, 4]);
    assert_eq!(second.store::<String, i64>("counts").unwrap().get("k").unwrap(), Some(1));
}

#[test]
fn word_count_as_in_java() {
    let builder = TopologyBuilder::new();
    builder
        .stream("text", Consumed::values(Utf8))
        .flat_map_values(|line| line.to_lowercase().split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .group_by(|_key, word| word.clone())
        .count(Materialized::named("counts-store"))
        .to_stream()
        .to("word-counts");
    let driver = driver(&builder);
    let text = driver.input_topic("text", ByteArray, Utf8);
    text.pipe_value("all streams lead to Kafka").unwrap();
    text.pipe(*b"ignored", "hello kafka streams").unwrap();
    let counts: Vec<(Option<String>, Option<i64>)> =
        driver.output_topic("word-counts", Utf8, I64).read_key_values().unwrap();
    let text: Vec<String> = counts.into_iter().map(|(k, v)| format!("{}{}", k.unwrap(), v.unwrap())).collect();
    assert_eq!(text.join(" "), "all1 streams1 lead1 to1 kafka1 hello1 kafka2 streams2");
    assert_eq!(driver.rows("counts-store").unwrap()[2], ("kafka".to_owned(), serde_json::json!(2)));
    assert_eq!(driver.dropped().total(), 0);
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Total {
    sum: i64,
    records: u32,
}

impl HasCodec for Total {
    type Codec = Json<Self>;
}

#[derive(Debug, thiserror::Error)]
#[error("{0} is not a number")]
struct NotANumber(String);

impl Total {
    #[expect(clippy::ptr_arg, reason = "aggregate hands out the value as it is")]
    fn add(&mut self, _key: &String, value: &String) -> Result<(), NotANumber> {
        self.sum += value.parse::<i64>().map_err(|_| NotANumber(value.clone()))?;
        self.records += 1;
        Ok(())
    }
}

#[test]
fn aggregate_and_reduce() {
    let builder = TopologyBuilder::new();
    let grouped = stream(&builder).group_by_key();
    grouped.aggregate(Total::default, Total::add, Materialized::named("totals")).to_stream().to("totals");
    grouped.reduce(|longest, v| longest.max(v).clone(), Materialized::named("max")).to_stream().to("out");
    let driver = driver(&builder);
    assert_eq!(run(&driver, "a=2 b=5 a=3 a=1"), "a=2 b=5 a=3 a=3");
    let totals = driver.store::<String, Total>("totals").unwrap();
    assert_eq!(totals.get("a").unwrap(), Some(Total { sum: 6, records: 3 }));
    assert_eq!(totals.get("c").unwrap(), None);
    assert_eq!(driver.rows("totals").unwrap()[0].1, serde_json::json!({"sum": 6, "records": 3}));
}

#[test]
fn what_only_gets_another_key_goes_on_with_the_bytes_that_were_read() {
    let builder = TopologyBuilder::new();
    let read = || Consumed::with(Utf8, Json::<Total>::default());
    let totals = builder.stream("in", read());
    let grouped = |stream: &KStream<String, Total>, name: &str| {
        stream
            .group_by_with(|_, total| total.records.to_string(), Grouped::default().named(name))
            .count(Materialized::default());
    };
    grouped(&totals.filter(|_, total| total.sum > 0), "same");
    grouped(&totals.map_values(Total::clone), "mapped");
    grouped(&totals.merge(&builder.stream("other", read())), "merged");
    let sum = |a: &Total, b: &Total| Total { sum: a.sum + b.sum, ..*a };
    let reduced = totals.group_by_key().reduce(sum, Materialized::default()).to_stream();
    grouped(&reduced.flat_map_values(|total| total.clone()), "reduced");
    totals.to("out");
    let driver = driver(&builder);
    let pipe = |topic, value: &str| driver.pipe_raw(topic, Some(b"k"), Some(value.as_bytes()), 0).unwrap();
    let values = |topic: &str| driver.output_topic(topic, Utf8, Utf8).read_values().unwrap();

    let spaced = r#"{ "records": 2, "more": 0, "sum": 1 }"#;
    let written = r#"{"sum":1,"records":2}"#;
    pipe("in", spaced);
    pipe("in", spaced);
    assert_eq!(values("test-same-repartition"), [spaced; 2]);
    assert_eq!(values("test-mapped-repartition"), [written; 2]);
    // Rows are others than the record that changed them.
    assert_eq!(values("test-reduced-repartition"), [written, r#"{"sum":2,"records":2}"#]);
    // Nobody but the application knows its topics; what leaves it is as its codec writes it.
    assert_eq!(values("out"), [written; 2]);
    pipe("other", spaced);
    assert_eq!(values("test-merged-repartition"), [spaced, spaced, written]);
    // What the codec does not look at is not carried on without a bound.
    pipe("in", &format!("{spaced}{}", " ".repeat(64 << 10)));
    assert_eq!(values("test-same-repartition"), [written]);
}

#[test]
fn a_refused_record_changes_nothing_and_becomes_a_dead_letter() {
    let builder = TopologyBuilder::new();
    let lines = stream(&builder);
    // Counted before it is refused: the count must be taken back.
    lines.group_by_key().count(Materialized::named("counts"));
    lines.group_by_key().aggregate(Total::default, Total::add, Materialized::named("totals"));
    let driver = driver(&builder);
    run(&driver, "a=1 a=x b=y a=2");
    assert_eq!(driver.store::<String, i64>("counts").unwrap().all().unwrap(), [("a".to_owned(), 2)]);
    assert_eq!(
        driver.store::<String, Total>("totals").unwrap().all().unwrap(),
        [("a".to_owned(), Total { sum: 3, records: 2 })]
    );
    let letters = driver.dead_letters();
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0].value.as_deref(), Some(&b"x"[..]));
    assert_eq!(letters[0].header(errors::OFFSET), Some("1"));
    assert_eq!(
        letters[0].header(errors::MESSAGE),
        Some("KSTREAM-AGGREGATE-0000000002 refused the record: x is not a number")
    );
    assert!(driver.dead_letters().is_empty());
}

#[test]
fn policies_decide() {
    use errors::{ErrorHandlers, ErrorPolicy};
    let builder = TopologyBuilder::new();
    stream(&builder).try_map_values(|_, v| v.parse::<i64>()).to("out");
    let topology = builder.build().unwrap();
    let with = |processing| {
        let handlers = ErrorHandlers { processing, ..ErrorHandlers::default() };
        TopologyTestDriver::with_handlers(&topology, handlers).unwrap()
    };
    let failing = with(ErrorPolicy::Fail);
    let error = failing.input_topic("in", Utf8, Utf8).pipe("a", "x").unwrap_err();
    assert!(error.to_string().starts_with("KSTREAM-MAPVALUES-0000000001 refused the record: "), "{error}");
    let lenient = with(ErrorPolicy::Retry {
        max_attempts: 3,
        backoff: std::time::Duration::ZERO,
        then: Box::new(ErrorPolicy::Continue),
    });
    lenient.input_topic("in", Utf8, Utf8).pipe("a", "x").unwrap();
    lenient.input_topic("in", Utf8, Utf8).pipe("a", "7").unwrap();
    assert!(lenient.dead_letters().is_empty());
    assert_eq!(lenient.output_topic("out", Utf8, I64).read_values().unwrap(), [7]);
    // Bytes that are no record at all: deserialization, which goes to the dead letters by default.
    lenient.pipe_raw("in", Some(b"a"), Some(&[0xff]), 0).unwrap();
    assert_eq!(lenient.dead_letters()[0].header(errors::EXCEPTION), Some("holdfast.DeserializationError"));
}

#[test]
fn nulls_are_dropped_where_nothing_can_be_done_with_them() {
    let builder = TopologyBuilder::new();
    stream(&builder).group_by_key().count(Materialized::named("counts"));
    let optional = builder.stream("optional", Consumed::with(Nullable(Utf8), Nullable(Utf8)));
    optional.group_by_key().count(Materialized::named("optional-counts"));
    optional.map_values(|v| v.is_none().to_string()).to("nulls");
    let driver = driver(&builder);
    let input = driver.input_topic("in", Utf8, Utf8);
    input.pipe_value("no key").unwrap();
    input.pipe_tombstone("a").unwrap();
    assert_eq!((driver.dropped().null_key, driver.dropped().null_value), (1, 1));
    let input = driver.input_topic("optional", Utf8, Utf8);
    input.pipe_value("no key").unwrap();
    input.pipe_tombstone("a").unwrap();
    input.pipe("a", "v").unwrap();
    assert_eq!(driver.output_topic("nulls", Utf8, Utf8).read_values().unwrap(), ["false", "true", "false"]);
    // As Kafka Streams: a count takes neither null keys nor null values.
    assert_eq!((driver.dropped().null_key, driver.dropped().null_value), (2, 2));
    assert_eq!(driver.store_with("optional-counts", Utf8, I64).unwrap().all().unwrap(), [("a".to_owned(), 1)]);
}

#[test]
fn time_stamps_are_the_latest_and_headers_travel() {
    let builder = TopologyBuilder::new();
    let lines = stream(&builder);
    lines.group_by_key().count(Materialized::named("counts")).to_stream().to("counts");
    lines.to("out");
    let driver = driver(&builder);
    driver.advance_wall_clock(std::time::Duration::from_millis(7));
    let input = driver.input_topic("in", Utf8, Utf8);
    input.pipe_at("a", "x", 50).unwrap();
    input.pipe_at("a", "y", 20).unwrap();
    input.pipe_with_headers("b", "z", vec![Header::text("trace", "t")]).unwrap();
    let counts = driver.output_topic("counts", Utf8, I64).read_all().unwrap();
    assert_eq!(counts.iter().map(|r| r.timestamp_ms).collect::<Vec<_>>(), [50, 50, 7]);
    let out = driver.output_topic("out", Utf8, Utf8).read_all().unwrap();
    assert_eq!(out.iter().map(|r| r.timestamp_ms).collect::<Vec<_>>(), [50, 20, 7]);
    assert_eq!(out[2].headers, [Header::text("trace", "t")]);
    let store = driver.store::<String, i64>("counts").unwrap();
    assert_eq!(store.get_with_timestamp("a").unwrap(), Some((2, 50)));
}

#[test]
fn tables_keep_the_latest_and_delete() {
    let builder = TopologyBuilder::new();
    let table = builder.table_with("in", Consumed::with(Utf8, Utf8), Materialized::named("rows"));
    table.to_stream().to("out");
    table.filter(|_, v| v != "2").map_values(|v| format!("<{v}>")).to_stream().to("filtered");
    let driver = driver(&builder);
    assert_eq!(run(&driver, "a=1 b=9 a=2 a= c= a=3"), "a=1 b=9 a=2 a= a=3");
    // Without old values a filter cannot know whether a row was there: it deletes once too often, as Kafka Streams does.
    assert_eq!(read(&driver, "filtered"), "a=<1> b=<9> a= a= a=<3>");
    let rows = driver.store::<String, String>("rows").unwrap();
    assert_eq!(rows.all().unwrap(), [("a".into(), "3".into()), ("b".into(), "9".into())]);
    // Latest by order, not by time stamp: as Kafka Streams.
    driver.input_topic("in", Utf8, Utf8).pipe_at("a", "4", -5).unwrap();
    assert_eq!(rows.get_with_timestamp("a").unwrap(), Some(("4".into(), -5)));
}

#[test]
fn a_table_that_nobody_needs_is_not_kept() {
    let builder = TopologyBuilder::new();
    builder.table("in", Consumed::with(Utf8, Utf8)).filter_not(|_, v| v == "2").to_stream().to("out");
    assert!(builder.build().unwrap().stores().is_empty());
    assert_eq!(run(&driver(&builder), "a=1 a=2 b=3"), "a=1 a= b=3");
}

#[test]
fn a_regrouped_table_moves_rows_between_groups() {
    let builder = TopologyBuilder::new();
    // user → region: how many users are in each region, who was added last.
    let regions =
        builder.table("in", Consumed::with(Utf8, Utf8)).group_by(|user, region| (region.clone(), user.clone()));
    regions.count(Materialized::named("users")).to_stream().to("users");
    regions
        .reduce(
            |users, user| format!("{users}{user}"),
            |users, user| users.replacen(user.as_str(), "", 1),
            Materialized::named("names"),
        )
        .to_stream()
        .to("out");
    let driver = driver(&builder);
    // The subtraction goes first; the same region again is a subtraction and an addition in one.
    assert_eq!(run(&driver, "x=eu y=eu x=us x=us y="), "eu=x eu=xy eu=y us=x us=x eu=");
    let users = driver.store::<String, i64>("users").unwrap();
    assert_eq!(users.all().unwrap(), [("eu".into(), 0), ("us".into(), 1)]);
    let counted: Vec<i64> = driver.output_topic("users", Utf8, I64).read_values().unwrap();
    assert_eq!(counted, [1, 2, 1, 1, 1, 0]);
}

#[test]
fn rows_of_a_dropped_graph_come_back_from_the_store() {
    let builder = TopologyBuilder::new();
    stream(&builder).group_by_key().aggregate(Total::default, Total::add, Materialized::named("totals").in_memory());
    let driver = driver(&builder);
    // Each refused record makes the driver build the graph anew.
    run(&driver, "a=1 a=x a=2 b=1 b=x b=2 a=3");
    let totals = driver.store::<String, Total>("totals").unwrap().all().unwrap();
    assert_eq!(totals, [("a".into(), Total { sum: 6, records: 3 }), ("b".into(), Total { sum: 3, records: 2 })]);
}

#[test]
fn driver_errors_say_what_is_unknown() {
    let builder = TopologyBuilder::new();
    stream(&builder).to("out");
    let driver = driver(&builder);
    assert_eq!(
        driver.input_topic("out", Utf8, Utf8).pipe("a", "b").unwrap_err().to_string(),
        "the topology does not read the topic out"
    );
    assert_eq!(driver.store::<String, i64>("none").err().unwrap().to_string(), "the topology has no store none");
}

/// What a regrouped table must hold: per group, the sum of the values of the rows that are in it now.
fn groups_of(rows: &BTreeMap<String, (u8, i64)>) -> BTreeMap<String, i64> {
    let mut groups = BTreeMap::new();
    for (group, value) in rows.values() {
        *groups.entry(group.to_string()).or_default() += value;
    }
    groups
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Adder and subtractor keep a regrouped table equal to its model, through filters, deletes and moves.
    #[test]
    fn adder_and_subtractor_follow_the_rows(
        updates in proptest::collection::vec((0..6_u8, proptest::option::weighted(0.8, (0..4_u8, -50..50_i64))), 0..80),
        limit in -20..50_i64,
    ) {
        let builder = TopologyBuilder::new();
        let rows = builder.table("in", Consumed::with(Utf8, Json::<(u8, i64)>::default()));
        rows.filter(move |_, (_, value)| *value <= limit)
            .map_values(|(group, value)| (group.to_string(), *value))
            .group_by(|_, (group, value)| (group.clone(), *value))
            .aggregate(
                || 0,
                |sum: &mut i64, _: &String, value: &i64| *sum += value,
                |sum: &mut i64, _: &String, value: &i64| *sum -= value,
                Materialized::named("sums"),
            );
        let driver = driver(&builder);
        let input = driver.input_topic("in", Utf8, Json::<(u8, i64)>::default());
        let mut model = BTreeMap::new();
        for (key, row) in updates {
            match row {
                Some((group, value)) => {
                    input.pipe(key.to_string(), (group, value)).unwrap();
                    model.insert(key.to_string(), (group, value));
                }
                None => {
                    input.pipe_tombstone(key.to_string()).unwrap();
                    model.remove(&key.to_string());
                }
            }
        }
        model.retain(|_, (_, value)| *value <= limit);
        let sums: BTreeMap<String, i64> = driver.store::<String, i64>("sums").unwrap().all().unwrap().into_iter().collect();
        let expected = groups_of(&model);
        for (group, sum) in &sums {
            prop_assert_eq!(*sum, expected.get(group).copied().unwrap_or(0), "group {}", group);
        }
        for group in expected.keys() {
            prop_assert!(sums.contains_key(group));
        }
    }
}
