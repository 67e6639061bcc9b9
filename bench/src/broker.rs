//! What the programs ask of a broker besides reading and writing records.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    types::RDKafkaErrorCode,
};

use crate::error::{Error, Result};

const LIMIT: Duration = Duration::from_secs(60);

/// A broker, with a client for questions.
pub(crate) struct Broker {
    bootstrap: String,
    client: BaseConsumer,
}

impl Broker {
    pub(crate) fn new(bootstrap: &str) -> Result<Self> {
        Ok(Self { bootstrap: bootstrap.to_owned(), client: client(bootstrap).create()? })
    }

    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Creates a topic; an existing one stays as it is.
    pub(crate) async fn create(&self, topic: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = client(&self.bootstrap).create()?;
        let mut wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (key, value) in configs {
            wanted = wanted.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        for outcome in admin.create_topics([&wanted], &options).await? {
            match outcome {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(Error::other(format!("cannot create topic {topic}: {code}"))),
            }
        }
        // The broker answers before it knows the leaders.
        let deadline = Instant::now() + LIMIT;
        while !self.is_led(topic, partitions)? {
            if Instant::now() > deadline {
                return Err(Error::other(format!(
                    "topic {topic} has not {partitions} partitions with leaders after {LIMIT:?}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn is_led(&self, topic: &str, partitions: i32) -> Result<bool> {
        let metadata = self.client.fetch_metadata(Some(topic), LIMIT)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let led =
            found.map_or(0, |found| found.partitions().iter().filter(|partition| partition.leader() >= 0).count());
        Ok(i32::try_from(led) == Ok(partitions))
    }

    /// Deletes topics; missing ones are no error.
    pub(crate) async fn delete(&self, topics: &[String]) -> Result<()> {
        if topics.is_empty() {
            return Ok(());
        }
        let admin: AdminClient<DefaultClientContext> = client(&self.bootstrap).create()?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        for outcome in admin.delete_topics(&names, &options).await? {
            match outcome {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((topic, code)) => return Err(Error::other(format!("cannot delete topic {topic}: {code}"))),
            }
        }
        Ok(())
    }

    /// Names of all topics.
    pub(crate) fn topics(&self) -> Result<Vec<String>> {
        let metadata = self.client.fetch_metadata(None, LIMIT)?;
        Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
    }

    /// Number of partitions; an error for a topic that does not exist.
    pub(crate) fn partitions(&self, topic: &str) -> Result<i32> {
        let metadata = self.client.fetch_metadata(Some(topic), LIMIT)?;
        let count =
            metadata.topics().iter().find(|found| found.name() == topic).map_or(0, |found| found.partitions().len());
        match i32::try_from(count) {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(Error::other(format!("topic {topic} does not exist on {}", self.bootstrap))),
        }
    }

    /// The end offset of each partition.
    pub(crate) fn ends(&self, topic: &str) -> Result<Vec<i64>> {
        (0..self.partitions(topic)?)
            .map(|partition| Ok(self.client.fetch_watermarks(topic, partition, LIMIT)?.1))
            .collect()
    }

    /// Records in a topic, as its offsets tell it: transaction markers count, compacted records too.
    pub(crate) fn records(&self, topic: &str) -> Result<i64> {
        let mut records = 0;
        for partition in 0..self.partitions(topic)? {
            let (low, high) = self.client.fetch_watermarks(topic, partition, LIMIT)?;
            records += high - low;
        }
        Ok(records)
    }
}

/// The topics of an application: its changelogs and repartition topics.
pub(crate) fn internal_topics(all: &[String], application_id: &str) -> Vec<String> {
    let prefix = format!("{application_id}-");
    all.iter().filter(|topic| topic.starts_with(&prefix)).cloned().collect()
}

/// Settings that every client has.
pub(crate) fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("log_level", "3");
    config
}

/// A topic's name, shared by the records of a loop.
pub(crate) type TopicName = Arc<str>;

/// The offsets that a group has to commit until it has worked through its input.
pub(crate) struct GroupProgress {
    consumer: BaseConsumer,
    list: TopicPartitionList,
    wanted: Vec<Wanted>,
}

struct Wanted {
    topic: String,
    partition: i32,
    end: i64,
    /// Offsets before the end that nobody has to commit.
    slack: i64,
}

impl GroupProgress {
    /// Towards the present ends of the input and of the application's repartition topics.
    pub(crate) fn new(broker: &Broker, group: &str, input: &str, exactly_once: bool) -> Result<Self> {
        let prefix = format!("{group}-");
        // Transaction markers behind the last record take up offsets that nobody has to commit: one for each producer.
        let producers = std::thread::available_parallelism().map_or(8, |cores| i64::try_from(cores.get()).unwrap_or(8));
        let slack = if exactly_once { producers } else { 0 };
        let internal =
            broker.topics()?.into_iter().filter(|topic| topic.starts_with(&prefix) && topic.ends_with("-repartition"));
        let topics = std::iter::once((input.to_owned(), 0)).chain(internal.map(|topic| (topic, slack)));
        let mut list = TopicPartitionList::new();
        let mut wanted = Vec::new();
        for (topic, slack) in topics {
            for (partition, end) in (0..).zip(broker.ends(&topic)?) {
                list.add_partition(&topic, partition);
                wanted.push(Wanted { topic: topic.clone(), partition, end, slack });
            }
        }
        let consumer = client(&broker.bootstrap).set("group.id", group).set("enable.auto.commit", "false").create()?;
        Ok(Self { consumer, list, wanted })
    }

    /// Offsets that are still to be committed.
    pub(crate) fn missing(&self) -> Result<i64> {
        let committed = self.consumer.committed_offsets(self.list.clone(), LIMIT)?;
        let missing = self.wanted.iter().map(|wanted| {
            let found =
                committed.find_partition(&wanted.topic, wanted.partition).and_then(|found| found.offset().to_raw());
            let missing = wanted.end - found.unwrap_or(0).max(0);
            if missing <= wanted.slack { 0 } else { missing }
        });
        Ok(missing.sum())
    }
}
