//! The settings as the rest of the service sees them: typed, checked, complete.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use holdfast_types::Endpoint;

use super::{DomainSettings, KafkaProperties, Origin};

/// Every setting, checked. Made by [`Settings::resolve`](super::Settings::resolve).
#[derive(Clone, Debug)]
pub struct Settings {
    /// Brokers to ask first; never empty.
    pub bootstrap_servers: Vec<Endpoint>,
    /// Consumer group, and prefix of internal topics and transactional ids.
    pub application_id: String,
    /// Silence after which the coordinator removes this member.
    pub session_timeout: Duration,
    /// Time between heartbeats; at most a third of the session timeout.
    pub heartbeat_interval: Duration,
    /// Time that members have to join a rebalance; at most 10 s.
    pub rebalance_timeout: Duration,
    /// Time after which the broker aborts a transaction left open.
    pub transaction_timeout: Duration,
    /// librdkafka properties that pass through, without those that would break a promise.
    pub kafka: KafkaProperties,

    /// Addresses to bind and to tell others.
    pub listen: ListenSettings,
    /// Tags of this instance (rack, zone).
    pub tags: BTreeMap<String, String>,
    /// Secret that instances show each other.
    pub peer_token: Option<Secret>,
    /// Silence after which a peer is held to be gone.
    pub peer_timeout: Duration,
    /// Time that a stop gives requests and commits to finish.
    pub drain_timeout: Duration,
    /// Time between turning unready and closing listeners.
    pub drain_delay: Duration,
    /// What the instance waits for before it is ready the first time.
    pub ready_when: ReadyWhen,

    /// Exactly once or at least once.
    pub processing_guarantee: ProcessingGuarantee,
    /// Threads that process tasks; at least 1.
    pub num_stream_threads: u32,
    /// Copies of each store on other instances.
    pub num_standby_replicas: u32,
    /// Changelog records that a copy may be behind to take its task over.
    pub acceptable_recovery_lag: u64,
    /// Copies that warm up at a time, in the whole group; at least 1.
    pub max_warmup_replicas: u32,
    /// Time after which the leader looks again whether warm-ups have caught up, unless somebody asks before.
    pub probing_rebalance_interval: Duration,
    /// How long the copies of a drained instance are kept for it before others are built; zero: not at all.
    pub drained_slot_retention: Duration,
    /// Tags in which the copies of a task should differ, the most important first.
    pub rack_aware_assignment_tags: Vec<String>,
    /// Time between commits.
    pub commit_interval: Duration,
    /// Time between commits while a backlog is worked off; at least `commit_interval`.
    pub backlog_commit_interval: Duration,
    /// Where to begin in an input without a usable committed offset.
    pub offset_reset: OffsetReset,
    /// What a stream thread's fatal error does.
    pub on_fatal_error: OnFatalError,
    /// Time after which a record counts as slow.
    pub slow_record: Duration,

    /// Directory of local state.
    pub state_dir: PathBuf,
    /// The one memory budget, in bytes.
    pub memory_limit_bytes: u64,
    /// Longest time that committed rows stay in memory only.
    pub max_replay: Duration,
    /// Age at which the directory of a task that lives elsewhere is removed.
    pub state_cleanup_delay: Duration,

    /// What happens to a record that cannot be read.
    pub deserialization_error: ErrorPolicySetting,
    /// What happens to a record that a processor refuses.
    pub processing_error: ErrorPolicySetting,
    /// What happens to a record whose results cannot be written: too large, or with a time stamp that a topic refuses.
    pub production_error: ErrorPolicySetting,
    /// Where refused records go; `None` is `<first input topic>.dlq`, see [`Settings::dead_letter_topic_for`].
    pub dead_letter_topic: Option<String>,

    /// How missing topics come to be.
    pub topics: TopicSettings,
    /// Bounds of requests.
    pub requests: RequestBounds,

    /// Log filter: a level, or `target=level,…`.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Collector that traces go to (OTLP over gRPC).
    pub otlp_endpoint: Option<String>,

    /// What the service declared for itself.
    pub domain: DomainSettings,

    pub(crate) shown: Vec<Shown>,
}

/// A value that is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The value.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// A setting as `--print-config` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) origin: Origin,
}

impl Settings {
    /// The dead-letter topic of an application whose first input topic is `input`.
    pub fn dead_letter_topic_for(&self, input: &str) -> String {
        self.dead_letter_topic.clone().unwrap_or_else(|| format!("{input}.dlq"))
    }

