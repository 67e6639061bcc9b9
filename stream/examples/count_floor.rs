//! How fast one task counts, against a plain hash map loop, in CPU time:
//! `cargo run --release -p holdfast-stream --example count_floor`.
//!
//! 5 M records of about 20 bytes over `--keys` keys (500,000, uniform), committed (flush, seal, apply) every `--interval`
//! records (500,000).

use std::{collections::HashMap, error::Error, sync::Arc, time::Duration};

use holdfast_store::{AppliedBatch, CheckpointDelta, MemoryBudget, RowChange, StoreSpec, TaskStore, TaskStoreSpec};
use holdfast_stream::{
    prelude::*,
    processor::{SealedRow, SourceRecord, TaskContext, TaskGraph},
};
use holdfast_types::{SystemClock, TaskId};

const RECORDS: usize = 5_000_000;

/// The CPU time of this thread: other programs on the machine count less than with a wall clock.
struct Cpu(Duration);

impl Cpu {
    fn now() -> Result<Self, Box<dyn Error>> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
        let nanoseconds = text.split(' ').next().ok_or("schedstat is empty")?.parse()?;
        Ok(Self(Duration::from_nanos(nanoseconds)))
    }

    fn elapsed(&self) -> Result<Duration, Box<dyn Error>> {
        Ok(Self::now()?.0.saturating_sub(self.0))
    }
}

/// Numbers without a pattern, the same in each run (xorshift64*).
struct Numbers(u64);

impl Iterator for Numbers {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        Some(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let interval = option("--interval")?.unwrap_or(500_000) as usize;
    let distinct = option("--keys")?.unwrap_or(500_000);
    let keys: Vec<u8> =
        Numbers(42).take(RECORDS).flat_map(|n| format!("key-{:08}", n % distinct).into_bytes()).collect();
    let key = |at: usize| &keys[at * 12..(at + 1) * 12];

    let start = Cpu::now()?;
    let mut counts: HashMap<Vec<u8>, i64> = HashMap::new();
    for at in 0..RECORDS {
        match counts.get_mut(key(at)) {
            Some(count) => *count += 1,
            None => {
                counts.insert(key(at).to_vec(), 1);
            }
        }
    }
    report("std HashMap<Vec<u8>, i64>", start.elapsed()?);
    let start = Cpu::now()?;
    let mut fast: hashbrown::HashMap<Vec<u8>, i64> = hashbrown::HashMap::new();
    for at in 0..RECORDS {
        match fast.get_mut(key(at)) {
            Some(count) => *count += 1,
            None => {
                fast.insert(key(at).to_vec(), 1);
            }
        }
    }
    report("hashbrown HashMap<Vec<u8>, i64>", start.elapsed()?);

    let builder = TopologyBuilder::new();
    builder.stream("in", Consumed::with(Utf8, Utf8)).group_by_key().count(Materialized::named("counts"));
    let topology = builder.build()?;
    let task = TaskId::new(0, 0);
    let spec = TaskStoreSpec {
        task,
        fingerprint: topology.subtopologies()[0].fingerprint.clone(),
        stores: topology
            .stores()
            .iter()
            .map(|store| StoreSpec { name: store.name.clone(), kind: store.kind, changelog: None })
            .collect(),
    };
    let store = TaskStore::temporary(&MemoryBudget::new(4 << 30), &spec);
    let mut graph = TaskGraph::build(&topology, 0, store.tables())?;
    let mut context = TaskContext::new(task, Arc::new(SystemClock));
    let topic: Arc<str> = "in".into();
    let (mut processing, mut sealing, mut applying) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for from in (0..RECORDS).step_by(interval) {
        let start = Cpu::now()?;
        for at in from..(from + interval).min(RECORDS) {
            let record = SourceRecord {
                key: Some(key(at)),
                value: Some(b"20 bytes"),
                timestamp_ms: at as i64,
                offset: at as i64,
                partition: 0,
                topic: &topic,
                headers: &[],
            };
            graph.process(0, &record, &mut context)?;
        }
        processing += start.elapsed()?;
        let start = Cpu::now()?;
        graph.flush(&mut context, None)?;
        let mut sealed: Vec<Vec<SealedRow>> = Vec::new();
        graph.seal(&mut sealed)?;
        sealing += start.elapsed()?;
        let start = Cpu::now()?;
        let change =
            |row: SealedRow| RowChange { key: row.key, value: row.value, timestamp_ms: row.timestamp_ms, offset: 0 };
        let rows = sealed.into_iter().map(|rows| rows.into_iter().map(change).collect()).collect();
        store.apply(AppliedBatch { rows, checkpoint: CheckpointDelta::default() })?;
        graph.committed();
        applying += start.elapsed()?;
    }
    report("TaskGraph::process", processing);
    report("TaskGraph::process + flush + seal", processing + sealing);
    report("TaskGraph::process + flush + seal + TaskStore::apply", processing + sealing + applying);
    for (bytes, count) in &counts {
        let row = store.table(0).get(bytes)?.ok_or("a key is missing")?;
        if row.value[..] != count.to_be_bytes() {
            return Err(format!("{}: expected {count}", String::from_utf8_lossy(bytes)).into());
        }
    }
    report_line(&format!("{} keys, all counts equal; {} bytes cached", counts.len(), graph.cached_bytes()));
    Ok(())
}

fn option(name: &str) -> Result<Option<u64>, Box<dyn Error>> {
    Ok(std::env::args().skip_while(|arg| arg != name).nth(1).map(|text| text.parse()).transpose()?)
}

fn report(what: &str, took: Duration) {
    let per_second = RECORDS as f64 / took.as_secs_f64() / 1e6;
    report_line(&format!(
        "{what:<55} {per_second:6.2} M records/s  {:6.0} ns",
        took.as_nanos() as f64 / RECORDS as f64
    ));
}

#[expect(clippy::print_stdout, reason = "an example that measures prints what it measured")]
fn report_line(text: &str) {
    println!("{text}");
}
