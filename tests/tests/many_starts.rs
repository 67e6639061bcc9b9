//! Starts and kills in a row leave nothing behind: no files, members, transactional ids, topics.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{collections::BTreeSet, fs, time::Duration};

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
/// One life in so many begins without its volume.
const VOLUME_LOST: usize = 3;
/// Lives before what an instance has is counted for the first time.
const SETTLED: usize = 3;
/// Descriptors of files of rows that are merged at the moment, and of connections that come and go.
const DESCRIPTORS_TO_SPARE: usize = 24;
/// What a database writes beside its rows, before it is merged away.
const BYTES_TO_SPARE: u64 = 16 << 20;
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

/// What an instance has while it lives.
#[derive(Debug)]
struct Has {
    descriptors: usize,
    bytes: u64,
}

impl Has {
    fn of(instance: &mut Instance) -> Self {
        instance.wait_ready();
        let files = state::files(&instance.state_dir());
        Self {
            descriptors: fs::read_dir(format!("/proc/{}/fd", instance.pid())).unwrap().count(),
            bytes: files.iter().map(|(_, bytes)| bytes).sum(),
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
    let (mut volumes_lost, mut early) = (0, None);
    for life in 1..=lives {
        if life == SETTLED {
            early = Some(Has::of(&mut instance));
        }
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
        let fate = if life % VOLUME_LOST == 0 { StateFate::Remove } else { StateFate::Keep };
        volumes_lost += usize::from(fate == StateFate::Remove);
        instance.start_again(&fate);
        if life % 50 == 0 {
            eprintln!("{life} lives");
        }
    }
    instance.wait_ready();
    let model = traffic.finish();
    check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    let mut after = Traces::of(kafka, &names, &instance);
    // Who lost its volume is somebody else: the broker forgets the former ids when they are a week old.
    let identities = after.transactional_ids.len() / before.transactional_ids.len();
    assert!(identities <= 1 + volumes_lost, "{} ids over {volumes_lost} lost volumes", after.transactional_ids.len());
    after.transactional_ids.clone_from(&before.transactional_ids);
    assert_eq!(after, before, "before and after {lives} lives");
    let (early, last) = (early.expect("lives enough"), Has::of(&mut instance));
    assert!(last.descriptors <= early.descriptors + DESCRIPTORS_TO_SPARE, "{early:?} became {last:?}");
    assert!(last.bytes <= early.bytes + BYTES_TO_SPARE, "{early:?} became {last:?}");
    let files = state::files(&instance.state_dir());
    let tasks = usize::try_from(PARTITIONS).unwrap() * 2;
    assert!(files.len() <= tasks * FILES_PER_TASK, "{} files: {files:#?}", files.len());
    assert!(!files.iter().any(|(name, _)| name.ends_with(".new") || name.ends_with("probe")), "{files:#?}");
    assert!(instance.terminate().success());
    assert_eq!(consumer::members(kafka, &names.application_id), 0, "who leaves is gone");
}
