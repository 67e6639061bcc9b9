//! Writes the input of a measurement: the records of a workload, or a changelog that they lead to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use holdfast_types::partition_for;
use rdkafka::{
    ClientContext,
    error::KafkaError,
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
    types::RDKafkaErrorCode,
};

use crate::{
    broker::{Broker, client},
    error::{Error, Result},
    figures::Figures,
    workload::{Encoder, InputFlags, Topology, Workload, WorkloadFlags},
};

/// `holdfast-bench generate`.
#[derive(Args, Clone, Debug)]
pub(crate) struct GenerateFlags {
    #[command(flatten)]
    pub(crate) input: InputFlags,
    /// Partitions of a topic that does not exist yet
    #[arg(long, default_value_t = 6)]
    pub(crate) partitions: i32,
    /// Write the changelog of this application's store Counts, a count after each record, in place of the records
    #[arg(long)]
    pub(crate) changelog_of: Option<String>,
    #[command(flatten)]
    pub(crate) workload: WorkloadFlags,
}

/// Writes what the flags say.
pub(crate) async fn run(flags: &GenerateFlags) -> Result<Figures> {
    let broker = Broker::new(&flags.input.bootstrap)?;
    match &flags.changelog_of {
        Some(application_id) => changelog(&broker, application_id, flags.partitions, &flags.workload).await,
        None => records(&broker, flags.input.topic(), flags.input.topology, flags.partitions, &flags.workload).await,
    }
}

/// Fills a new topic with a workload's records.
pub(crate) async fn records(
    broker: &Broker,
    topic: &str,
    topology: Topology,
    partitions: i32,
    flags: &WorkloadFlags,
) -> Result<Figures> {
    broker.create(topic, partitions, &[("retention.ms", "-1")]).await?;
    let writer = Writer::new(broker.bootstrap())?;
    let mut encoder = Encoder::new(topology);
    let (started, mut bytes) = (Instant::now(), 0);
    for record in Workload::new(topology, flags) {
        let (key, value) = encoder.encode(&record);
        bytes += key.len() + value.len();
        writer.send(topic, partition_for(key, partitions), key, value)?;
    }
    writer.finish()?;
    let seconds = started.elapsed().as_secs_f64();
    let mut figures = Figures::new();
    figures.set("records", flags.records);
    figures.number("seconds", seconds);
    figures.number("records_per_s", flags.records as f64 / seconds);
    figures.number("bytes_per_record", bytes as f64 / flags.records.max(1) as f64);
    Ok(figures)
}

/// Fills the changelog that counting the workload without merging writes: one record per input record. The input is left
/// out; a group that has read it to the end is what a restoring application needs.
pub(crate) async fn changelog(
    broker: &Broker,
    application_id: &str,
    partitions: i32,
    flags: &WorkloadFlags,
) -> Result<Figures> {
    let topic = format!("{application_id}-Counts-changelog");
    broker.create(&topic, partitions, &[("cleanup.policy", "compact")]).await?;
    let writer = Writer::new(broker.bootstrap())?;
    let mut encoder = Encoder::new(Topology::Count);
    let mut counts = vec![0_i64; usize::try_from(flags.keys).unwrap_or(0)];
    let started = Instant::now();
    for record in Workload::new(Topology::Count, flags) {
        let Some(count) = usize::try_from(record.key).ok().and_then(|key| counts.get_mut(key)) else { continue };
        *count += 1;
        let (key, _) = encoder.encode(&record);
        writer.send(&topic, partition_for(key, partitions), key, &count.to_be_bytes())?;
    }
    writer.finish()?;
    let mut figures = Figures::new();
    figures.set("topic", &topic);
    figures.set("records", flags.records);
    figures.number("seconds", started.elapsed().as_secs_f64());
    Ok(figures)
}

#[derive(Clone, Default)]
struct Failures(Arc<AtomicU64>);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, outcome: &DeliveryResult<'_>, (): ()) {
        if outcome.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes as fast as the broker takes it, each record acknowledged.
struct Writer {
    producer: BaseProducer<Failures>,
    failures: Failures,
}

impl Writer {
    fn new(bootstrap: &str) -> Result<Self> {
        let failures = Failures::default();
        let producer = client(bootstrap)
            .set("enable.idempotence", "true")
            .set("linger.ms", "20")
            .set("batch.size", "262144")
            .set("delivery.report.only.error", "true")
            .set("queue.buffering.max.messages", "1000000")
            .create_with_context(failures.clone())?;
        Ok(Self { producer, failures })
    }

    fn send(&self, topic: &str, partition: i32, key: &[u8], value: &[u8]) -> Result<()> {
        let mut record = BaseRecord::to(topic).partition(partition).key(key).payload(value);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    fn finish(self) -> Result<()> {
        self.producer.flush(Duration::from_secs(300))?;
        match self.failures.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            failed => Err(Error::other(format!("{failed} records were not written"))),
        }
    }
}
