//! Starts and kills in a row leave nothing behind: no files, members, transactional ids, topics.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{collections::BTreeSet, time::Duration};

use holdfast_tests::{
    chance, consumer,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::check_exactly,
    kafka::{Kafka, Names},
    load::LoadConfig,
    state,
    traffic::Traffic,
    wait,
};
use rand::RngExt;

const LIMIT: Duration = Duration::from_secs(60);
/// In CI; the soak makes 300.
const LIVES: usize = 6;
const SOAK_LIVES: usize = 300;
const LOAD: LoadConfig = LoadConfig { stores: 100, skus: 20, bad_one_in: 50, counting: false };
const PARTITIONS: i32 = 2;
/// A database's own files, some logs, and as many files of rows as wait for their compaction.
const FILES_PER_TASK: usize = 40;

/// What a life could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    topics: BTreeSet<String>,
    transactional_ids: BTreeSet<String>,
    members: usize,
    /// Directories below the state directory.
    directories: BTreeSet<String>,
}

impl Traces {
    fn of(kafka: &Kafka, names: &Names, instance: &Instance) -> Self {
        let ours = |name: &&str| name.contains(names.application_id.as_str());
        let listed = kafka.tool("org.apache.kafka.tools.TransactionsCommand", &["list"]);
        let ids = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).filter(ours);
        let files = state::files(&instance.state_dir());
        Self {
            topics: kafka.topics().iter().map(String::as_str).filter(ours).map(str::to_owned).collect(),
            transactional_ids: ids.map(str::to_owned).collect(),
            members: consumer::members(kafka, &names.application_id),
            directories: files
                .iter()
                .filter_map(|(name, _)| name.rsplit_once('/'))
                .map(|(directory, _)| directory.to_owned())
                .collect(),
        }
    }
}

#[test]
fn starts_and_kills_leave_nothing_behind() {
    let seed = chance::seed("many starts");
    let mut rng = chance::rng(seed);
    let kafka = Kafka::shared();
    let names = Names::fresh("many-starts");
    names.create_topics(kafka, PARTITIONS);
    let mut instance =
        InstanceConfig::new(kafka, &names).set("session_timeout_ms", "6000").set("max_replay_ms", "500").start_ready();
    let traffic = Traffic::start(kafka, &names.items, LOAD, seed, 500.0);
    wait::until_true("a transaction of each kind", LIMIT, || {
        consumer::committed_offsets(kafka, &names.application_id, &names.items).values().all(|offset| *offset > 0)
    });
    let before = Traces::of(kafka, &names, &instance);
    assert_eq!(before.members, 1);
    assert!(!before.transactional_ids.is_empty());
    let lives = if chance::repetitions(1) > 1 { SOAK_LIVES } else { LIVES };
    for life in 1..=lives {
        // Some are killed as soon as they live, some when they are ready, some later.
        match rng.random_range(0..3) {
            0 => {
                wait::random_moment(&mut rng, Duration::from_millis(500));
            }
            1 => instance.wait_ready(),
            _ => {
                instance.wait_ready();
                wait::random_moment(&mut rng, Duration::from_millis(1_000));
            }
        }
        if rng.random_range(0..4) == 0 {
            // A stop in the middle of its start may end the process before it has a handler: that is a kill, too.
            instance.wait_listening();
            assert!(instance.terminate().success());
        } else {
            instance.kill();
        }
        instance.start_again(&StateFate::Keep);
        if life % 50 == 0 {
            eprintln!("{life} lives");
        }
    }
    instance.wait_ready();
    let model = traffic.finish();
    check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    let after = Traces::of(kafka, &names, &instance);
    assert_eq!(after, before, "before and after {lives} lives");
    let files = state::files(&instance.state_dir());
    let tasks = usize::try_from(PARTITIONS).unwrap() * 2;
    assert!(files.len() <= tasks * FILES_PER_TASK, "{} files: {files:#?}", files.len());
    assert!(!files.iter().any(|(name, _)| name.ends_with(".new") || name.ends_with("probe")), "{files:#?}");
    assert!(instance.terminate().success());
    assert_eq!(consumer::members(kafka, &names.application_id), 0, "who leaves is gone");
}
