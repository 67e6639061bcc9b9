//! Stores against a `BTreeMap`, with flushes, scans, clears, clean restarts and crashes in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{Home, change, input, next_input};
use holdfast_store::{
    AppliedBatch, CheckpointDelta, Row, RowChange, ScanRange, StoreKind, Table, TaskStore, TaskStoreSpec,
};
use proptest::{collection::vec, prelude::*, sample::select};

type Model = BTreeMap<Vec<u8>, Row>;

/// Two persistent stores, to see that their rows move together, and one that lives in memory.
const STORES: usize = 3;
const IN_MEMORY: usize = 2;

fn spec() -> TaskStoreSpec {
    common::spec(&[
        ("counts", StoreKind::Persistent),
        ("sums", StoreKind::Persistent),
        ("volatile", StoreKind::InMemory),
    ])
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(usize, Vec<u8>, Option<Vec<u8>>)>),
    Flush,
    Get(usize, Vec<Vec<u8>>),
    Scan(usize, ScanRange, usize, usize),
    Clear,
    Restart,
    Crash,
}

/// Few keys, so that steps meet, with the bytes at which ranges and prefixes have their edges.
fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(select(vec![0_u8, 1, b'a', 0xfe, 0xff]), 0..3)
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)]
}

fn range() -> impl Strategy<Value = ScanRange> {
    let bounds = (bound(), bound()).prop_map(|(from, to)| ScanRange { from, to, reverse: false });
    let prefix = key().prop_map(|prefix| ScanRange::prefix(&prefix));
    (prop_oneof![bounds, prefix], any::<bool>()).prop_map(|(range, reverse)| ScanRange { reverse, ..range })
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![2 => vec(any::<u8>(), 0..4).prop_map(Some), 1 => Just(None)];
    prop_oneof![
        8 => vec((0..STORES, key(), value), 0..8).prop_map(Step::Apply),
        3 => Just(Step::Flush),
        3 => (0..STORES, vec(key(), 1..6)).prop_map(|(store, keys)| Step::Get(store, keys)),
        6 => (0..STORES, range(), 0..6_usize, select(vec![0, 1, 4, 1000_usize]))
            .prop_map(|(store, range, rows, bytes)| Step::Scan(store, range, rows, bytes)),
        1 => Just(Step::Restart),
        2 => Just(Step::Crash),
        1 => prop_oneof![Just(Step::Clear), Just(Step::Flush), Just(Step::Flush)],
    ]
}

/// The store under test beside what it must look like.
struct Pair {
    home: Home,
    store: Option<Arc<TaskStore>>,
    now: Vec<Model>,
    /// The state after each batch since the last clear, by next input offset.
    past: BTreeMap<i64, Vec<Model>>,
    next: i64,
}

impl Pair {
    fn new() -> Self {
        let home = Home::new();
        let store = Some(home.open(&spec()));
        let now = vec![Model::new(); STORES];
        Self { home, store, past: BTreeMap::from([(0, now.clone())]), now, next: 0 }
    }

    fn store(&self) -> &Arc<TaskStore> {
        self.store.as_ref().unwrap()
    }

    fn table(&self, store: usize) -> &Arc<Table> {
        self.store().table(store)
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Apply(changes) => self.apply(changes),
            Step::Flush => {
                self.store().flush().unwrap();
            }
            Step::Get(store, keys) => self.get(store, &keys),
            Step::Scan(store, range, rows, bytes) => self.scan(store, &range, rows, bytes),
            Step::Clear => self.clear(),
            Step::Restart => {
                self.store.take().unwrap().close().unwrap();
                let before = self.next;
                self.reopen();
                assert_eq!(next_input(self.store()), before, "a clean restart loses nothing");
            }
            Step::Crash => {
                drop(self.store.take());
                self.reopen();
            }
        }
    }

    fn apply(&mut self, changes: Vec<(usize, Vec<u8>, Option<Vec<u8>>)>) {
        self.next += 1;
        let mut rows: Vec<Vec<RowChange>> = vec![Vec::new(); STORES];
        for (store, key, value) in changes {
            let change = change(&key, value.as_deref(), self.next);
            match value {
                Some(value) => {
                    let row = Row { value: value.into(), timestamp_ms: change.timestamp_ms, offset: change.offset };
                    self.now[store].insert(key, row);
                }
                None => {
                    self.now[store].remove(&key);
                }
            }
            rows[store].push(change);
        }
        let checkpoint = CheckpointDelta { input: vec![(input(), self.next)], ..CheckpointDelta::default() };
        self.store().apply(AppliedBatch { rows, checkpoint }).unwrap();
        self.past.insert(self.next, self.now.clone());
        assert_eq!(next_input(self.store()), self.next);
    }

    fn get(&self, store: usize, keys: &[Vec<u8>]) {
        let expected: Vec<Option<Row>> = keys.iter().map(|key| self.now[store].get(key).cloned()).collect();
        let slices: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        assert_eq!(self.table(store).get_many(&slices).unwrap(), expected);
        for (key, expected) in keys.iter().zip(expected) {
            assert_eq!(self.table(store).get(key).unwrap(), expected, "{key:?}");
        }
    }

    fn scan(&self, store: usize, range: &ScanRange, limit_rows: usize, limit_bytes: usize) {
        let in_range = self.now[store].iter().filter(|(key, _)| range.contains(key));
        let mut expected: Vec<(Bytes, Row)> =
            in_range.map(|(key, row)| (Bytes::copy_from_slice(key), row.clone())).collect();
        if range.reverse {
            expected.reverse();
        }
        let page = self.table(store).scan(range, limit_rows, limit_bytes).unwrap();
        assert_eq!(page.rows[..], expected[..page.rows.len()]);
        assert_eq!(page.more, page.rows.len() < expected.len());
        let bytes = |rows: &[(Bytes, Row)]| rows.iter().map(|(key, row)| key.len() + row.value.len()).sum::<usize>();
        let full = page.rows.len() == limit_rows || (!page.rows.is_empty() && bytes(&page.rows) >= limit_bytes);
        assert!(full || !page.more, "a page ends where it must and no sooner");
        if let [before @ .., _] = &page.rows[..] {
            assert!(before.len() < limit_rows && (before.is_empty() || bytes(before) < limit_bytes));
        }
    }

    fn clear(&mut self) {
        self.store().clear().unwrap();
        self.now = vec![Model::new(); STORES];
        self.past = BTreeMap::from([(0, self.now.clone())]);
        self.next = 0;
        assert_eq!(next_input(self.store()), 0);
    }

    /// Whatever checkpoint comes back, the rows must be exactly those of it.
    fn reopen(&mut self) {
        let store = self.home.open(&spec());
        self.next = next_input(&store);
        self.now = self.past.get(&self.next).expect("a checkpoint that was applied").clone();
        self.now[IN_MEMORY].clear();
        self.past.retain(|&at, _| at < self.next);
        self.past.insert(self.next, self.now.clone());
        self.store = Some(store);
        for store in 0..STORES {
            self.scan(store, &ScanRange::all(), usize::MAX, usize::MAX);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_store_is_a_map_that_crashes_well(steps in vec(step(), 1..60)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.run(step);
        }
        let Pair { home, store, .. } = pair;
        drop(store);
        // The flush thread may be looking at the store just now, and be the one that lets go of it last.
        let deadline = Instant::now() + Duration::from_secs(20);
        let counted = || home.budget.usage().memory_table_bytes + home.budget.usage().in_memory_store_bytes;
        while counted() > 0 {
            prop_assert!(Instant::now() < deadline, "{} bytes are still counted", counted());
            std::thread::yield_now();
        }
    }
}
