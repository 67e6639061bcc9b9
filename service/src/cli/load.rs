//! Sending a load: at a pace, with counters that others read while it runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use holdfast_stream::kafka::{
    ConnectionSettings, OutRecord, ProduceError, SimpleProducer,
    admin::{AdminError, TopicAdmin, TopicSpec},
};
use holdfast_types::{Clock, SystemClock, partition_for};

use super::{LoadPlan, LoadRecord, Scenario};

/// How long a broker may take to acknowledge what was sent.
const FLUSH_DEADLINE: Duration = Duration::from_secs(60);
const ADMIN_DEADLINE: Duration = Duration::from_secs(10);
/// Records between two acknowledgements at full speed: bounds memory, and costs one round trip.
const FLUSH_RECORDS: u64 = 200_000;
/// At a pace, records go out in chunks of this length.
const TICK: Duration = Duration::from_millis(5);

/// Why a load stopped early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The producer cannot be made.
    #[error("the producer cannot be made: {0}")]
    Producer(String),
    /// The topic cannot be looked up or created.
    #[error(transparent)]
    Topic(#[from] AdminError),
    /// Records were not written.
    #[error("records were not written: {0}")]
    Write(#[from] ProduceError),
    /// The topic does not exist and could not be created.
    #[error("topic {0} has no partitions")]
    NoPartitions(String),
}

/// How fast to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Records per second; 0 is as fast as possible.
    pub(crate) rate: u64,
}

/// What has happened so far, shared with whoever watches.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    sent: AtomicU64,
    stop: AtomicBool,
    hold: AtomicBool,
}

/// What the demo does with it.
#[cfg(feature = "embedded")]
impl Progress {
    /// Records handed to the producer.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// Asks for an end after the record at hand.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Lets the load wait while readers are far behind.
    pub(crate) fn hold(&self, hold: bool) {
        self.hold.store(hold, Ordering::Release);
    }
}

impl Progress {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn held(&self) -> bool {
        self.hold.load(Ordering::Acquire)
    }
}

/// A load on its way to a topic.
pub(crate) struct Load {
    pub(crate) scenario: Arc<dyn Scenario>,
    pub(crate) plan: LoadPlan,
    pub(crate) topic: String,
    /// Partitions of the topic if it has to be created.
    pub(crate) partitions: i32,
    pub(crate) connection: ConnectionSettings,
}

impl Load {
    /// Creates the topic if it is missing, and answers its partitions.
    pub(crate) fn ensure_topic(&self) -> Result<i32, LoadError> {
        let admin = TopicAdmin::new(&self.connection).map_err(|error| LoadError::Producer(error.to_string()))?;
        let names = [self.topic.clone()];
        if let Some(partitions) = admin.partition_counts(&names, ADMIN_DEADLINE)?.get(&self.topic) {
            return Ok(*partitions);
        }
        let spec = TopicSpec {
            name: self.topic.clone(),
            partitions: self.partitions,
            replication_factor: -1,
            configs: Default::default(),
        };
        admin.create(&spec, ADMIN_DEADLINE)?;
        let until = Instant::now() + ADMIN_DEADLINE;
        // Creation is acknowledged by the controller; other brokers hear of it a little later.
        while Instant::now() < until {
            if let Some(partitions) = admin.partition_counts(&names, ADMIN_DEADLINE)?.get(&self.topic) {
                return Ok(*partitions);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(LoadError::NoPartitions(self.topic.clone()))
    }

    /// Sends until the plan ends or is stopped; answers the number of acknowledged records.
    pub(crate) fn send(&self, pace: Pace, progress: &Progress) -> Result<u64, LoadError> {
        let partitions = self.ensure_topic()?;
        let mut connection = self.connection.clone();
        connection.properties.entry("linger.ms".to_owned()).or_insert_with(|| "10".to_owned());
        let mut producer = SimpleProducer::new(&connection).map_err(|error| LoadError::Producer(error.to_string()))?;
        let mut timer = PaceTimer::new(pace);
        let mut sent = 0_u64;
        for LoadRecord { key, value } in self.scenario.records(&self.plan) {
            while progress.held() && !progress.stopped() {
                thread::sleep(TICK);
                timer.restart(sent);
            }
            if progress.stopped() {
                break;
            }
            producer.send(&OutRecord {
                topic: &self.topic,
                partition: Some(partition_for(&key, partitions)),
                key: Some(&key),
                value: Some(&value),
                timestamp_ms: SystemClock.now_ms(),
                headers: &[],
            })?;
            sent += 1;
            progress.sent.store(sent, Ordering::Release);
            if sent.is_multiple_of(FLUSH_RECORDS) {
                producer.flush(FLUSH_DEADLINE)?;
            }
            timer.wait(sent);
        }
        producer.flush(FLUSH_DEADLINE)?;
        Ok(sent)
    }
}

/// Keeps a rate over time: a pause that was too long is made up for, one that was asked for is not.
struct PaceTimer {
    rate: u64,
    chunk: u64,
    started: Instant,
    before: u64,
}

impl PaceTimer {
    fn new(pace: Pace) -> Self {
        let chunk = (pace.rate / (1_000 / TICK.as_millis() as u64)).max(1);
        Self { rate: pace.rate, chunk, started: Instant::now(), before: 0 }
    }

    fn restart(&mut self, sent: u64) {
        self.started = Instant::now();
        self.before = sent;
    }

    fn wait(&self, sent: u64) {
        let sent = sent - self.before;
        if self.rate == 0 || !sent.is_multiple_of(self.chunk) {
            return;
        }
        let due = Duration::from_secs_f64(sent as f64 / self.rate as f64);
        if let Some(ahead) = due.checked_sub(self.started.elapsed()) {
            thread::sleep(ahead);
        }
    }
}
