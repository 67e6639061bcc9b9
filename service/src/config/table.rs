//! The table of settings: key, default, and the help that flags and `--print-config` show.

/// One setting as files, environment and flags know it.
#[derive(Clone, Copy, Debug)]
pub struct SettingSpec {
    /// File key; environment variable and flag are made from it.
    pub key: &'static str,
    /// Default as text; empty when it is computed from the surroundings, as the help then says.
    pub default: &'static str,
    /// What a value looks like: `HOST:PORT`, `BYTES`, `MS`.
    pub value: &'static str,
    /// What it does, one sentence.
    pub help: &'static str,
    /// Heading that it stands under in `--help`.
    pub heading: &'static str,
}

const KAFKA: &str = "Kafka";
const INSTANCE: &str = "Instance";
const PROCESSING: &str = "Processing";
const STATE: &str = "State and memory";
const ERRORS: &str = "Errors in processing";
const TOPICS: &str = "Topics";
const REQUESTS: &str = "Requests";
const OBSERVING: &str = "Logs and traces";

const fn spec(
    heading: &'static str,
    key: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> SettingSpec {
    SettingSpec { key, default, value, help, heading }
}

/// Every setting of the framework. A service's own (`items_topic`) are declared by its topology and come on top.
pub const SETTINGS: &[SettingSpec] = &[
    spec(KAFKA, "bootstrap_servers", "HOST:PORT,…", "127.0.0.1:9092", "Brokers to ask first"),
    spec(
        KAFKA,
        "application_id",
        "NAME",
        "",
        "Consumer group, and prefix of internal topics [default: the service's name]",
    ),
    spec(KAFKA, "session_timeout_ms", "MS", "10000", "Silence after which the coordinator removes this member"),
    spec(
        KAFKA,
        "heartbeat_interval_ms",
        "MS",
        "500",
        "Time between heartbeats; staleness of reads is measured from them",
    ),
    spec(KAFKA, "rebalance_timeout_ms", "MS", "10000", "Time that members have to join a rebalance"),
    spec(KAFKA, "transaction_timeout_ms", "MS", "10000", "Time after which the broker aborts a transaction left open"),
    spec(
        INSTANCE,
        "listen",
        "HOST:PORT",
        "127.0.0.1:7070",
        "Public listener, REST and gRPC; port 0 chooses a free one",
    ),
    spec(
        INSTANCE,
        "peer_listen",
        "HOST:PORT",
        "",
        "Listener for instances and operators [default: the host of `listen`, the next port]",
    ),
    spec(
        INSTANCE,
        "advertise",
        "HOST[:PORT]",
        "",
        "Public address that others are told [default: POD_IP or the listening host]",
    ),
    spec(
        INSTANCE,
        "peer_advertise",
        "HOST[:PORT]",
        "",
        "Peer address that others are told [default: the host of `advertise`]",
    ),
    spec(INSTANCE, "tags", "NAME=VALUE,…", "", "Tags of this instance (rack, zone), over which standbys are spread"),
    spec(
        INSTANCE,
        "peer_token",
        "SECRET",
        "",
        "Secret that instances show each other, and who drains one; the same on all of them [default: none]",
    ),
    spec(INSTANCE, "peer_timeout_ms", "MS", "3000", "Silence after which a peer is held to be gone"),
    spec(INSTANCE, "drain_timeout_ms", "MS", "10000", "Time that a stop gives requests and commits to finish"),
    spec(
        INSTANCE,
        "drain_delay_ms",
        "MS",
        "0",
        "Time between turning unready and closing listeners, for load balancers to notice",
    ),
    spec(
        INSTANCE,
        "ready_when",
        "WHEN",
        "answering",
        "answering: ready when every key can be answered, here or elsewhere; caught_up: and when the copies here have caught up, so that a roll waits for them",
    ),
    spec(PROCESSING, "processing_guarantee", "GUARANTEE", "exactly_once", "exactly_once or at_least_once"),
    spec(PROCESSING, "num_stream_threads", "N", "", "Threads that process tasks [default: one per processor]"),
    spec(PROCESSING, "num_standby_replicas", "N", "0", "Copies of each store on other instances"),
    spec(
        PROCESSING,
        "acceptable_recovery_lag",
        "RECORDS",
        "10000",
        "Changelog records that a copy may be behind to take its task over",
    ),
    spec(
        PROCESSING,
        "max_warmup_replicas",
        "N",
        "2",
        "Copies that warm up at a time, in the whole group, before tasks move to them",
    ),
    spec(
        PROCESSING,
        "probing_rebalance_interval_ms",
        "MS",
        "600000",
        "Time after which the group looks again whether copies have caught up, unless one says so before",
    ),
    spec(
        PROCESSING,
        "drained_slot_retention_ms",
        "MS",
        "300000",
        "How long the copies of an instance that was stopped in order are not built elsewhere, and nothing is levelled, because it comes back; 0: not at all",
    ),
    spec(
        PROCESSING,
        "rack_aware_assignment_tags",
        "NAME,…",
        "zone,rack",
        "Tags in which a task's copies should differ, the most important first",
    ),
    spec(PROCESSING, "commit_interval_ms", "MS", "100", "Time between commits; rows are readable after a commit"),
    spec(
        PROCESSING,
        "backlog_commit_interval_ms",
        "MS",
        "",
        "Commit interval while a backlog is worked off, so that rows merge [default: 1000, within commit_interval_ms and half of transaction_timeout_ms]",
    ),
    spec(
        PROCESSING,
        "offset_reset",
        "WHERE",
        "earliest",
        "Where to begin in an input without a committed offset, or whose committed offset retention took, or that was deleted and created again: earliest, latest, or none (an error)",
    ),
    spec(PROCESSING, "on_fatal_error", "WHAT", "replace", "replace the stream thread that failed, or exit the process"),
    spec(
        PROCESSING,
        "slow_record_ms",
        "MS",
        "100",
        "Time after which a record counts as slow: it is counted, and named in the log",
    ),
    spec(STATE, "state_dir", "DIR", "state", "Directory of local state, kept over restarts"),
    spec(
        STATE,
        "memory_limit",
        "BYTES",
        "",
        "Budget for caches, memory tables and fetch queues [default: 60 % of the container's limit, else a quarter of the machine]",
    ),
    spec(
        STATE,
        "max_replay_ms",
        "MS",
        "10000",
        "Longest time that committed rows stay in memory only; bounds the replay after a crash",
    ),
    spec(
        STATE,
        "state_cleanup_delay_ms",
        "MS",
        "600000",
        "Age at which the directory of a task that lives elsewhere is removed",
    ),
    spec(
        ERRORS,
        "deserialization_error",
        "POLICY",
        "dead_letter",
        "fail, continue, dead_letter, or retry:ATTEMPTS:BACKOFF:THEN for records that cannot be read",
    ),
    spec(ERRORS, "processing_error", "POLICY", "dead_letter", "The same for records that a processor refuses"),
    spec(
        ERRORS,
        "production_error",
        "POLICY",
        "dead_letter",
        "The same for records whose results cannot be written: too large for their topic, say",
    ),
    spec(ERRORS, "dead_letter_topic", "TOPIC", "", "Where refused records go [default: <first input topic>.dlq]"),
    spec(TOPICS, "create_topics", "BOOL", "true", "Create missing input, output and dead-letter topics"),
    spec(TOPICS, "topic_partitions", "N", "3", "Partitions of input topics that are created"),
    spec(
        TOPICS,
        "output_topic_partitions",
        "N",
        "1",
        "Partitions of output topics that are created; these are compacted",
    ),
    spec(TOPICS, "replication_factor", "N", "-1", "Replicas of topics that are created; -1 takes the broker's default"),
    spec(
        REQUESTS,
        "routing",
        "MODE",
        "proxy",
        "proxy forwards to the owner of a key, redirect sends the client there (307)",
    ),
    spec(
        REQUESTS,
        "hedge_after_ms",
        "MS",
        "0",
        "Time after which a forwarded read asks the next replica besides; 0, or 100 and more: after 100 ms",
    ),
    spec(
        REQUESTS,
        "max_staleness_ms",
        "MS",
        "5000",
        "Staleness that a read with consistency=bounded allows unless it says",
    ),
    spec(REQUESTS, "request_timeout_ms", "MS", "2000", "Deadline of a request that names none"),
    spec(REQUESTS, "max_request_timeout_ms", "MS", "30000", "Longest deadline that a request may name"),
    spec(
        REQUESTS,
        "max_concurrent_requests",
        "N",
        "1024",
        "Requests in progress; more are answered 429 with Retry-After",
    ),
    spec(REQUESTS, "max_concurrent_scans", "N", "16", "Scans in progress; more are answered 429 with Retry-After"),
    spec(REQUESTS, "max_body_bytes", "BYTES", "1MiB", "Largest request body"),
    spec(REQUESTS, "max_key_bytes", "BYTES", "64KiB", "Largest key in a request"),
    spec(REQUESTS, "max_batch_keys", "N", "1000", "Most keys in a batch"),
    spec(REQUESTS, "max_scan_rows", "N", "10000", "Most rows in one page of a scan"),
    spec(REQUESTS, "max_scan_bytes", "BYTES", "4MiB", "Most bytes in one page of a scan"),
    spec(OBSERVING, "log", "FILTER", "info", "Log filter: a level, or target=level,…"),
    spec(OBSERVING, "log_format", "FORMAT", "auto", "auto (text on a terminal, JSON elsewhere), text or json"),
    spec(
        OBSERVING,
        "otlp_endpoint",
        "URL",
        "",
        "OpenTelemetry collector (OTLP over gRPC) that traces go to [default: none]",
    ),
];

/// The setting with this key.
pub(crate) fn find(key: &str) -> Option<&'static SettingSpec> {
    SETTINGS.iter().find(|spec| spec.key == key)
}
