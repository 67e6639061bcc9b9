//! Producing: one seal at a time, in a transaction or not, with the offset of every record that was written.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::bounded;
use holdfast_types::GroupMetadata;
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig},
};
use tracing::debug;

use super::{
    config::{ConnectionSettings, Transactional},
    delivery::{Deliveries, DeliveryContext, Refused, is_consequence},
    ffi,
};
use crate::processor::Header as RecordHeader;

pub(super) type Producer = BaseProducer<DeliveryContext>;

/// Time between two looks at delivery reports: short against a commit, long against the look.
const REPORT_WAIT: Duration = Duration::from_micros(200);

/// How much longer than its time-out a call may take that sends offsets.
const SEND_OFFSETS_GRACE: Duration = Duration::from_secs(2);

/// An input's next offset, as it is committed with a transaction.
#[derive(Clone, Debug)]
pub struct InputOffset {
    /// The input's topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// The offset of the first record that is not processed.
    pub next: i64,
    /// What is kept with it.
    pub metadata: String,
}

/// A record to produce.
#[derive(Clone, Copy, Debug)]
pub struct OutRecord<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Partition; `None` lets murmur2 of the key choose.
    pub partition: Option<i32>,
    /// Key bytes.
    pub key: Option<&'a [u8]>,
    /// Value bytes; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Time stamp, ms since the epoch.
    pub timestamp_ms: i64,
    /// Headers, in order.
    pub headers: &'a [RecordHeader],
}

/// What librdkafka says of a transaction that went wrong.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct TransactionError {
    /// Kafka's or librdkafka's code.
    pub code: RDKafkaErrorCode,
    /// Its words.
    pub message: String,
    /// The producer is of no use any more.
    pub fatal: bool,
    /// The same call may be made again.
    pub retriable: bool,
    /// The transaction must be aborted.
    pub requires_abort: bool,
}

impl From<KafkaError> for TransactionError {
    fn from(error: KafkaError) -> Self {
        match error {
            KafkaError::Transaction(error) => Self {
                code: error.code(),
                message: error.to_string(),
                fatal: error.is_fatal(),
                retriable: error.is_retriable(),
                requires_abort: error.txn_requires_abort(),
            },
            other => Self {
                code: other.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail),
                message: other.to_string(),
                fatal: other.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal),
                retriable: matches!(other, KafkaError::Flush(_)),
                requires_abort: false,
            },
        }
    }
}

/// Why records were not written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProduceError {
    /// One record was refused; nothing after it in the same partition was written.
    #[error("record {index} was not written: {code}")]
    Record {
        /// Its number since [`BatchProducer::begin`].
        index: usize,
        /// Why.
        code: RDKafkaErrorCode,
    },
    /// The transaction, or the producer as a whole, failed.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// The connection to a broker broke in a transaction; see [`BatchProducer::is_troubled`].
    #[error("the connection to a broker broke in the middle of a transaction")]
    Disconnected,
    /// Not everything was acknowledged in time; waiting longer may help.
    #[error("not acknowledged within {0:?}")]
    TimedOut(Duration),
}

impl ProduceError {
    /// Whether the producer must be replaced.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Transaction(error) => error.fatal,
            Self::Record { code, .. } => {
                matches!(
                    code,
                    RDKafkaErrorCode::Fatal | RDKafkaErrorCode::Fenced | RDKafkaErrorCode::InvalidProducerEpoch
                )
            }
            Self::TimedOut(_) | Self::Disconnected => false,
        }
    }

    /// Whether the record itself is at fault: the same bytes will be refused again.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Record {
                code: RDKafkaErrorCode::MessageSizeTooLarge
                    | RDKafkaErrorCode::InvalidMessageSize
                    | RDKafkaErrorCode::InvalidMessage
                    | RDKafkaErrorCode::InvalidRecord
                    | RDKafkaErrorCode::InvalidTimestamp,
                ..
            }
        )
    }
}

/// Produces one batch (a seal) at a time and knows the offset of each of its records.
pub struct BatchProducer {
    producer: Arc<Producer>,
    transactional: bool,
    produced: usize,
    /// Offsets of the batch's records that an earlier attempt has written.
    written: Vec<i64>,
}

impl fmt::Debug for BatchProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchProducer").field("transactional", &self.transactional).finish_non_exhaustive()
    }
}

impl BatchProducer {
    /// Connects lazily.
    pub fn new(
        settings: &ConnectionSettings,
        transaction: Option<&Transactional<'_>>,
        message_timeout: Duration,
    ) -> Result<Self, KafkaError> {
        let timeout_ms = u64::try_from(message_timeout.as_millis()).unwrap_or(u64::MAX);
        let config = settings.producer(transaction, timeout_ms);
        let producer = Arc::new(config.create_with_context(DeliveryContext::default())?);
        Ok(Self { producer, transactional: transaction.is_some(), produced: 0, written: Vec::new() })
    }

