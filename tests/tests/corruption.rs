//! Damaged files under an instance: it refuses them, repairs what the changelog has, and never answers a wrong row.
//!
//! Every byte of every kind of file has its turn in the store's own tests; this is what an operator sees of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_tests::{
    chance,
    instance::{Instance, InstanceConfig, StateFate},
    inventory::{STORES, check_exactly},
    kafka::{Kafka, Names},
    load::{Load, LoadConfig},
    log,
    model::Model,
    process::code,
    rest, state, wait,
};
use rand::{RngExt, rngs::StdRng};

const LIMIT: Duration = Duration::from_secs(60);
const RECORDS: u64 = 20_000;
const LOAD: LoadConfig = LoadConfig { stores: 1_000, skus: 20, bad_one_in: 0, counting: false };

/// The directory of the task that holds the rows of the first aggregate.
fn task(instance: &Instance, names: &Names) -> PathBuf {
    let application = instance.state_dir().join(&names.application_id);
    application.join("0_0")
}

fn files(task: &Path, matches: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(task.join("rocksdb")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| matches(path.file_name().unwrap().to_str().unwrap()) && path.metadata().unwrap().len() > 0);
    found.sort();
    found
}

/// Flips bytes in a row, somewhere in the file.
fn flip(path: &Path, length: usize, rng: &mut StdRng) {
    let mut bytes = fs::read(path).unwrap();
    let at = rng.random_range(0..bytes.len().saturating_sub(length).max(1));
    for byte in bytes.iter_mut().skip(at).take(length) {
        *byte ^= 0x5a;
    }
    fs::write(path, bytes).unwrap();
}

/// It ended by itself, and one line names the directory and what to do with it.
#[track_caller]
fn assert_gave_up(instance: &mut Instance, task: &Path) {
    let (status, log) = instance.wait_for_exit();
    assert!(code(status) > 0, "ended with {status}\n{log}");
    let named = task.display().to_string();
    log::assert_said(&log, &[&named, "move the task's directory away"]);
    assert!(task.exists(), "the damaged directory is kept");
}

#[test]
fn damaged_state_is_named_and_its_way_out_works() {
    let seed = chance::seed("corruption");
    let mut rng = chance::rng(seed);
    let kafka = Kafka::shared();
    let names = Names::fresh("corruption");
    names.create_topics(kafka, 1);
    let mut instance = InstanceConfig::new(kafka, &names).set("max_replay_ms", "200").start_ready();
    let (mut load, mut model) = (Load::new(LOAD, seed), Model::default());
    load.write(kafka, &names, RECORDS, &mut model);
    check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());
    // Opened once more, so that what the log has is in files of rows, too.
    instance.start_again(&StateFate::Keep);
    instance.wait_ready();
    assert!(instance.terminate().success());
    let good = tempfile::tempdir().unwrap();
    let good = good.path().join("state");
    state::copy(&instance.state_dir(), &good);
    let task = task(&instance, &names);

    // Files of rows: refused at the start, or found when a row is wanted, by a reader or by a record; never a wrong row.
    instance.start_again(&StateFate::Replace(good.clone()));
    instance.wait_ready();
    assert!(instance.terminate().success());
    for path in files(&task, |name| name.ends_with(".sst")) {
        // Every block of rows is hit, and the index behind them is not.
        let mut bytes = fs::read(&path).unwrap();
        let rows = bytes.len() / 2;
        for at in (100..rows).step_by(1_000) {
            bytes[at] ^= 0x5a;
        }
        fs::write(&path, bytes).unwrap();
    }
    instance.start_again(&StateFate::Keep);
    instance.wait_listening();
    let rest_client = instance.rest();
    let mut refused = 0;
    for (store, stock) in &model.stores {
        // It may end by itself while we ask: the next record or reader is as good as this one.
        let Ok(answer) = rest_client.get(&format!("/v1/stores/{STORES}/keys/{store}?consistency=any")) else { break };
        match answer.status {
            200 => assert_eq!(rest::stock(&answer.json()["value"]), *stock, "a wrong row of {store}"),
            500 | 503 => refused += 1,
            status => panic!("{store}: {status} {}", answer.body),
        }
    }
    assert!(refused > 0, "no row of {} was damaged", model.stores.len());
    // Records for all of these rows: processing has to read them.
    load.write(kafka, &names, RECORDS, &mut model);
    assert_gave_up(&mut instance, &task);
    // What the line says to do.
    fs::rename(&task, task.with_file_name("moved-away")).unwrap();
    fs::rename(task.with_file_name("moved-away"), good.with_file_name("moved-away")).unwrap();
    instance.start_again(&StateFate::Keep);
    instance.wait_ready();
    check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
    assert!(instance.terminate().success());

    // What lists the files, and the names of things: refused at the start.
    for kind in ["MANIFEST", "CURRENT"] {
        instance.start_again(&StateFate::Replace(good.clone()));
        instance.wait_ready();
        assert!(instance.terminate().success());
        for path in files(&task, |name| name.starts_with(kind) && name != "MANIFEST.noted") {
            flip(&path, 64, &mut rng);
        }
        instance.start_again(&StateFate::Keep);
        assert_gave_up(&mut instance, &task);
    }

    // The log: what is torn off comes back from the changelog, or it is refused.
    for _ in 0..chance::repetitions(2) {
        instance.start_again(&StateFate::Replace(good.clone()));
        instance.wait_ready();
        load.write(kafka, &names, 2_000, &mut model);
        check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
        instance.kill();
        let logs = files(&task, |name| name.ends_with(".log"));
        if let Some(path) = logs.last() {
            flip(path, 8, &mut rng);
        }
        instance.start_again(&StateFate::Keep);
        let ended = wait::until("the instance to be ready, or to give up", LIMIT, || {
            if !instance.runs() {
                return Ok(true);
            }
            match instance.rest().get("/healthz/ready") {
                Ok(answer) if answer.status == 200 => Ok(false),
                _ => Err("neither"),
            }
        });
        if ended {
            assert_gave_up(&mut instance, &task);
        } else {
            check_exactly(kafka, &names, &instance.rest(), &model, LIMIT);
            assert!(instance.terminate().success());
        }
    }
}
