//! A killed process leaves rows and checkpoint that belong together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use common::{APPLICATION, MIB, batch, change, next_input, one_store};
use holdfast_store::{MemoryBudget, RowChange, ScanRange, StateDirectory, TaskStore};
use holdfast_types::{Clock, SystemClock};

const WRITER_DIRECTORY: &str = "HOLDFAST_TEST_WRITER_DIRECTORY";
const OPENER_DIRECTORY: &str = "HOLDFAST_TEST_OPENER_DIRECTORY";
const KEYS: i64 = 500;
const ROWS_PER_BATCH: i64 = 100;
const KILLS: u64 = 8;

/// Held while a process is started, and while a store is open here: until a new process has become another program it holds
/// this one's file locks, too, and a store that is closed meanwhile would still be locked.
static STARTING: Mutex<()> = Mutex::new(());

/// Starts `test` of this program as a process of its own, on the directory that `variable` names.
fn start(test: &str, variable: &str, directory: &Path) -> Child {
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(variable, directory)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn open(root: &Path) -> Arc<TaskStore> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let directory = StateDirectory::open(root, APPLICATION).unwrap();
    let budget = MemoryBudget::with_max_replay(64 * MIB, Duration::from_millis(10));
    TaskStore::open(&directory, &budget, &one_store(), None, &clock).unwrap()
}

/// Batch `number` as any process would make it: keys spread over all, every seventh change a deletion.
fn rows(number: i64) -> Vec<RowChange> {
    (0..ROWS_PER_BATCH)
        .map(|row| {
            let at = number * ROWS_PER_BATCH + row;
            let value = at.to_be_bytes();
            change(format!("key-{}", at * 7919 % KEYS).as_bytes(), (at % 7 != 0).then_some(&value[..]), at)
        })
        .collect()
}

/// Not a test of its own: the process that is killed.
#[test]
fn writer() {
    let Some(root) = std::env::var_os(WRITER_DIRECTORY).map(PathBuf::from) else { return };
    let store = open(&root);
    for number in next_input(&store).. {
        store.apply(batch(rows(number), number + 1)).unwrap();
        if number % 50 == 0 {
            // Straight to the pipe: the test harness keeps what goes through its own output.
            std::io::Write::write_all(&mut std::io::stderr(), format!("at {number}\n").as_bytes()).unwrap();
        }
    }
}

/// Not a test of its own: the process that is killed while it makes its directory.
#[test]
fn opener() {
    let Some(root) = std::env::var_os(OPENER_DIRECTORY).map(PathBuf::from) else { return };
    std::io::Write::write_all(&mut std::io::stderr(), b"at the door\n").unwrap();
    open(&root).close().unwrap();
}

#[test]
fn a_process_killed_while_it_opens_leaves_nothing_that_is_torn() {
    let mut kept = tempfile::tempdir().unwrap();
    for kill in 0..24_u64 {
        let mut opener = start("opener", OPENER_DIRECTORY, kept.path());
        let mut lines = BufReader::new(opener.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.by_ref().any(|line| line == "at the door"));
        // Nothing to wait for: the moment is what varies.
        let moment = Instant::now() + Duration::from_millis(kill % 12 * 4);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        opener.kill().unwrap();
        opener.wait().unwrap();
        if kill % 3 == 2 {
            let _not_starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
            open(kept.path()).close().unwrap();
            kept = tempfile::tempdir().unwrap();
        }
    }
}

#[test]
fn a_killed_process_leaves_rows_of_its_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let mut reached = 0;
    for kill in 0..KILLS {
        let mut writer = start("writer", WRITER_DIRECTORY, root.path());
        let mut lines = BufReader::new(writer.stderr.take().unwrap()).lines().map_while(Result::ok);
        // At another moment each time, in flushes and between them.
        let moment = 20 + (kill * 31 % 60) as usize;
        let mut said = Vec::new();
        let is_progress = |line: &String| {
            line.starts_with("at ") || {
                said.push(line.clone());
                false
            }
        };
        let seen = lines.by_ref().filter(is_progress).nth(moment);
        assert!(seen.is_some(), "the writer ended by itself: {}", said.join("\n"));
        writer.kill().unwrap();
        writer.wait().unwrap();

        let _not_starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let store = open(root.path());
        let next = next_input(&store);
        assert!(next >= reached, "what was written stays: {next} after {reached}");
        reached = next;
        assert_eq!(store.checkpoint().changelog.get(&common::changelog("counts")).copied().unwrap_or(0), next);
        let mut expected = BTreeMap::new();
        for change in (0..next).flat_map(rows) {
            match change.value {
                Some(value) => expected.insert(change.key, (value, change.offset)),
                None => expected.remove(&change.key),
            };
        }
        let page = store.table(0).scan(&ScanRange::all(), usize::MAX, usize::MAX).unwrap();
        let found: BTreeMap<_, _> = page.rows.into_iter().map(|(key, row)| (key, (row.value, row.offset))).collect();
        assert_eq!(found, expected, "rows as of {next}");
    }
    assert!(reached > 0, "something was flushed before a kill");
}
