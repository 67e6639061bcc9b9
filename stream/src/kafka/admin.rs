//! Topics: what exists, creating what is missing, purging what was consumed.

use std::{collections::BTreeMap, time::Duration};

use super::{config::ConnectionSettings, ffi, limits::TopicLimits, report};
use futures::executor::block_on;
use holdfast_types::TopicPartition;
use rdkafka::{
    ClientContext,
    admin::{
        AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
        TopicReplication,
    },
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::{Offset, TopicPartitionList},
};
use uuid::Uuid;

/// Logs what librdkafka reports.
#[derive(Debug)]
struct AdminContext;

impl ClientContext for AdminContext {
    fn error(&self, error: KafkaError, reason: &str) {
        report::error("asking for topics", &error, reason);
    }

    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        report::log("asking for topics", facility, line);
    }
}

/// Why a topic could not be looked at or changed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The cluster did not answer.
    #[error("the cluster does not answer: {0}")]
    Unreachable(#[source] KafkaError),
    /// The cluster refused.
    #[error("{action} of topic {topic} was refused: {code}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// The topic.
        topic: String,
        /// Kafka's error.
        code: RDKafkaErrorCode,
    },
    /// The cluster keeps the group.
    #[error("deletion of group {group} was refused: {code}; stop all of its members first")]
    RefusedGroup {
        /// The group.
        group: String,
        /// Kafka's error.
        code: RDKafkaErrorCode,
    },
}

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas; −1 is the broker's default.
    pub replication_factor: i32,
    /// Topic configs.
    pub configs: BTreeMap<String, String>,
}

/// A topic as the cluster tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicState {
    /// It exists.
    Present {
        /// Changes when the topic is deleted and created again; `None` from brokers that tell none.
        id: Option<Uuid>,
        /// Number of partitions.
        partitions: i32,
    },
    /// It does not exist.
    Missing,
    /// This user may not see it.
    Denied,
}

/// A handle for topics and metadata.
pub struct TopicAdmin {
    client: AdminClient<AdminContext>,
}

impl std::fmt::Debug for TopicAdmin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicAdmin").finish_non_exhaustive()
    }
}

impl TopicAdmin {
    /// Connects lazily.
    pub fn new(settings: &ConnectionSettings) -> Result<Self, KafkaError> {
        use rdkafka::config::FromClientConfigAndContext;
        Ok(Self { client: AdminClient::from_config_and_context(&settings.admin(), AdminContext)? })
    }

