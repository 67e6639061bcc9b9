//! Reading topics and groups from outside: what a read-committed consumer sees, and where a group stands.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
};

use crate::{kafka::Kafka, wait};

const READ_LIMIT: Duration = Duration::from_secs(60);
const ASK_LIMIT: Duration = Duration::from_secs(20);

/// A record as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Partition that it stands in.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its time stamp, in ms since the epoch; -1 if it has none.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map(|headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
        });
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        }
    }

    /// The key as text.
    #[track_caller]
    pub fn key_text(&self) -> String {
        String::from_utf8(self.key.clone().expect("a key")).expect("a key in UTF-8")
    }

    /// The value as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.value.as_deref().expect("a value")).expect("a value in JSON")
    }

    /// A header as text; `None` if it is missing.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        Some(String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned())
    }
}

/// Everything that a read-committed consumer gets from a topic now, partition by partition in order of offset.
#[track_caller]
pub fn read_committed(kafka: &Kafka, topic: &str) -> Vec<Record> {
    let mut client = kafka.client();
    client.set("isolation.level", "read_committed");
    read(&client, topic)
}

/// The same, with what is not committed (or aborted).
#[track_caller]
pub fn read_uncommitted(kafka: &Kafka, topic: &str) -> Vec<Record> {
    let mut client = kafka.client();
    client.set("isolation.level", "read_uncommitted");
    read(&client, topic)
}

#[track_caller]
fn read(client: &ClientConfig, topic: &str) -> Vec<Record> {
    let mut client = client.clone();
    client
        .set("group.id", "holdfast-tests-reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true");
    client.set("fetch.wait.max.ms", "50");
    let consumer: BaseConsumer = client.create().unwrap();
    let partitions = partitions(&consumer, topic);
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut records = Vec::new();
    let mut ended = std::collections::BTreeSet::new();
    wait::until(format!("the end of {topic} in its {partitions} partitions"), READ_LIMIT, || {
        while let Some(event) = consumer.poll(Duration::from_millis(50)) {
            match event {
                Ok(message) => records.push(Record::of(&message)),
                // Read committed, the end is the last stable offset.
                Err(KafkaError::PartitionEOF(partition)) => {
                    ended.insert(partition);
                }
                Err(error) => panic!("cannot read {topic}: {error}"),
            }
            if ended.len() == usize::try_from(partitions).unwrap() {
                return Ok(());
            }
        }
        Err(format!("{} records, {} partitions at their end", records.len(), ended.len()))
    });
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

/// The last value of each key, as a compacted topic keeps it; keys whose last value is a tombstone are left out.
#[track_caller]
pub fn last_by_key(records: &[Record]) -> BTreeMap<String, Vec<u8>> {
    let mut last = BTreeMap::new();
    for record in records {
        match &record.value {
            Some(value) => last.insert(record.key_text(), value.clone()),
            None => last.remove(&record.key_text()),
        };
    }
    last
}

/// High watermark of each partition: the offset that the next record gets.
#[track_caller]
pub fn end_offsets(kafka: &Kafka, topic: &str) -> BTreeMap<i32, i64> {
    let mut client = kafka.client();
    client.set("isolation.level", "read_uncommitted");
    let consumer: BaseConsumer = client.create().unwrap();
    (0..partitions(&consumer, topic))
        .map(|partition| (partition, consumer.fetch_watermarks(topic, partition, ASK_LIMIT).unwrap().1))
        .collect()
}

/// Watches one topic's high watermarks closely; cheaper per look than [`end_offsets`].
pub struct Ends {
    consumer: BaseConsumer,
    topic: String,
    partitions: i32,
}

impl Ends {
    /// Watches `topic`, which exists.
    pub fn of(kafka: &Kafka, topic: &str) -> Self {
        let consumer: BaseConsumer = kafka.client().set("isolation.level", "read_uncommitted").create().unwrap();
        let partitions = partitions(&consumer, topic);
        Self { consumer, topic: topic.to_owned(), partitions }
    }

    /// The sum of the high watermarks: moves as soon as a record is appended, committed or not.
    pub fn sum(&self) -> i64 {
        (0..self.partitions)
            .map(|partition| self.consumer.fetch_watermarks(&self.topic, partition, ASK_LIMIT).unwrap().1)
            .sum()
    }
}

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ends").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// The offsets that a group has committed; 0 where it has none.
#[track_caller]
pub fn committed_offsets(kafka: &Kafka, group: &str, topic: &str) -> BTreeMap<i32, i64> {
    committed(kafka, group, topic).into_iter().map(|(partition, (offset, _))| (partition, offset)).collect()
}

/// Records of `topic` that the group has not committed.
#[track_caller]
pub fn uncommitted(kafka: &Kafka, group: &str, topic: &str) -> i64 {
    uncommitted_since(kafka, topic, &committed_offsets(kafka, group, topic))
}

/// Records of `topic` beyond what the group had `committed` at some time before.
#[track_caller]
pub fn uncommitted_since(kafka: &Kafka, topic: &str, committed: &BTreeMap<i32, i64>) -> i64 {
    end_offsets(kafka, topic).iter().map(|(partition, end)| end - committed[partition]).sum()
}

/// What [`committed_offsets`] answers, with the metadata that was committed with each.
#[track_caller]
pub fn committed(kafka: &Kafka, group: &str, topic: &str) -> BTreeMap<i32, (i64, String)> {
    let mut client = kafka.client();
    client.set("group.id", group);
    let consumer: BaseConsumer = client.create().unwrap();
    let mut wanted = TopicPartitionList::new();
    for partition in 0..partitions(&consumer, topic) {
        wanted.add_partition(topic, partition);
    }
    let committed = consumer.committed_offsets(wanted, ASK_LIMIT).unwrap();
    let offset = |offset| match offset {
        Offset::Offset(offset) => offset,
        _ => 0,
    };
    let elements = committed.elements();
    elements.iter().map(|e| (e.partition(), (offset(e.offset()), e.metadata().to_owned()))).collect()
}

/// How many members a group has; 0 for one that does not exist.
#[track_caller]
pub fn members(kafka: &Kafka, group: &str) -> usize {
    let consumer: BaseConsumer = kafka.client().create().unwrap();
    let list = consumer.fetch_group_list(Some(group), ASK_LIMIT).unwrap();
    list.groups().iter().find(|found| found.name() == group).map_or(0, |found| found.members().len())
}

/// Waits until the group has committed everything that stands in `topic` now.
#[track_caller]
pub fn wait_committed(kafka: &Kafka, group: &str, topic: &str, limit: Duration) {
    let ends = end_offsets(kafka, topic);
    wait::until(format!("{group} to commit {topic} to its end"), limit, || {
        let committed = committed_offsets(kafka, group, topic);
        let behind = ends.iter().any(|(partition, end)| committed[partition] < *end);
        if behind { Err(format!("committed {committed:?}, ends {ends:?}")) } else { Ok(()) }
    });
}

#[track_caller]
fn partitions(consumer: &BaseConsumer, topic: &str) -> i32 {
    let metadata = consumer.fetch_metadata(Some(topic), ASK_LIMIT).unwrap();
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    assert!(partitions > 0, "topic {topic} does not exist");
    i32::try_from(partitions).unwrap()
}