    /// The brokers as librdkafka wants them: `a:9092,b:9092`.
    pub fn bootstrap_list(&self) -> String {
        self.bootstrap_servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Addresses to bind and to tell others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSettings {
    /// Public listener (REST and gRPC); port 0 chooses a free one.
    pub public: Endpoint,
    /// Listener for instances and operators; port 0 chooses a free one.
    pub peer: Endpoint,
    /// What others are told of the public listener.
    pub advertise: Advertise,
    /// What others are told of the peer listener.
    pub peer_advertise: Advertise,
}

/// An advertised address; the port may be known only when the listener is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// Host that others reach this instance by.
    pub host: String,
    /// Port that others use; `None` is the port that was bound.
    pub port: Option<u16>,
}

impl Advertise {
    /// The address to tell others of a listener that is bound to `bound_port`.
    pub fn at(&self, bound_port: u16) -> Endpoint {
        Endpoint::new(self.host.clone(), self.port.unwrap_or(bound_port))
    }
}

/// What a record's processing guarantees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessingGuarantee {
    /// Each record counts once, in transactions.
    #[default]
    ExactlyOnce,
    /// Each record counts at least once; a crash may count the last commit interval twice.
    AtLeastOnce,
}

impl ProcessingGuarantee {
    /// As settings and metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly_once",
            Self::AtLeastOnce => "at_least_once",
        }
    }
}

/// Where to begin in an input that has no committed offset, or whose committed offset is outside the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffsetReset {
    /// At the oldest record.
    #[default]
    Earliest,
    /// After the newest record.
    Latest,
    /// Nowhere: the process ends with an error that says so.
    None,
}

/// What a stream thread's fatal error does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFatalError {
    /// A new thread takes its tasks.
    #[default]
    Replace,
    /// The process ends with a status other than 0.
    Exit,
}

/// What happens to a record that fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ErrorPolicySetting {
    /// The stream thread stops with a fatal error.
    Fail,
    /// The record is dropped, counted and logged.
    Continue,
    /// The record goes to the dead-letter topic.
    #[default]
    DeadLetter,
    /// The record is tried again, then `then` holds.
    Retry {
        /// Attempts after the first; at least 1.
        attempts: u32,
        /// Wait before each.
        backoff: Duration,
        /// What holds when all fail; never `Retry`.
        then: Box<ErrorPolicySetting>,
    },
}

/// How missing topics come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// Whether missing input, output and dead-letter topics are created. Internal ones always are.
    pub create: bool,
    /// Partitions of input topics.
    pub input_partitions: i32,
    /// Partitions of output topics, which are compacted.
    pub output_partitions: i32,
    /// Replicas of every topic that is created, internal ones too; -1 takes the broker's default.
    pub replication_factor: i16,
}

/// What an instance that joins its group waits for before it is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadyWhen {
    /// Every key can be answered, here or elsewhere, and its own tasks process.
    #[default]
    Answering,
    /// Its standbys and warm-ups have caught up, too: a roll that waits for readiness never takes a row's last copy.
    CaughtUp,
}

/// How a key's owner is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoutingMode {
    /// This instance asks the owner.
    #[default]
    Proxy,
    /// The client is sent there.
    Redirect,
}

/// Bounds of requests; reaching one is an error with a code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestBounds {
    /// How a key's owner is reached unless a request says.
    pub routing: RoutingMode,
    /// Time after which a forwarded read asks the next replica besides; `None` for when the first is slow.
    pub hedge_after: Option<Duration>,
    /// Staleness that a bounded read allows unless it says.
    pub default_max_staleness: Duration,
    /// Deadline of a request that names none.
    pub default_timeout: Duration,
    /// Longest deadline that a request may name.
    pub max_timeout: Duration,
    /// Requests in progress.
    pub max_concurrent_requests: usize,
    /// Scans in progress.
    pub max_concurrent_scans: usize,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Largest key in bytes.
    pub max_key_bytes: usize,
    /// Most keys in a batch.
    pub max_batch_keys: usize,
    /// Most rows in one page of a scan.
    pub max_scan_rows: usize,
    /// Most bytes in one page of a scan.
    pub max_scan_bytes: usize,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text.
    Text,
    /// JSON, one object a line.
    Json,
}
