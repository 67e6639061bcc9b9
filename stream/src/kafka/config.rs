//! librdkafka settings: what the engine needs, over what the user passes through.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

use super::refused::refused_property;

/// How to reach the cluster, shared by every handle of the process.
#[derive(Clone, Debug, Default)]
pub struct ConnectionSettings {
    /// `bootstrap.servers`.
    pub bootstrap_servers: String,
    /// `client.id`, the process id in text.
    pub client_id: String,
    /// The `[kafka]` table: any librdkafka property that [`refused_property`] does not refuse.
    pub properties: BTreeMap<String, String>,
}

/// What a fetching handle may see, and what it is after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Committed transactions only, as they come.
    Committed,
    /// The same up to an end that exists: past the last record only an empty answer tells that it is reached, and a task waits
    /// for that.
    CommittedToTheEnd,
    /// Everything; its high watermark is the real end of the log (a read-committed handle answers the last stable offset).
    Uncommitted,
}

impl Reads {
    /// How long a broker may hold back an answer without records, whatever is passed through.
    fn longest_wait_ms(self) -> Option<&'static str> {
        match self {
            Self::Committed | Self::Uncommitted => None,
            Self::CommittedToTheEnd => Some("5"),
        }
    }
}

/// A producer's transactions.
#[derive(Clone, Copy, Debug)]
pub struct Transactional<'a> {
    /// `transactional.id`.
    pub id: &'a str,
    /// `transaction.timeout.ms`: how long an open transaction of a killed process holds readers back, unless it is fenced.
    pub timeout: Duration,
}

/// What a small record takes in librdkafka's queue. Its own bound counts keys and values only: of records of 20 bytes, a queue
/// that is full by that bound takes more than ten times as much.
const FETCHED_RECORD_BYTES: u64 = 550;
/// Records that are fetched ahead of a partition at most, and bytes of one fetch as the broker sends it: more of both holds a
/// fifth more memory in a backlog and is no faster, half of each costs a tenth of the throughput.
const QUEUED_RECORDS: u64 = 7_000;
const FETCH_BYTES: u64 = 512 << 10;
/// How often a fetch of small records, as the broker sends it, would fit into what its records take here.
const FETCH_GROWS: u64 = 16;

impl ConnectionSettings {
    fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", &self.client_id)
            // A broker that comes back is noticed within a second, not after the default 10.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("topic.metadata.refresh.fast.interval.ms", "100")
            .set_log_level(RDKafkaLogLevel::Warning);
        config
    }

    /// librdkafka warns about properties of the other kind of client; those stay away from the handle.
    fn pass_through(&self, config: &mut ClientConfig, fits: impl Fn(&str) -> bool) {
        for (name, value) in &self.properties {
            if refused_property(name).is_none() && fits(name) {
                config.set(name, value);
            }
        }
    }

    /// A fetching handle over partitions that are assigned by hand. `queue_bytes` bounds what is fetched ahead, per
    /// partition: one fetch more than that may be on its way, and a record larger than that comes alone.
    pub(super) fn consumer(&self, group_id: &str, reads: Reads, queue_bytes: u64) -> ClientConfig {
        let mut config = self.base();
        config
            // Without a group id librdkafka does not use the consumer queue at all.
            .set("group.id", group_id)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "100")
            // The default, a second, would leave a fast consumer idle after each drained queue.
            .set("fetch.queue.backoff.ms", "5")
            .set("queued.min.messages", (queue_bytes / 2 / FETCHED_RECORD_BYTES).clamp(200, QUEUED_RECORDS).to_string())
            .set("max.partition.fetch.bytes", (queue_bytes / 2 / FETCH_GROWS).clamp(16 << 10, FETCH_BYTES).to_string())
            .set("queued.max.messages.kbytes", (queue_bytes / 1024).clamp(64, 2_097_151).to_string());
        self.pass_through(&mut config, |name| !PRODUCER_ONLY.contains(&name));
        if let Some(longest_wait_ms) = reads.longest_wait_ms() {
            config.set("fetch.wait.max.ms", longest_wait_ms);
        }
        config.set(
            "isolation.level",
            match reads {
                Reads::Committed | Reads::CommittedToTheEnd => "read_committed",
                Reads::Uncommitted => "read_uncommitted",
            },
        );
        config
    }

    /// A producing handle, idempotent; transactional with an id.
    pub(super) fn producer(&self, transaction: Option<&Transactional<'_>>, message_timeout_ms: u64) -> ClientConfig {
        let mut config = self.base();
        config
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            // A seal is produced in one go and flushed: waiting longer fills no batch.
            .set("linger.ms", "1")
            .set("batch.size", "1000000")
            .set("batch.num.messages", "100000")
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", "262144");
        self.pass_through(&mut config, |name| !CONSUMER_ONLY.contains(&name) && !name.starts_with("fetch."));
        if let Some(Transactional { id, timeout }) = transaction {
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).clamp(1_000, 900_000);
            config.set("transactional.id", *id).set("transaction.timeout.ms", timeout_ms.to_string());
            // Connections that end are told at this level only, and a transaction has to know of them.
            config.set_log_level(RDKafkaLogLevel::Info);
            // librdkafka bounds it by the transaction's timeout.
            config.set("message.timeout.ms", message_timeout_ms.min(timeout_ms).to_string());
        } else {
            config.set("message.timeout.ms", message_timeout_ms.to_string());
        }
        config
    }

    /// A handle for topics and metadata.
    pub(super) fn admin(&self) -> ClientConfig {
        let mut config = self.base();
        self.pass_through(&mut config, |name| {
            !CONSUMER_ONLY.contains(&name) && !PRODUCER_ONLY.contains(&name) && !name.starts_with("fetch.")
        });
        config
    }
}

