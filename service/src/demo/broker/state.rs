//! What the embedded broker holds, and what clients are told of its topics.

use std::collections::BTreeMap;

use tansu_sans_io::{
    ErrorCode,
    metadata_response::{MetadataResponsePartition, MetadataResponseTopic},
};
use tansu_storage::{GroupDetail, TopicId, Topition};
use uuid::Uuid;

use super::log::PartitionLog;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) groups: BTreeMap<String, (GroupDetail, Uuid)>,
    /// By group, then partition.
    pub(super) offsets: BTreeMap<String, BTreeMap<Topition, i64>>,
    pub(super) next_producer_id: i64,
    /// The producer of each transactional id, with its epoch.
    pub(super) transactional: BTreeMap<String, (i64, i16)>,
}

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) id: Uuid,
    pub(super) configs: BTreeMap<String, Option<String>>,
    pub(super) partitions: Vec<PartitionLog>,
}

impl State {
    pub(super) fn find(&self, id: &TopicId) -> Option<(&String, &Topic)> {
        match id {
            TopicId::Name(name) => self.topics.get_key_value(name),
            TopicId::Id(id) => self.topics.iter().find(|(_, topic)| topic.id == *id),
        }
    }

    pub(super) fn take_producer_id(&mut self) -> i64 {
        let id = self.next_producer_id;
        self.next_producer_id += 1;
        id
    }
}

/// A topic as clients are told of it: its partitions are led by `node`.
pub(super) fn topic_metadata(name: &str, topic: &Topic, node: i32) -> MetadataResponseTopic {
    let partitions = (0..topic.partitions.len()).map(|partition| {
        MetadataResponsePartition::default()
            .error_code(ErrorCode::None.into())
            .partition_index(i32::try_from(partition).unwrap_or(i32::MAX))
            .leader_id(node)
            .leader_epoch(Some(0))
            .replica_nodes(Some(vec![node]))
            .isr_nodes(Some(vec![node]))
            .offline_replicas(Some(Vec::new()))
    });
    MetadataResponseTopic::default()
        .error_code(ErrorCode::None.into())
        .name(Some(name.to_owned()))
        .topic_id(Some(topic.id.into_bytes()))
        .is_internal(Some(false))
        .partitions(Some(partitions.collect()))
        .topic_authorized_operations(Some(i32::MIN))
}

/// What they are told of a topic that does not exist.
pub(super) fn unknown_topic(id: &TopicId) -> MetadataResponseTopic {
    let (name, id) = match id {
        TopicId::Name(name) => (Some(name.clone()), Uuid::nil()),
        TopicId::Id(id) => (None, *id),
    };
    MetadataResponseTopic::default()
        .error_code(ErrorCode::UnknownTopicOrPartition.into())
        .name(name)
        .topic_id(Some(id.into_bytes()))
        .is_internal(Some(false))
        .partitions(Some(Vec::new()))
        .topic_authorized_operations(Some(i32::MIN))
}
