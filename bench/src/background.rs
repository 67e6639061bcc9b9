//! A steady stream of stock movements beside a measurement: other stores and skus than the measured ones, so that what is
//! asked for keeps its values.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use holdfast_types::partition_for;
use rdkafka::{
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, Producer as _},
    types::RDKafkaErrorCode,
};

use crate::{
    broker::{Broker, client},
    error::Result,
};

/// Stores and skus of the stream.
const NAMES: u64 = 1_000;
/// Skus of a store: its row is written with each of its records, and would grow as long as the stream flows.
const SKUS_OF_A_STORE: u64 = 20;
/// Time between two bursts: short against a commit interval.
const TICK: Duration = Duration::from_millis(2);

/// The running stream; dropping it ends it.
pub(crate) struct Background {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts to send `rate` records a second.
    pub(crate) fn start(bootstrap: &str, topic: &str, rate: u64) -> Result<Self> {
        let partitions = Broker::new(bootstrap)?.partitions(topic)?;
        let producer: BaseProducer = client(bootstrap)
            .set("linger.ms", "2")
            .set("enable.idempotence", "true")
            .set("delivery.report.only.error", "true")
            .create()?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted, topic) = (Arc::clone(&stop), Arc::clone(&sent), topic.to_owned());
        let thread = thread::spawn(move || {
            let started = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
                while counted.load(Ordering::Relaxed) < due {
                    let id = counted.fetch_add(1, Ordering::Relaxed);
                    send(&producer, &topic, partitions, id);
                }
                producer.poll(Duration::ZERO);
                thread::sleep(TICK);
            }
            // What is still queued does not matter to anybody.
            let _ = producer.flush(Duration::from_secs(5));
        });
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    /// Records sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; the measurement's figures say how many were sent.
            let _ = thread.join();
        }
    }
}

fn send(producer: &BaseProducer, topic: &str, partitions: i32, id: u64) {
    let store = format!("Background_{}", id % NAMES);
    // Each record another sku than the ones before it: a few in a row with the same one would leave most partitions of what is
    // grouped by skus without a record for some commit intervals. And with each round of stores other pairs.
    let round = id / NAMES % SKUS_OF_A_STORE;
    let sku = (id * 7 + round * (NAMES / SKUS_OF_A_STORE)) % NAMES;
    let value = format!(
        r#"{{"id":{id},"storeName":"{store}","sku":"Extra_{sku}","quantity":1,"type":"RESTOCK","price":1.5,"timestamp":"2026-01-01T00:00:00.000100"}}"#
    );
    let partition = partition_for(store.as_bytes(), partitions);
    let mut record = BaseRecord::to(topic).partition(partition).key(store.as_bytes()).payload(value.as_bytes());
    while let Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) = producer.send(record) {
        record = back;
        producer.poll(Duration::ZERO);
        thread::sleep(TICK);
    }
}