const CONSUMER_ONLY: &[&str] = &[
    "queued.min.messages",
    "queued.max.messages.kbytes",
    "fetch.min.bytes",
    "max.partition.fetch.bytes",
    "check.crcs",
    "client.rack",
    "allow.auto.create.topics",
];

const PRODUCER_ONLY: &[&str] = &[
    "queue.buffering.max.messages",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.ms",
    "linger.ms",
    "batch.size",
    "message.max.bytes",
    "batch.num.messages",
    "compression.codec",
    "compression.type",
    "compression.level",
    "request.timeout.ms",
    "sticky.partitioning.linger.ms",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_through_properties_reach_the_handle_they_fit() {
        let settings = ConnectionSettings {
            bootstrap_servers: "b:1".into(),
            client_id: "p".into(),
            properties: [
                ("linger.ms", "7"),
                ("fetch.min.bytes", "9"),
                ("security.protocol", "ssl"),
                ("group.id", "evil"),
                ("acks", "0"),
            ]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        };
        let consumer = settings.consumer("app", Reads::Committed, 1 << 20);
        let producer = settings.producer(Some(&Transactional { id: "t", timeout: Duration::from_secs(10) }), 30_000);
        assert_eq!(consumer.get("group.id"), Some("app"));
        assert_eq!(consumer.get("linger.ms"), None);
        assert_eq!(consumer.get("fetch.min.bytes"), Some("9"));
        assert_eq!((producer.get("linger.ms"), producer.get("acks")), (Some("7"), None));
        assert_eq!(producer.get("fetch.min.bytes"), None);
        assert_eq!(producer.get("message.timeout.ms"), Some("10000"));
        for config in [consumer, producer, settings.admin()] {
            assert_eq!(config.get("security.protocol"), Some("ssl"));
        }
    }

    #[test]
    fn a_task_that_waits_for_the_end_is_answered_at_once_whatever_is_passed_through() {
        let properties = [("fetch.wait.max.ms".to_owned(), "500".to_owned())];
        let passed = ConnectionSettings { properties: properties.into(), ..ConnectionSettings::default() };
        for (settings, reads, wait_ms) in [
            (&ConnectionSettings::default(), Reads::Committed, "100"),
            (&ConnectionSettings::default(), Reads::CommittedToTheEnd, "5"),
            (&passed, Reads::Committed, "500"),
            (&passed, Reads::CommittedToTheEnd, "5"),
        ] {
            let config = settings.consumer("app", reads, 1 << 20);
            assert_eq!(config.get("fetch.wait.max.ms"), Some(wait_ms), "{reads:?}");
        }
    }
}
