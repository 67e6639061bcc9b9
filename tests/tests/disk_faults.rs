//! The disk under an instance: full, read-only, slow. It says so once, answers reads, waits, and goes on by itself; no row is
//! lost or counted twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::Path,
    time::Duration,
};

use holdfast_tests::{
    chance,
    instance::{self, InstanceConfig, StateFate},
    inventory::{check_exactly, check_exactly_over_restart, committed, wait_rows},
    kafka::{Kafka, Names},
    load::{Load, LoadConfig},
    log,
    model::Model,
    ports,
    process::{Process, code},
    rest::Rest,
    traffic::Traffic,
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Told once, when the disk begins to refuse rows, and once when it takes them again.
const REFUSED: &str = "rows cannot be written to disk";
const TAKEN: &str = "rows are written to disk again";
/// What there is to do, once for each task that waits.
const NO_ROOM: &str = "free space or enlarge the volume";
/// More keys than the smallest memory table holds.
const MANY: LoadConfig = LoadConfig { stores: 35_000, skus: 50, bad_one_in: 0, counting: false };
/// Records that come while commits stand still: those of 2 s, of which there are some twenty commits else.
const STANDSTILL: u64 = 40_000;
const FEW: LoadConfig = LoadConfig { stores: 200, skus: 20, bad_one_in: 50, counting: false };

fn prepare(kafka: &Kafka, test: &str) -> (Names, InstanceConfig) {
    let names = Names::fresh(test);
    names.create_topics(kafka, 2);
    let config = InstanceConfig::new(kafka, &names)
        .faulty()
        .set("memory_limit", "32MiB")
        // Rows go to the disk while the test looks.
        .set("max_replay_ms", "200");
    (names, config)
}

/// A row is answered, whichever it is and however old.
#[track_caller]
fn assert_reads_go_on(rest: &Rest) {
    for store in 0..200 {
        let answer = rest.fetch(&format!("/v1/stores/StoreInventoryStock/keys/Store_{store}?consistency=any"));
        assert!(matches!(answer.status, 200 | 404), "{} {}", answer.status, answer.body);
    }
}

#[test]
fn a_full_disk_is_waited_for_and_loses_nothing() {
    let kafka = Kafka::shared();
    for guarantee in ["exactly_once", "at_least_once"].into_iter().take(chance::repetitions(1)) {
        let (names, config) = prepare(kafka, "full-disk");
        let mut instance = config.set("processing_guarantee", guarantee).start_ready();
        let rest = instance.rest();
        let traffic = Traffic::start(kafka, &names.items, MANY, 1, 20_000.0);
        wait::until_true("records to be committed", LIMIT, || committed(kafka, &names) > 1_000);

        instance.faults().fill_disk();
        log::wait_said(&instance, &[REFUSED], 1, LIMIT);
        // While memory lasts, processing goes on; then it waits, and says so.
        log::wait_said(&instance, &["a commit waits and is tried again"], 1, LIMIT);
        // One thread's commits wait sooner than the other's: each has a memory of its own.
        let (mut waiting_at, mut sent) = (committed(kafka, &names), traffic.sent());
        wait::until_true(format!("{guarantee}: nothing to be committed that the store cannot hold"), LIMIT, || {
            let now = committed(kafka, &names);
            if now != waiting_at {
                (waiting_at, sent) = (now, traffic.sent());
            }
            traffic.sent() - sent > STANDSTILL
        });
        assert_reads_go_on(&rest);
        assert!(instance.runs());
        let line = instance.log();
        let line = line.lines().find(|line| line.contains(REFUSED)).unwrap();
        for word in [&*instance.state_dir().display().to_string(), "is full", "bytes free", "free space or enlarge"] {
            assert!(line.contains(word), "no {word:?} in {line}");
        }

        instance.faults().mend_disk();
        wait::until_true("processing to go on", LIMIT, || committed(kafka, &names) > waiting_at);
        let model = traffic.finish();
        log::wait_said(&instance, &[TAKEN], 1, LIMIT);
        wait_rows(&rest, &model, LIMIT);
        let log = instance.log();
        assert!(
            log::count(&log, &[REFUSED]) <= 2 && log::count(&log, &["a commit waits"]) <= 3,
            "the log floods:\n{log}"
        );
        check_exactly_over_restart(kafka, &names, &mut instance, &model, LIMIT);
        assert!(instance.terminate().success());
    }
}

/// Takes what room there is in the file.
#[track_caller]
fn fill(ballast: &mut File) {
    let chunk = vec![7; 64 << 10];
    loop {
        match ballast.write(&chunk) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_file_system_without_room_is_waited_for_and_loses_nothing() {
    // The same as above with nothing in between, where one may mount: many containers do not let anybody.
    if !chance::soak() {
        return;
    }
    let kafka = Kafka::shared();
    let names = Names::fresh("full-volume");
    names.create_topics(kafka, 2);
    let config = InstanceConfig::new(kafka, &names).volume(512);
    let mut instance = config.set("memory_limit", "32MiB").set("max_replay_ms", "200").start_ready();
    let rest = instance.rest();
    let traffic = Traffic::start(kafka, &names.items, MANY, 5, 20_000.0);
    wait::until_true("records to be committed", LIMIT, || committed(kafka, &names) > 1_000);

    let ballast = instance.volume().join("ballast");
    let mut file = File::create(&ballast).unwrap();
    wait::until_true("commits to wait", LIMIT, || {
        // What RocksDB has merged gives room for a while.
        fill(&mut file);
        log::count(&instance.log(), &["a commit waits and is tried again"]) > 0
    });
    log::wait_said(&instance, &[REFUSED, "is full"], 1, LIMIT);
    let waiting_at = committed(kafka, &names);
    assert_reads_go_on(&rest);
    assert!(instance.runs());

    drop(file);
    fs::remove_file(&ballast).unwrap();
    wait::until_true("processing to go on", LIMIT, || committed(kafka, &names) > waiting_at);
    let model = traffic.finish();
    log::wait_said(&instance, &[TAKEN], 1, LIMIT);
    // The next life has the changelogs alone.
    check_exactly_over_restart(kafka, &names, &mut instance, &model, LIMIT);
    assert!(instance.terminate().success());
}

#[test]
fn an_instance_killed_on_a_full_disk_starts_when_there_is_room() {
    let kafka = Kafka::shared();
    let (names, config) = prepare(kafka, "full-start");
    let mut instance = config.start_ready();
    let traffic = Traffic::start(kafka, &names.items, FEW, 2, 2_000.0);
    wait::until_true("records to be committed", LIMIT, || committed(kafka, &names) > 1_000);
    instance.faults().fill_disk();
    log::wait_said(&instance, &[REFUSED], 1, LIMIT);
    instance.kill();
    // The next life finds no room to open its databases: it waits with its reason, and is alive.
    instance.start_again(&StateFate::Keep);
    let rest = instance.rest();
    log::wait_said(&instance, &[NO_ROOM], 1, LIMIT);
    assert_eq!(rest.fetch("/healthz/live").status, 200);
    assert_eq!(rest.fetch("/healthz/ready").status, 503);
    instance.faults().mend_disk();
    instance.wait_ready();
    let model = traffic.finish();
    check_exactly(kafka, &names, &rest, &model, LIMIT);
    assert!(log::count(&instance.log(), &[NO_ROOM]) <= 8, "the log floods:\n{}", instance.log());
    assert!(instance.terminate().success());
}

#[test]
fn a_file_system_that_turns_read_only_is_waited_for() {
    let kafka = Kafka::shared();
    let (names, config) = prepare(kafka, "read-only");
    let mut instance = config.start_ready();
    let rest = instance.rest();
    let traffic = Traffic::start(kafka, &names.items, FEW, 3, 2_000.0);
    wait::until_true("records to be committed", LIMIT, || committed(kafka, &names) > 1_000);
    for time in 1..=2 {
        instance.faults().make_read_only();
        log::wait_said(&instance, &[REFUSED], time, LIMIT);
        let before = committed(kafka, &names);
        assert_reads_go_on(&rest);
        wait::until_true("processing to go on in memory", LIMIT, || committed(kafka, &names) > before);
        // RocksDB gives a database up after such an error: it is opened again.
        instance.faults().mend_disk();
        log::wait_said(&instance, &[TAKEN], time, LIMIT);
    }
    let log = instance.log();
    let line = log.lines().find(|line| line.contains(REFUSED)).unwrap();
    assert!(line.contains("read-only file system") && line.contains("make it writable"), "{line}");
    let model = traffic.finish();
    check_exactly(kafka, &names, &rest, &model, LIMIT);
    assert!(instance.terminate().success());

    // At the start it is an error with a way out, and nothing is touched.
    instance.faults().make_read_only();
    instance.start_again(&StateFate::Keep);
    let (status, log) = instance.wait_for_exit();
    assert!(code(status) > 0, "ended with {status}\n{log}");
    let named = instance.state_dir().display().to_string();
    log::assert_said(&log, &[&named, "make it writable"]);
    instance.faults().mend_disk();
    instance.start_again(&StateFate::Keep);
    instance.wait_ready();
    check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());
}

#[test]
fn a_slow_disk_slows_no_look_up_and_loses_nothing() {
    let kafka = Kafka::shared();
    let (names, config) = prepare(kafka, "slow-disk");
    let mut instance = config.start_ready();
    let rest = instance.rest();
    instance.faults().slow_disk(Duration::from_millis(200));
    let traffic = Traffic::start(kafka, &names.items, MANY, 4, 10_000.0);
    wait::until_true("records to be committed", LIMIT, || {
        assert_reads_go_on(&rest);
        committed(kafka, &names) > 20_000
    });
    let model = traffic.finish();
    check_exactly_over_restart(kafka, &names, &mut instance, &model, LIMIT);
    assert!(instance.terminate().success());
}

#[test]
fn log_lines_that_cannot_be_written_are_lost_and_nothing_else_is() {
    let kafka = Kafka::shared();
    let names = Names::fresh("full-log");
    names.create_topics(kafka, 1);
    let mut load = Load::new(FEW, chance::seed("full-log"));
    let mut model = Model::default();
    load.write(kafka, &names, 500, &mut model);
    let state = tempfile::tempdir().unwrap();
    let [public, peer] = [ports::free(), ports::free()].map(|port| format!("127.0.0.1:{port}"));
    let environment = [
        ("BOOTSTRAP_SERVERS", kafka.bootstrap().to_owned()),
        ("APPLICATION_ID", names.application_id.clone()),
        ("ITEMS_TOPIC", names.items.clone()),
        ("STORE_OUTPUT_TOPIC", names.store_output.clone()),
        ("ITEM_OUTPUT_TOPIC", names.item_output.clone()),
        ("LISTEN", public.clone()),
        ("PEER_LISTEN", peer),
        ("STATE_DIR", state.path().display().to_string()),
        ("LOG", "debug".to_owned()),
    ]
    .map(|(key, value)| (format!("HOLDFAST_{key}"), value));
    // A disk that has no room for any line.
    let mut process =
        Process::start("holdfast", &instance::binary(), &["serve".to_owned()], &environment, Path::new("/dev/full"));
    let rest = Rest::new(&public);
    wait::until("the instance to be ready", LIMIT, || match process.exited() {
        Some(status) => panic!("it ended with {status}"),
        None => match rest.get("/healthz/ready") {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        },
    });
    check_exactly(kafka, &names, &rest, &model, LIMIT);
    assert!(process.terminate(instance::STOP_LIMIT).success());
}
