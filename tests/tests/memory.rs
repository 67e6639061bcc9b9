//! Memory: what the limit says holds, with more rows than fit and look-ups going on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use holdfast_tests::{
    chance, consumer,
    instance::InstanceConfig,
    inventory::STORES,
    kafka::{Kafka, Names},
    load::transaction,
    producer::Producer,
    rest::{self, Rest},
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);
/// What a process of this kind takes before it has a row: code, threads, connections, and the fragments between.
const BESIDE_MIB: u64 = 64;
/// The same with a small limit, which has less slack of its own, and with the code of a debug build.
const BESIDE_SMALL_MIB: u64 = 96;

/// Peak resident memory of a process, in MiB.
fn peak_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Looks rows up as fast as one caller can.
struct LookUps {
    thread: Option<thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl LookUps {
    fn start(rest: Rest, keys: u64) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = thread::spawn(move || {
            for turn in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let key = turn.wrapping_mul(7_919) % keys;
                // However old: a machine that stands still for seconds has nothing to do with what is tested here.
                let answer = rest.fetch(&format!("/v1/stores/{STORES}/keys/Store_{key}?consistency=any"));
                assert!(matches!(answer.status, 200 | 404), "{} {}", answer.status, answer.body);
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { thread: Some(thread), stop, answered }
    }

    #[track_caller]
    fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("a look-up failed; its message is above");
        self.answered.load(Ordering::Relaxed)
    }
}

#[test]
fn memory_stays_within_its_limit() {
    let soak = chance::repetitions(1) > 1;
    let (limit_mib, records, keys) = if soak { (256, 20_000_000_u64, 5_000_000_u64) } else { (96, 400_000, 200_000) };
    let kafka = Kafka::shared();
    let names = Names::fresh("memory");
    names.create_topics(kafka, 3);
    let mut instance = InstanceConfig::new(kafka, &names).set("memory_limit", format!("{limit_mib}MiB")).start_ready();
    let rest = instance.rest();
    let look_ups = LookUps::start(rest.clone(), keys);
    let producer = Producer::new(kafka);
    // Every key equally often, in an order that no cache likes.
    for record in 0..records {
        let key = record.wrapping_mul(2_654_435_761) % keys;
        let store = format!("Store_{key}");
        let value = transaction(&store, &format!("Item_{}", key % 100), "RESTOCK", 1);
        producer.send(&names.items, Some(store.as_bytes()), Some(&value));
    }
    producer.flush();
    let patience = if soak { LIMIT * 30 } else { LIMIT * 2 };
    consumer::wait_committed(kafka, &names.application_id, &names.items, patience);
    let mut expected: BTreeMap<u64, i64> = BTreeMap::new();
    for record in 0..records {
        *expected.entry(record.wrapping_mul(2_654_435_761) % keys).or_default() += 1;
    }
    // Every row, while look-ups go on.
    let rows = wait::until("all rows", LIMIT, || {
        let rows = rest.scan(STORES, if soak { 10_000 } else { 1_000 });
        if rows.len() == expected.len() { Ok(rows) } else { Err(format!("{} rows", rows.len())) }
    });
    for (store, value) in rows {
        let key: u64 = store.strip_prefix("Store_").unwrap().parse().unwrap();
        let stock = BTreeMap::from([(format!("Item_{}", key % 100), expected[&key])]);
        assert_eq!(rest::stock(&value), stock, "{store}");
    }
    let answered = look_ups.stop();
    assert!(answered > 0);
    let peak = peak_mib(instance.pid());
    eprintln!("limit {limit_mib} MiB, peak {peak} MiB, {answered} look-ups\n{}", budget(&rest));
    let beside = if soak { BESIDE_MIB } else { BESIDE_SMALL_MIB };
    assert!(peak <= limit_mib + beside, "{peak} MiB resident with memory_limit {limit_mib} MiB\n{}", budget(&rest));
    assert!(instance.terminate().success());
}

/// What the instance says of its memory.
fn budget(rest: &Rest) -> String {
    let text = rest.fetch("/metrics").body;
    // Of the stores, and of the threads: uncommitted and cached rows.
    let lines = text.lines().filter(|line| {
        let ours = line.starts_with("holdfast_store_") || line.starts_with("holdfast_stream_");
        ours && line.contains("bytes") && !line.contains("total")
    });
    lines.collect::<Vec<_>>().join("\n")
}
