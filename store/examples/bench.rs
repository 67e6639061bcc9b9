//! What a store does per second, in one run without a broker: commits, flushes, look-ups, scans.
//!
//! `cargo run --release -p holdfast-store --example bench -- [ROWS] [KEYS]`
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::{
    error::Error,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_store::{
    AppliedBatch, MemoryBudget, RowChange, ScanRange, StateDirectory, StoreKind, StoreSpec, TaskStore, TaskStoreSpec,
};
use holdfast_types::{Clock, StoreName, SystemClock, TaskId};

const ROWS_PER_COMMIT: usize = 20_000;
const LOOK_UPS: usize = 1_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let rows = arguments.next().transpose()?.unwrap_or(5_000_000);
    let keys = arguments.next().transpose()?.unwrap_or(500_000);

    let root = tempfile::tempdir()?;
    let directory = StateDirectory::open(root.path(), "bench")?;
    // Flushes when memory is short, not by time: each line below is about what it says.
    let budget = MemoryBudget::with_max_replay(1 << 30, Duration::from_secs(3600));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let spec = TaskStoreSpec {
        task: TaskId::new(0, 0),
        fingerprint: String::new(),
        stores: vec![StoreSpec { name: StoreName::from("counts"), kind: StoreKind::Persistent, changelog: None }],
    };
    let store = TaskStore::open(&directory, &budget, &spec, None, &clock)?;

    let mut spread = Spread(1);
    let commits: Vec<AppliedBatch> = (0..rows.div_ceil(ROWS_PER_COMMIT))
        .map(|number| {
            let row = |at: usize| RowChange {
                key: Bytes::from(key(spread.next() % keys)),
                value: Some(Bytes::copy_from_slice(&(number * ROWS_PER_COMMIT + at).to_be_bytes())),
                timestamp_ms: 0,
                offset: (number * ROWS_PER_COMMIT + at) as i64,
            };
            AppliedBatch { rows: vec![(0..ROWS_PER_COMMIT).map(row).collect()], ..AppliedBatch::default() }
        })
        .collect();

    let mut longest = Duration::ZERO;
    let total = timed("apply (with flushes by the way)", rows, || -> Result<(), Box<dyn Error>> {
        for commit in commits {
            let started = Instant::now();
            store.apply(commit)?;
            longest = longest.max(started.elapsed());
        }
        Ok(())
    });
    total?;
    println!("  the longest of these commits took {longest:?}");
    println!("  {} bytes of memory tables for {keys} keys", budget.usage().memory_table_bytes);

    let table = Arc::clone(store.table(0));
    let look_ups: Vec<Vec<u8>> = (0..LOOK_UPS).map(|_| key(spread.next() % keys)).collect();
    let get = |keys: &[Vec<u8>]| -> Result<(), Box<dyn Error>> {
        for key in keys {
            black_box(table.get(key)?);
        }
        Ok(())
    };
    timed("get (memory table, or RocksDB behind it)", LOOK_UPS, || get(&look_ups))?;
    timed("scan pages of 100 (first one sorts)", 10_000 * 100, || scan(&store, &look_ups[..10_000]))?;
    timed("scan pages of 100", 10_000 * 100, || scan(&store, &look_ups[..10_000]))?;
    let report = store.flush()?;
    println!("flush: {report:?}");
    timed("get (RocksDB, cold)", LOOK_UPS, || get(&look_ups))?;
    timed("get (RocksDB)", LOOK_UPS, || get(&look_ups))?;
    timed("get_many of 100 (RocksDB)", LOOK_UPS, || -> Result<(), Box<dyn Error>> {
        for keys in look_ups.chunks(100) {
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            black_box(table.get_many(&keys)?);
        }
        Ok(())
    })?;
    timed("get of no such key (RocksDB)", LOOK_UPS, || -> Result<(), Box<dyn Error>> {
        for at in 0..LOOK_UPS {
            black_box(table.get(&key(keys + at))?);
        }
        Ok(())
    })?;
    timed("scan pages of 100 (RocksDB)", 10_000 * 100, || scan(&store, &look_ups[..10_000]))?;
    timed("close", 1, || store.close())?;
    timed("open", 1, || TaskStore::open(&directory, &budget, &spec, None, &clock))?;
    Ok(())
}

fn scan(store: &TaskStore, from: &[Vec<u8>]) -> Result<(), Box<dyn Error>> {
    for key in from {
        black_box(store.table(0).scan(&ScanRange::all().after(key), 100, usize::MAX)?);
    }
    Ok(())
}

fn key(number: usize) -> Vec<u8> {
    format!("key-{number:010}").into_bytes()
}

fn timed<T>(what: &str, operations: usize, run: impl FnOnce() -> T) -> T {
    let (started, cpu_before) = (Instant::now(), thread_cpu());
    let outcome = run();
    let (elapsed, cpu) = (started.elapsed(), thread_cpu().saturating_sub(cpu_before));
    let cpu_each = cpu / u32::try_from(operations).unwrap_or(u32::MAX);
    println!("{what}: {:.0}/s, {cpu_each:?} of CPU each", operations as f64 / elapsed.as_secs_f64());
    outcome
}

/// CPU time of this thread: says more than the wall clock on a machine that does other things too.
fn thread_cpu() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = schedstat.split_whitespace().next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// Numbers that look random and are the same in every run.
struct Spread(usize);

impl Spread {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
