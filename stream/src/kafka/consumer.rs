//! Fetching: partitions assigned by hand, each with a queue of its own, so that back-pressure is per task.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_types::TopicPartition;
use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::{Offset, TopicPartitionList},
};
use tracing::{debug, warn};

pub use super::ffi::Waker;
use super::{
    config::{ConnectionSettings, Reads},
    ffi::{self, NativeEndsQuery, NativeFetchQueue, RawEvent, RawMessage},
    report,
};

pub(super) type Consumer = BaseConsumer<FetchContext>;

/// Logs what librdkafka reports; there are no rebalances to handle.
#[derive(Debug)]
pub(super) struct FetchContext;

impl ClientContext for FetchContext {
    fn error(&self, error: KafkaError, reason: &str) {
        report::error("fetching", &error, reason);
    }

    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        report::log("fetching", facility, line);
    }
}

impl ConsumerContext for FetchContext {}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartOffset {
    /// The oldest record that the topic still has.
    Beginning,
    /// After the newest record.
    End,
    /// The next offset to read.
    At(i64),
}

impl From<StartOffset> for Offset {
    fn from(start: StartOffset) -> Self {
        match start {
            StartOffset::Beginning => Self::Beginning,
            StartOffset::End => Self::End,
            StartOffset::At(offset) => Self::Offset(offset),
        }
    }
}

/// A seek is a message to librdkafka's own thread.
const SEEK_DEADLINE: Duration = Duration::from_secs(5);

/// Why fetching does not go on.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// librdkafka refused the call.
    #[error("librdkafka: {0}")]
    Client(#[from] KafkaError),
    /// The offset to read is no longer, or not yet, in the log.
    #[error("offset to read of {partition} is outside the log: {message}")]
    OffsetOutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// librdkafka's words.
        message: String,
    },
    /// The partition cannot be read; retried by librdkafka unless it lasts.
    #[error("{partition} cannot be read: {code}: {message}")]
    Partition {
        /// The partition.
        partition: TopicPartition,
        /// Kafka's error.
        code: RDKafkaErrorCode,
        /// librdkafka's words.
        message: String,
    },
}

impl FetchError {
    /// Whether this user may not read the topic; librdkafka asks again, so that it goes on once the permission is granted.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Partition { code: RDKafkaErrorCode::TopicAuthorizationFailed, .. })
    }

    /// Whether records were lost that had been read: the partition's new leader never had them (KIP-320). What is in the log from
    /// there on is not what was read.
    pub fn is_truncation(&self) -> bool {
        // librdkafka says it by this text only, under the code of all offsets outside a log.
        matches!(self, Self::OffsetOutOfRange { message, .. } if message.contains("log truncation detected"))
    }

    /// Whether librdkafka goes on by itself.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Client(_) | Self::OffsetOutOfRange { .. } => false,
            Self::Partition { code, .. } => matches!(
                code,
                RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::OperationTimedOut
                    | RDKafkaErrorCode::RequestTimedOut
                    | RDKafkaErrorCode::Resolve
                    | RDKafkaErrorCode::NotLeaderForPartition
                    | RDKafkaErrorCode::LeaderNotAvailable
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::UnknownLeaderEpoch
                    | RDKafkaErrorCode::FencedLeaderEpoch
                    | RDKafkaErrorCode::ReplicaNotAvailable
                    | RDKafkaErrorCode::OffsetNotAvailable
            ),
        }
    }
}

/// A handle that fetches assigned partitions. An instance has one for input, and one each to restore, to follow, and to ask
/// where changelogs end.
pub struct FetchConsumer {
    consumer: Arc<Consumer>,
}

impl fmt::Debug for FetchConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchConsumer").finish_non_exhaustive()
    }
}

impl FetchConsumer {
    /// Connects lazily. `queue_bytes` bounds what is fetched ahead per partition.
    pub fn new(
        settings: &ConnectionSettings,
        group_id: &str,
        reads: Reads,
        queue_bytes: u64,
    ) -> Result<Self, KafkaError> {
        let config = settings.consumer(group_id, reads, queue_bytes);
        Ok(Self { consumer: Arc::new(config.create_with_context(FetchContext)?) })
    }

    /// Fetches the cluster's metadata, so that the first assignment need not wait for it. A cluster that does not answer is
    /// no error here.
    pub fn warm_up(&self, deadline: Duration) {
        if let Err(error) = self.consumer.fetch_metadata(None, deadline) {
            debug!(%error, "no metadata yet");
        }
    }

