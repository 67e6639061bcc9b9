//! A disk that takes no more: commits are told, rows stay readable, and the next process has what was written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

use common::{APPLICATION, MIB, batch, change, next_input, one_store};
use holdfast_store::{MemoryBudget, StateDirectory, StoreError, TaskStore};
use holdfast_types::{Clock, SystemClock};

const DIRECTORY: &str = "HOLDFAST_TEST_FULL_DISK_DIRECTORY";

fn open(root: &std::path::Path) -> Arc<TaskStore> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let directory = StateDirectory::open(root, APPLICATION).unwrap();
    let budget = MemoryBudget::with_max_replay(64 * MIB, Duration::from_millis(20));
    TaskStore::open(&directory, &budget, &one_store(), None, &clock).unwrap()
}

fn key(number: i64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// Not a test of its own: the process whose files may not grow.
#[test]
fn writer_without_room() {
    let Some(root) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let store = open(&root);
    let filler = vec![7; 10_000];
    let mut number = 0;
    // The flushes in the background run into the limit; the next commit hears of it.
    let error = loop {
        match store.apply(batch(vec![change(&key(number), Some(&filler), number)], number + 1)) {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, StoreError::RocksDb { .. }), "{error}");
    assert!(error.to_string().contains(&root.display().to_string()), "{error}");
    for number in 0..number {
        assert!(store.table(0).get(&key(number)).unwrap().is_some(), "row {number} is lost");
    }
    assert_eq!(next_input(&store), number, "the refused batch was not applied");
    assert!(store.flush().is_err());
    assert!(Arc::clone(&store).close().is_err());
    assert!(matches!(store.table(0).get(b"a"), Err(StoreError::Closed { .. })));
}

#[test]
fn a_full_disk_loses_no_row() {
    let root = tempfile::tempdir().unwrap();
    // A limit on the size of files stands for the disk; the signal that comes with it must be ignored from outside.
    let writer = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 2000; exec \"$0\" --exact writer_without_room"])
        .arg(std::env::current_exe().unwrap())
        .env(DIRECTORY, root.path())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&writer.stdout);
    assert!(writer.status.success() && output.contains("1 passed"), "{output}");
    let store = open(root.path());
    let next = next_input(&store);
    for number in 0..next {
        assert!(store.table(0).get(&key(number)).unwrap().is_some(), "row {number} of {next} is lost");
    }
    assert!(store.table(0).get(&key(next)).unwrap().is_none());
}
