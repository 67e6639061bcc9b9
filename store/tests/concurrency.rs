//! Readers beside commits and flushes: no row is ever missing or old, and no scan sees half of a commit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use common::{Home, MIB, batch, change, one_store, put, value};
use holdfast_store::{MemoryBudget, ScanRange, StoreError, TaskStore};

const KEYS: usize = 200;

fn key(number: usize) -> Vec<u8> {
    format!("key-{number:04}").into_bytes()
}

fn value_of(row: &holdfast_store::Row) -> i64 {
    i64::from_be_bytes(row.value[..].try_into().unwrap())
}

/// Every commit writes its number into every key.
fn commit(store: &TaskStore, number: i64) {
    let rows = (0..KEYS).map(|at| change(&key(at), Some(&number.to_be_bytes()), number)).collect();
    store.apply(batch(rows, number)).unwrap();
}

#[test]
fn readers_see_whole_commits_while_flushes_run() {
    let home = Home::new();
    let store = home.open(&one_store());
    let applied = AtomicI64::new(1);
    let done = AtomicBool::new(false);
    commit(&store, 1);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 2..400 {
                commit(&store, number);
                applied.store(number, SeqCst);
            }
            done.store(true, SeqCst);
        });
        scope.spawn(|| {
            while !done.load(SeqCst) {
                store.flush().unwrap();
            }
        });
        scope.spawn(|| {
            let mut at = 0;
            while !done.load(SeqCst) {
                at = (at + 1) % KEYS;
                let least = applied.load(SeqCst);
                let row = store.table(0).get(&key(at)).unwrap().expect("a row is always visible");
                assert!(value_of(&row) >= least, "a read shows what was applied before it");
                let keys = [key(at), key((at + 7) % KEYS)];
                for row in store.table(0).get_many(&keys.each_ref().map(Vec::as_slice)).unwrap() {
                    assert!(value_of(&row.expect("a row is always visible")) >= least);
                }
            }
        });
        scope.spawn(|| {
            let mut range = ScanRange::all();
            while !done.load(SeqCst) {
                let least = applied.load(SeqCst);
                let page = store.table(0).scan(&range, usize::MAX, usize::MAX).unwrap();
                assert_eq!(page.rows.len(), KEYS);
                let first = value_of(&page.rows[0].1);
                assert!(first >= least);
                assert!(page.rows.iter().all(|(_, row)| value_of(row) == first), "half of a commit");
                range.reverse = !range.reverse;
            }
        });
    });
    assert_eq!(store.checkpoint().stream_time_ms, 399);
}

#[test]
fn memory_tables_stay_inside_their_share() {
    let home = Home::with_budget(MemoryBudget::with_max_replay(16 * MIB, Duration::from_secs(3600)));
    let store = home.open(&one_store());
    let limit = home.budget.memory_table_limit_bytes();
    let filler = vec![7_u8; 1000];
    for number in 0..200_i64 {
        let rows = (0..200).map(|at| change(format!("{number}-{at}").as_bytes(), Some(&filler), at)).collect();
        store.apply(batch(rows, number + 1)).unwrap();
        let used = home.budget.usage().memory_table_bytes;
        assert!(used <= limit, "{used} of {limit} bytes");
    }
    assert_eq!(store.table(0).scan(&ScanRange::all(), usize::MAX, usize::MAX).unwrap().rows.len(), 200 * 200);
    store.close().unwrap();
    assert_eq!(home.budget.usage().memory_table_bytes, 0);
}

#[test]
fn rows_do_not_wait_for_long() {
    let home = Home::with_budget(MemoryBudget::with_max_replay(64 * MIB, Duration::from_millis(50)));
    let store = home.open(&one_store());
    put(&store, "a", "1", 1);
    assert!(store.memory_bytes() > 0);
    // The store's own clock decides that the row has waited long enough.
    home.manual.advance(Duration::from_secs(1));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while store.memory_bytes() > 0 {
        assert!(std::time::Instant::now() < deadline, "the row was never flushed");
        thread::yield_now();
    }
    drop(store);
    let store = home.open(&one_store());
    assert_eq!(value(&store, "a").as_deref(), Some("1"));
}

#[test]
fn a_closed_store_lets_go_of_its_directory_while_tables_are_held() {
    let home = Home::new();
    let store = home.open(&one_store());
    put(&store, "a", "1", 1);
    let table = Arc::clone(store.table(0));
    Arc::clone(&store).close().unwrap();
    let task = store.task();
    assert_eq!(table.get(b"a"), Err(StoreError::Closed { task }));
    assert_eq!(table.scan(&ScanRange::all(), 1, 1), Err(StoreError::Closed { task }));
    assert_eq!(store.apply(batch(Vec::new(), 2)), Err(StoreError::Closed { task }));
    assert_eq!(store.clear(), Err(StoreError::Closed { task }));
    let again = home.open(&one_store());
    assert_eq!(value(&again, "a").as_deref(), Some("1"));
    Arc::clone(&store).close().expect("closing again does nothing");
}

#[test]
fn an_open_task_is_waited_for() {
    let home = Home::new();
    let store = home.open(&one_store());
    put(&store, "a", "1", 1);
    thread::scope(|scope| {
        let opening = scope.spawn(|| home.open(&one_store()));
        store.close().unwrap();
        assert_eq!(value(&opening.join().unwrap(), "a").as_deref(), Some("1"));
    });
}