    /// Starts fetching `partition` from `start` into a queue of its own; `waker` hears of its first record after a pause.
    pub fn assign(
        &self,
        partition: &TopicPartition,
        start: StartOffset,
        waker: &Arc<Waker>,
    ) -> Result<FetchQueue, FetchError> {
        let native = NativeFetchQueue::open(
            Arc::clone(&self.consumer),
            &partition.topic,
            partition.partition,
            Arc::clone(waker),
        )?;
        self.begin(&native, partition, start)?;
        Ok(FetchQueue { native, partition: partition.clone() })
    }

    /// Fetches `queue`'s partition from `start` after an error that ended fetching it. (A second queue for the partition would
    /// lose its messages when the first is dropped: there is one forward.)
    pub fn assign_again(&self, queue: &mut FetchQueue, start: StartOffset) -> Result<(), FetchError> {
        self.unassign(&queue.partition)?;
        queue.native.discard();
        self.begin(&queue.native, &queue.partition, start)
    }

    fn begin(
        &self,
        native: &NativeFetchQueue,
        partition: &TopicPartition,
        start: StartOffset,
    ) -> Result<(), FetchError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&partition.topic, partition.partition, start.into())?;
        self.consumer.incremental_assign(&list)?;
        // An unassign before this returned once the stop was on its way, and librdkafka's main thread clears the forward when
        // the stop arrives: maybe only now. It answers an assign after that, so this forward stays, and takes along what came
        // meanwhile.
        native.forward();
        Ok(())
    }

    /// Fetches `queue`'s partition again from `start`; what it holds is forgotten.
    pub fn seek(&self, queue: &mut FetchQueue, start: StartOffset) -> Result<(), FetchError> {
        let partition = &queue.partition;
        self.consumer.seek(&partition.topic, partition.partition, start.into(), SEEK_DEADLINE)?;
        queue.native.discard();
        Ok(())
    }

    /// Stops fetching `partition`; what its queue still holds is stale.
    pub fn unassign(&self, partition: &TopicPartition) -> Result<(), FetchError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&partition.topic, partition.partition);
        Ok(self.consumer.incremental_unassign(&list)?)
    }

    /// Serves librdkafka's own events (errors, statistics); to be called now and then.
    pub fn serve(&self) {
        while let Some(event) = self.consumer.poll(Duration::ZERO) {
            if let Err(error) = event {
                debug!(%error, "librdkafka, fetching");
            } else {
                warn!("librdkafka gave a record outside its partition's queue; it is fetched again on restart");
            }
        }
    }

    /// Asks the broker for the partition's log start and end. On a read-committed handle the end is the last stable offset.
    pub fn watermarks(&self, partition: &TopicPartition, deadline: Duration) -> Result<(i64, i64), KafkaError> {
        let asked = self.consumer.fetch_watermarks(&partition.topic, partition.partition, deadline);
        if asked.is_err() {
            // librdkafka holds what it once heard for final, for minutes: that a partition has no leader, or is not there. A
            // broker that comes back says so for a moment. The next attempt is to know better.
            if let Err(error) = self.consumer.fetch_metadata(Some(&partition.topic), deadline) {
                debug!(%partition, %error, "no newer metadata");
            }
        }
        asked
    }

    /// Asks where each partition ends (committed or not), without waiting: one request per broker, however many partitions.
    pub fn ask_ends(&self, partitions: &[TopicPartition], deadline: Duration) -> Result<EndsQuery, FetchError> {
        let asked_at = Instant::now();
        let native = NativeEndsQuery::ask(Arc::clone(&self.consumer), partitions, deadline)?;
        Ok(EndsQuery { native, asked_at })
    }

    /// The end of the partition as of the last fetch answer, without asking.
    pub fn cached_end(&self, partition: &TopicPartition) -> Option<i64> {
        ffi::cached_watermarks(&self.consumer, &partition.topic, partition.partition).map(|(_, high)| high)
    }
}

/// A question where partitions end, on its way.
pub struct EndsQuery {
    native: NativeEndsQuery,
    asked_at: Instant,
}

impl fmt::Debug for EndsQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndsQuery").field("asked_at", &self.asked_at).finish_non_exhaustive()
    }
}

impl EndsQuery {
    /// When it was asked: the ends are at least as new.
    pub fn asked_at(&self) -> Instant {
        self.asked_at
    }