    /// Partition counts of the topics that exist among `topics`.
    pub fn partition_counts(&self, topics: &[String], deadline: Duration) -> Result<BTreeMap<String, i32>, AdminError> {
        let mut counts = BTreeMap::new();
        // One call for all topics: asking for one by name would create it where the broker creates topics by itself.
        let metadata = self.client.inner().fetch_metadata(None, deadline).map_err(AdminError::Unreachable)?;
        for topic in metadata.topics() {
            if topic.error().is_none() && topics.iter().any(|name| name == topic.name()) {
                counts.insert(topic.name().to_owned(), i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX));
            }
        }
        Ok(counts)
    }

    /// One config of each topic, as it is in force: the topic's own, or the broker's default. Topics that the broker does not
    /// tell it of are left out.
    pub fn topic_config(
        &self,
        topics: &[String],
        name: &str,
        deadline: Duration,
    ) -> Result<BTreeMap<String, String>, AdminError> {
        let described = self.describe(topics, deadline)?.into_iter();
        Ok(described.filter_map(|(topic, config)| Some((topic, config.get(name)?.value.clone()?))).collect())
    }

    fn describe(&self, topics: &[String], deadline: Duration) -> Result<Vec<(String, ConfigResource)>, AdminError> {
        let wanted: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let options = AdminOptions::new().request_timeout(Some(deadline));
        let described = block_on(self.client.describe_configs(&wanted, &options)).map_err(AdminError::Unreachable)?;
        let told = described.into_iter().flatten().filter_map(|config| match &config.specifier {
            OwnedResourceSpecifier::Topic(topic) => Some((topic.clone(), config)),
            _ => None,
        });
        Ok(told.collect())
    }

    /// How each of `topics` stands. Those of which the cluster says nothing definite at the moment are left out.
    pub fn topic_states(
        &self,
        topics: &[String],
        deadline: Duration,
    ) -> Result<BTreeMap<String, TopicState>, AdminError> {
        let told = ffi::describe_topics(self.client.inner(), topics, deadline).map_err(AdminError::Unreachable)?;
        let state = |topic: ffi::RawTopic| {
            let state = match topic.answer {
                Ok(ffi::RawTopicShape { id, partitions }) => TopicState::Present { id, partitions },
                Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => TopicState::Missing,
                Err(RDKafkaErrorCode::TopicAuthorizationFailed) => TopicState::Denied,
                Err(_) => return None,
            };
            Some((topic.name, state))
        };
        Ok(told.into_iter().filter_map(state).collect())
    }

    /// Names of all topics.
    pub fn topics(&self, deadline: Duration) -> Result<Vec<String>, AdminError> {
        let metadata = self.client.inner().fetch_metadata(None, deadline).map_err(AdminError::Unreachable)?;
        Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
    }

    /// What each of `topics` takes. One that may not be looked at is left out.
    pub fn limits(&self, topics: &[String], deadline: Duration) -> Result<BTreeMap<String, TopicLimits>, AdminError> {
        let described = self.describe(topics, deadline)?.into_iter();
        Ok(described.map(|(topic, config)| (topic, limits_of(&config))).collect())
    }

    /// Creates a topic; one that exists already (somebody was faster) is no error.
    pub fn create(&self, spec: &TopicSpec, deadline: Duration) -> Result<(), AdminError> {
        let mut topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replication_factor));
        for (name, value) in &spec.configs {
            topic = topic.set(name, value);
        }
        let options = AdminOptions::new().request_timeout(Some(deadline)).operation_timeout(Some(deadline));
        for result in block_on(self.client.create_topics([&topic], &options)).map_err(AdminError::Unreachable)? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(AdminError::Refused { action: "creation", topic, code }),
            }
        }
        Ok(())
    }

    /// Deletes topics; a missing one is no error.
    pub fn delete(&self, topics: &[String], deadline: Duration) -> Result<(), AdminError> {
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        if names.is_empty() {
            return Ok(());
        }
        let options = AdminOptions::new().request_timeout(Some(deadline)).operation_timeout(Some(deadline));
        for result in block_on(self.client.delete_topics(&names, &options)).map_err(AdminError::Unreachable)? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((topic, code)) => return Err(AdminError::Refused { action: "deletion", topic, code }),
            }
        }
        Ok(())
    }

    /// Deletes a consumer group and its offsets; a missing one is no error, one with members is refused.
    pub fn delete_group(&self, group: &str, deadline: Duration) -> Result<(), AdminError> {
        let options = AdminOptions::new().request_timeout(Some(deadline)).operation_timeout(Some(deadline));
        for result in block_on(self.client.delete_groups(&[group], &options)).map_err(AdminError::Unreachable)? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound)) => {}
                Err((group, code)) => return Err(AdminError::RefusedGroup { group, code }),
            }
        }
        Ok(())
    }

    /// Deletes what lies before each offset: repartition topics, once their records are committed.
    pub fn delete_records(&self, before: &[(TopicPartition, i64)], deadline: Duration) -> Result<(), AdminError> {
        let mut list = TopicPartitionList::with_capacity(before.len());
        for (partition, offset) in before {
            list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(*offset))
                .map_err(AdminError::Unreachable)?;
        }
        let options = AdminOptions::new().request_timeout(Some(deadline)).operation_timeout(Some(deadline));
        block_on(self.client.delete_records(&list, &options)).map_err(AdminError::Unreachable)?;
        Ok(())
    }
}

fn limits_of(resource: &ConfigResource) -> TopicLimits {
    let text = |name: &str| resource.get(name).and_then(|entry| entry.value.as_deref());
    let number = |name: &str| text(name).and_then(|text| text.parse::<i64>().ok());
    let none = TopicLimits::default();
    let max_message_bytes = number("max.message.bytes").and_then(|bytes| usize::try_from(bytes).ok());
    let mut limits = TopicLimits { max_message_bytes: max_message_bytes.unwrap_or(none.max_message_bytes), ..none };
    // With the broker's own time there is nothing to refuse.
    if text("message.timestamp.type") != Some("LogAppendTime") {
        limits.before_max_ms = number("message.timestamp.before.max.ms").unwrap_or(none.before_max_ms);
        limits.after_max_ms = number("message.timestamp.after.max.ms").unwrap_or(none.after_max_ms);
    }
    limits
}