    /// Connects to one of the cluster's brokers; `topic` is one that it writes to. Before [`Self::init_transactions`]: librdkafka
    /// asks for the coordinator there, and where no broker can be asked at that moment, half a second later again. That is so
    /// before it has connected, and when it has heard who the brokers are and is not connected to them yet.
    pub fn warm_up(&self, topic: &str, deadline: Duration) {
        // A partition's end comes from its leader. It would wait for the metadata, too, but looks for a connection once a second.
        let client = self.producer.client();
        let learned = client.fetch_metadata(Some(topic), deadline).map(drop);
        if let Err(error) = learned.and_then(|()| client.fetch_watermarks(topic, 0, deadline)) {
            debug!(topic, %error, "no broker yet");
        }
    }

    /// Fences every other user of the transactional id, and aborts what it left open.
    pub fn init_transactions(&self, deadline: Duration) -> Result<(), TransactionError> {
        if self.transactional {
            self.producer.init_transactions(deadline)?;
            // What broke before that was part of no transaction of this handle.
            self.listen();
            self.producer.context().disconnected.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Hears what librdkafka has to tell between two batches.
    pub fn listen(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Starts a batch.
    pub fn begin(&mut self) -> Result<(), TransactionError> {
        *self.producer.context().deliveries.lock() = Deliveries::default();
        self.produced = 0;
        self.written.clear();
        if self.transactional { Ok(self.producer.begin_transaction()?) } else { Ok(()) }
    }

    /// Goes on with a batch of which an earlier attempt has written some records, without transactions: `offsets` by record
    /// number, negative where it has not. Those are not written twice.
    pub fn resume(&mut self, offsets: Vec<i64>) {
        self.written = offsets;
    }

    /// Adds a record; waits while librdkafka's queue is full. Returns its number in the batch.
    pub fn produce(&mut self, record: &OutRecord<'_>) -> Result<usize, ProduceError> {
        let index = self.produced;
        let written = self.written.get(index).copied().unwrap_or(-1);
        let mut deliveries = self.producer.context().deliveries.lock();
        deliveries.offsets.push(written);
        deliveries.partitions.push(record.partition.unwrap_or(-1));
        drop(deliveries);
        self.produced += 1;
        if written >= 0 {
            return Ok(index);
        }
        let mut out = BaseRecord::with_opaque_to(record.topic, index).timestamp(record.timestamp_ms);
        out.partition = record.partition;
        out.key = record.key;
        out.payload = record.value;
        if !record.headers.is_empty() {
            let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
            for RecordHeader { key, value } in record.headers {
                headers = headers.insert(Header { key, value: value.as_deref() });
            }
            out = out.headers(headers);
        }
        loop {
            match self.producer.send(out) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.serve_reports();
                    if self.transactional && self.is_troubled() {
                        return Err(ProduceError::Disconnected);
                    }
                    out = back;
                }
                Err((KafkaError::MessageProduction(code), _)) => return Err(ProduceError::Record { index, code }),
                Err((error, _)) => return Err(TransactionError::from(error).into()),
            }
        }
        if index % 4096 == 4095 {
            self.producer.poll(Duration::ZERO);
        }
        Ok(index)
    }

    /// Waits until every record of the batch is acknowledged.
    pub fn flush(&mut self, deadline: Duration) -> Result<(), ProduceError> {
        let until = Instant::now() + deadline;
        loop {
            // Delivery reports are events of ours to serve; librdkafka's own flush would wait for that for ever.
            ffi::flush(&self.producer, Duration::ZERO);
            if self.producer.in_flight_count() == 0 {
                break;
            }
            self.serve_reports();
            if self.transactional && self.is_troubled() {
                return Err(ProduceError::Disconnected);
            }
            if Instant::now() >= until {
                return Err(ProduceError::TimedOut(deadline));
            }
        }
        let worst = self.producer.context().deliveries.lock().worst;
        match worst {
            Some(Refused { index, code, .. }) => {
                Err(self.transaction_error(code).unwrap_or(ProduceError::Record { index, code }))
            }
            None => Ok(()),
        }
    }

    /// What dropped the records, where that was the transaction's own error (a partition that it was not allowed to add, say):
    /// librdkafka tells it to the next call, and a begin changes nothing in a transaction that has begun.
    fn transaction_error(&self, code: RDKafkaErrorCode) -> Option<ProduceError> {
        if !self.transactional || !is_consequence(code) {
            return None;
        }
        let error = TransactionError::from(self.producer.begin_transaction().err()?);
        (error.requires_abort || error.fatal).then_some(ProduceError::Transaction(error))
    }

    /// Serves the delivery reports that are there; when there are none, lets a moment pass.
    ///
    /// The crate's own `poll` rounds what is left of its time-out down to milliseconds and then asks without waiting until the
    /// time is up: with 1 ms it spins, and takes the processor from the broker that it waits for.
    fn serve_reports(&self) {
        let mut waiting = self.producer.in_flight_count();
        loop {
            // Serves one event, which may report many records.
            self.producer.poll(Duration::ZERO);
            let left = self.producer.in_flight_count();
            if left == 0 {
                return;
            }
            if left >= waiting {
                std::thread::sleep(REPORT_WAIT);
                return;
            }
            waiting = left;
        }
    }

    /// The batch's offsets, by record number, after a successful flush.
    pub fn take_offsets(&self) -> Vec<i64> {
        std::mem::take(&mut self.producer.context().deliveries.lock().offsets)
    }

    /// The batch's partitions, by record number, after a successful flush.
    pub fn take_partitions(&self) -> Vec<i32> {
        std::mem::take(&mut self.producer.context().deliveries.lock().partitions)
    }

    /// Whether a connection broke. A broker that shuts down may have dropped markers of the transaction before, and what is
    /// still queued must not be written once it is back: it would share those markers' fate. So a transactional handle is
    /// dropped then, within moments.
    pub fn is_troubled(&self) -> bool {
        self.producer.context().disconnected.load(Ordering::Acquire)
    }

    /// Takes the handle for troubled: it is to be dropped.
    pub fn give_up(&self) {
        self.producer.context().disconnected.store(true, Ordering::Release);
    }

    /// Adds the input offsets to the transaction, under the group's member and generation.
    ///
    /// Where the group's coordinator goes away and other brokers stay, librdkafka was seen to stay in this call for ever, whatever
    /// its time-out. So it is made on a thread of its own, and given up with the handle if it does not return.
    pub fn send_offsets(
        &self,
        offsets: &Arc<[InputOffset]>,
        group: &GroupMetadata,
        deadline: Duration,
    ) -> Result<(), TransactionError> {
        let (answer, answered) = bounded(1);
        let (producer, offsets, group) = (Arc::clone(&self.producer), Arc::clone(offsets), group.clone());
        let call = move || answer.send(ffi::send_offsets(&producer, &offsets, &group, deadline));
        let again = |message: String| TransactionError {
            code: RDKafkaErrorCode::OperationTimedOut,
            message,
            fatal: false,
            retriable: true,
            requires_abort: false,
        };
        std::thread::Builder::new()
            .name("send-offsets".to_owned())
            .spawn(call)
            .map_err(|error| again(format!("no thread can be started to send the group's offsets: {error}")))?;
        answered.recv_timeout(deadline + SEND_OFFSETS_GRACE).unwrap_or_else(|_| {
            self.give_up();
            Err(again(format!("the group's offsets were not sent within {deadline:?}, and the call did not return")))
        })
    }

    /// Commits the transaction. After a retriable error or a time-out the same call resumes.
    pub fn commit(&self, deadline: Duration) -> Result<(), TransactionError> {
        Ok(self.producer.commit_transaction(deadline)?)
    }

    /// Aborts the transaction: nothing of the batch is ever read by anybody.
    pub fn abort(&self, deadline: Duration) -> Result<(), TransactionError> {
        // librdkafka waits for the delivery reports of what it drops, and those are events that only this handle serves.
        let until = Instant::now() + deadline;
        self.producer.purge(PurgeConfig::default().queue());
        while self.producer.in_flight_count() > 0 && Instant::now() < until {
            self.serve_reports();
        }
        Ok(self.producer.abort_transaction(deadline)?)
    }

    /// The fatal error of the handle, if it met one.
    pub fn fatal_error(&self) -> Option<String> {
        self.producer.client().fatal_error().map(|(code, text)| format!("{code}: {text}"))
    }
}

/// Produces without transactions, batch after batch: for load generators and tools.
#[derive(Debug)]
pub struct SimpleProducer {
    batch: BatchProducer,
}

impl SimpleProducer {
    /// Connects lazily.
    pub fn new(settings: &ConnectionSettings) -> Result<Self, KafkaError> {
        Ok(Self { batch: BatchProducer::new(settings, None, Duration::from_secs(60))? })
    }

    /// Queues a record; it is on its way, not acknowledged.
    pub fn send(&mut self, record: &OutRecord<'_>) -> Result<(), ProduceError> {
        self.batch.produce(record).map(|_| ())
    }

    /// Waits until everything sent so far is acknowledged, and starts counting anew.
    pub fn flush(&mut self, deadline: Duration) -> Result<(), ProduceError> {
        self.batch.flush(deadline)?;
        Ok(self.batch.begin()?)
    }
}