    /// The next offset behind each partition's last record, where the brokers told one; `None` while they have not answered.
    pub fn answer(&self) -> Option<Result<Vec<(TopicPartition, i64)>, FetchError>> {
        let ends = match self.native.answer()? {
            Ok(ends) => ends,
            Err(error) => return Some(Err(error.into())),
        };
        let told = ends.into_iter().filter_map(|(topic, partition, end)| match end {
            Ok(end) => Some((TopicPartition::new(topic, partition), end)),
            Err(code) => {
                debug!(topic, partition, %code, "no end of the partition");
                None
            }
        });
        Some(Ok(told.collect()))
    }
}

/// One partition's fetched records.
pub struct FetchQueue {
    native: NativeFetchQueue,
    partition: TopicPartition,
}

impl fmt::Debug for FetchQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchQueue").field("partition", &self.partition).finish_non_exhaustive()
    }
}

/// What a queue holds next.
#[derive(Debug)]
pub enum Fetched<'a> {
    /// A record.
    Record(FetchedRecord<'a>),
    /// The end of the partition (of what the isolation level lets see): the next offset to be written.
    End(i64),
    /// Fetching met an error.
    Error(FetchError),
}

/// A fetched record, borrowed from librdkafka until the queue advances.
#[derive(Clone, Copy, Debug)]
pub struct FetchedRecord<'a> {
    raw: RawMessage<'a>,
}

impl<'a> FetchedRecord<'a> {
    /// Key bytes; `None` for a null key.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.raw.key
    }

    /// Value bytes; `None` for a tombstone.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.raw.value
    }

    /// Offset in its partition.
    pub fn offset(&self) -> i64 {
        self.raw.offset
    }

    /// Time stamp, ms since the epoch; −1 when the record has none.
    pub fn timestamp_ms(&self) -> i64 {
        self.raw.timestamp_ms
    }

    /// Headers in order, parsed on each call.
    pub fn headers(&self) -> Vec<(Cow<'a, str>, Option<&'a [u8]>)> {
        self.raw.headers()
    }
}

impl FetchQueue {
    /// The partition that it holds.
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The next entry, without waiting; `None` when nothing has been fetched.
    pub fn peek(&mut self) -> Option<Fetched<'_>> {
        let partition = &self.partition;
        Some(match self.native.peek()? {
            RawEvent::Message(raw) => Fetched::Record(FetchedRecord { raw }),
            RawEvent::Eof { offset } => Fetched::End(offset),
            RawEvent::Error(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange, message) => {
                Fetched::Error(FetchError::OffsetOutOfRange { partition: partition.clone(), message })
            }
            RawEvent::Error(code, message) => {
                Fetched::Error(FetchError::Partition { partition: partition.clone(), code, message })
            }
        })
    }

    /// Done with the entry that `peek` showed.
    pub fn advance(&mut self) {
        self.native.advance();
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// The ends that `query` is told; none where it fails.
    fn ends(query: &EndsQuery) -> Vec<(TopicPartition, i64)> {
        while query.asked_at().elapsed() < LIMIT {
            match query.answer() {
                Some(told) => return told.unwrap_or_default(),
                None => std::thread::park_timeout(Duration::from_millis(5)),
            }
        }
        panic!("no answer");
    }

    #[test]
    fn a_leader_that_cannot_be_asked_tells_no_end() {
        let (cluster, partition) = (MockCluster::new(1).unwrap(), TopicPartition::new("changelog", 0));
        cluster.create_topic(&partition.topic, 1, 1).unwrap();
        let settings =
            ConnectionSettings { bootstrap_servers: cluster.bootstrap_servers(), ..ConnectionSettings::default() };
        let consumer = FetchConsumer::new(&settings, "test", Reads::Committed, 1 << 20).unwrap();
        let ask = |deadline| consumer.ask_ends(std::slice::from_ref(&partition), deadline).unwrap();
        assert_eq!(ends(&ask(LIMIT)), [(partition.clone(), 0)]);

        cluster.broker_round_trip_time(1, LIMIT).unwrap();
        let under_way = ask(LIMIT);
        assert!(under_way.answer().is_none());
        cluster.broker_down(1).unwrap();
        assert_eq!(ends(&under_way), [], "it went while it was asked");
        assert_eq!(ends(&ask(Duration::from_millis(200))), [], "it was gone before");

        cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
        cluster.broker_up(1).unwrap();
        assert_eq!(ends(&ask(LIMIT)), [(partition.clone(), 0)]);
    }
}
