//! What Kafka's own tools show of a group of instances: who is in it and where, who has which partitions, and how far each is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_tests::{
    cluster, consumer,
    instance::{Instance, InstanceConfig},
    inventory::wait_rows,
    kafka::{Kafka, Names},
    load::{Load, LoadConfig},
    model::Model,
    tasks, wait,
};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 60, skus: 20, bad_one_in: 0, counting: false };
const PARTITIONS: i32 = 3;
const TASKS: usize = 6;

/// A row by the names of its columns.
type Row = BTreeMap<String, String>;

/// The rows of a table; its last column may have spaces.
fn rows(shown: &str) -> Vec<Row> {
    let mut lines = shown.lines().filter(|line| !line.trim().is_empty()).skip_while(|line| !line.starts_with("GROUP"));
    let header: Vec<&str> = lines.next().unwrap_or_else(|| panic!("no table: {shown}")).split_whitespace().collect();
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (last, others) = header.split_last().unwrap();
        let mut row: Row =
            others.iter().zip(&words).map(|(name, word)| ((*name).to_owned(), (*word).to_owned())).collect();
        row.insert((*last).to_owned(), words.get(others.len()..).unwrap_or_default().join(" "));
        row
    };
    lines.map(row).collect()
}

/// Partitions of a topic in an assignment: `topic(0,2)` or `topic:0,2`.
fn partitions(assignment: &str, topic: &str) -> BTreeSet<(String, i32)> {
    let Some((_, rest)) = ["(", ":"].iter().find_map(|open| assignment.split_once(&format!("{topic}{open}"))) else {
        return BTreeSet::new();
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(rest.len());
    rest[..end].split(',').filter_map(|number| Some((topic.to_owned(), number.parse().ok()?))).collect()
}

/// By process id, the partitions that each instance reads as active, as the instances tell it.
fn told(instance: &mut Instance, [items, repartition]: [&str; 2]) -> BTreeMap<String, BTreeSet<(String, i32)>> {
    let described = instance.rest().fetch("/v1/instances").expect_status(200).json();
    let partition = |task: &serde_json::Value| {
        let (subtopology, partition) = task.as_str().unwrap().split_once('_').unwrap();
        let topic = if subtopology == "0" { items } else { repartition };
        (topic.to_owned(), partition.parse().unwrap())
    };
    let of_member = |member: &serde_json::Value| {
        (cluster::text(member, "process_id"), member["active"].as_array().unwrap().iter().map(partition).collect())
    };
    cluster::members(&described).map(of_member).collect()
}

/// The lag of each partition that the group has committed.
fn lags(kafka: &Kafka, group: &str) -> BTreeMap<(String, i32), i64> {
    let lag = |row: Row| ((row["TOPIC"].clone(), row["PARTITION"].parse().unwrap()), row["LAG"].parse().unwrap());
    rows(&kafka.describe_group(group)).into_iter().map(lag).collect()
}

#[test]
fn hosts_clients_partitions_and_lag_are_shown_rightly() {
    let kafka = Kafka::shared();
    let names = Names::fresh("tools");
    names.create_topics(kafka, PARTITIONS);
    let group = &names.application_id;
    let config = InstanceConfig::new(kafka, &names).set("num_stream_threads", "1").set("num_standby_replicas", "1");
    let mut instances = cluster::start(&config, 3);
    let (mut load, mut model) = (Load::new(LOAD, 1), Model::default());
    load.write(kafka, &names, 3_000, &mut model);
    wait_rows(&instances[0].rest(), &model, LIMIT);
    tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), TASKS, 1, LIMIT);
    let repartition = names.repartition(kafka);
    let topics = [&*names.items, &*repartition];

    let told = told(&mut instances[0], topics);
    assert_eq!((told.len(), told.values().map(BTreeSet::len).sum::<usize>()), (3, TASKS), "{told:?}");
    let members = rows(&kafka.describe_group_members(group));
    let assigned = |row: &Row| {
        let (_, assignment) = row.iter().find(|(name, _)| name.ends_with("ASSIGNMENT")).expect("an assignment");
        topics.iter().flat_map(|topic| partitions(assignment, topic)).collect::<BTreeSet<_>>()
    };
    let shown: BTreeMap<String, _> = members.iter().map(|row| (row["CLIENT-ID"].clone(), assigned(row))).collect();
    assert_eq!(shown, told, "{members:?}");
    for row in &members {
        assert_eq!(row["#PARTITIONS"], told[&row["CLIENT-ID"]].len().to_string(), "{row:?}");
        assert_eq!(row["HOST"], "/127.0.0.1", "{row:?}");
    }

    let partitions = rows(&kafka.describe_group(group));
    assert_eq!(partitions.len(), TASKS, "{partitions:?}");
    for row in &partitions {
        let partition = (row["TOPIC"].clone(), row["PARTITION"].parse().unwrap());
        assert!(told[&row["CLIENT-ID"]].contains(&partition), "{row:?}, {told:?}");
        let member = members.iter().find(|member| member["CLIENT-ID"] == row["CLIENT-ID"]).unwrap();
        assert_eq!((&row["CONSUMER-ID"], &row["HOST"]), (&member["CONSUMER-ID"], &member["HOST"]), "{row:?}");
    }
    wait::until("no partition to lag", LIMIT, || {
        let lags = lags(kafka, group);
        if lags.len() == TASKS && lags.values().all(|lag| *lag == 0) { Ok(()) } else { Err(format!("{lags:?}")) }
    });

    // While nobody runs, what is written is what is behind.
    instances.iter_mut().for_each(|instance| assert!(instance.terminate().success()));
    let before = consumer::end_offsets(kafka, &names.items);
    load.write(kafka, &names, 1_000, &mut model);
    let written = consumer::end_offsets(kafka, &names.items);
    let mut expected: BTreeMap<_, _> =
        written.iter().map(|(partition, end)| ((names.items.clone(), *partition), end - before[partition])).collect();
    expected.extend((0..PARTITIONS).map(|partition| ((repartition.clone(), partition), 0)));
    assert_eq!(lags(kafka, group), expected);
    assert_eq!(expected.values().sum::<i64>(), 1_000);
}
