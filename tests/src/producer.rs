//! Writing records as any client would: idempotent, acknowledged by all replicas, Java's partitioner.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    error::KafkaError,
    message::{DeliveryResult, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode,
};

use crate::{kafka::Kafka, wait};

const QUEUE_LIMIT: Duration = Duration::from_secs(60);

/// Counts what became of the records.
#[derive(Clone, Debug, Default)]
struct Deliveries {
    acknowledged: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.acknowledged.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.failed.fetch_add(1, Ordering::Relaxed),
        };
    }
}

/// A producer whose records arrive, in order and once, or fail the test.
pub struct Producer {
    inner: ThreadedProducer<Deliveries>,
    deliveries: Deliveries,
}

impl Producer {
    /// A producer to the plain listener.
    pub fn new(kafka: &Kafka) -> Self {
        Self::with(kafka.client())
    }

    /// A producer with a client's settings.
    pub fn with(mut client: ClientConfig) -> Self {
        client
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "2")
            .set("message.timeout.ms", "120000");
        let deliveries = Deliveries::default();
        Self { inner: client.create_with_context(deliveries.clone()).unwrap(), deliveries }
    }

    /// Sends to the partition that the key's murmur2 names; waits while the queue is full.
    #[track_caller]
    pub fn send(&self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.send_full(topic, None, key, value, None, None);
    }

    /// Sends with everything that a record can have.
    #[track_caller]
    pub fn send_full(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp_ms: Option<i64>,
        headers: Option<OwnedHeaders>,
    ) {
        wait::until(format!("room in the producer's queue for {topic}"), QUEUE_LIMIT, || {
            let mut record = BaseRecord::<[u8], [u8]>::to(topic);
            record.partition = partition;
            record.key = key;
            record.payload = value;
            record.timestamp = timestamp_ms;
            record.headers.clone_from(&headers);
            match self.inner.send(record) {
                Ok(()) => Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Err("the queue is full"),
                Err((error, _)) => panic!("cannot produce to {topic}: {error}"),
            }
        });
    }

    /// Waits until every record is acknowledged.
    #[track_caller]
    pub fn flush(&self) {
        self.inner.flush(Duration::from_secs(120)).unwrap();
        let failed = self.deliveries.failed.load(Ordering::Relaxed);
        assert_eq!(failed, 0, "{failed} records were not delivered");
    }

    /// Records acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.deliveries.acknowledged.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("deliveries", &self.deliveries).finish_non_exhaustive()
    }
}
