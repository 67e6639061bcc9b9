//! OffsetCommit and OffsetFetch: requests from plain values, and what their answers mean.

use std::collections::{BTreeMap, HashMap};

use holdfast_types::{CommittedOffset, GroupError, GroupMetadata, OffsetToCommit, TopicPartition};
use kafka_protocol::{
    messages::{
        GroupId, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, TopicName,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics},
    },
    protocol::StrBytes,
};

use crate::wire::error::{code, code_name};

/// Version 10 names topics by id.
pub(super) const NEWEST_COMMIT: i16 = 9;
pub(super) const NEWEST_FETCH: i16 = 9;

/// OffsetFetch's answer: the offsets, or what keeps them back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// In the order asked.
    Offsets(Vec<Option<CommittedOffset>>),
    /// An open transaction holds this partition's offset back.
    Unstable(TopicPartition),
}

/// OffsetCommit in the name of a member of a generation.
pub(super) fn commit_request(metadata: &GroupMetadata, offsets: &[OffsetToCommit]) -> OffsetCommitRequest {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for offset in offsets {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(offset.partition.partition)
            .with_committed_offset(offset.offset)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(text(&offset.metadata)));
        topics.entry(&offset.partition.topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        OffsetCommitRequestTopic::default().with_name(TopicName(text(topic))).with_partitions(partitions)
    });
    OffsetCommitRequest::default()
        .with_group_id(GroupId(text(&metadata.group_id)))
        .with_generation_id_or_member_epoch(metadata.generation)
        .with_member_id(text(&metadata.member_id))
        .with_topics(topics.collect())
}

/// What OffsetCommit's answer means: the first error among its partitions, which share their fate but for authorisation.
pub(super) fn commit_outcome(metadata: &GroupMetadata, answer: &OffsetCommitResponse) -> Result<(), GroupError> {
    for topic in &answer.topics {
        for partition in &topic.partitions {
            if partition.error_code != code::NONE {
                let what = format!("the commit of {}-{}", topic.name.as_str(), partition.partition_index);
                return Err(group_error(partition.error_code, metadata.generation, &what));
            }
        }
    }
    Ok(())
}

/// OffsetFetch with `require_stable`, in the shape of `version`.
pub(super) fn fetch_request(group_id: &str, partitions: &[TopicPartition], version: i16) -> OffsetFetchRequest {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    let request = OffsetFetchRequest::default();
    // Before version 7 a broker knows no transactions that hold offsets back from a group.
    let request = if version >= 7 { request.with_require_stable(true) } else { request };
    if version < 8 {
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetFetchRequestTopic::default().with_name(TopicName(text(topic))).with_partition_indexes(partitions)
        });
        return request.with_group_id(GroupId(text(group_id))).with_topics(Some(topics.collect()));
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        OffsetFetchRequestTopics::default().with_name(TopicName(text(topic))).with_partition_indexes(partitions)
    });
    let group =
        OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group_id))).with_topics(Some(topics.collect()));
    request.with_groups(vec![group])
}

/// What OffsetFetch's answer means.
pub(super) fn fetch_outcome(
    partitions: &[TopicPartition],
    answer: &OffsetFetchResponse,
) -> Result<Fetched, GroupError> {
    let mut found: HashMap<(&str, i32), (i64, &str)> = HashMap::new();
    let group_code = answer.groups.first().map_or(answer.error_code, |group| group.error_code);
    if group_code == code::UNSTABLE_OFFSET_COMMIT
        && let Some(first) = partitions.first()
    {
        return Ok(Fetched::Unstable(first.clone()));
    }
    if group_code != code::NONE {
        return Err(group_error(group_code, -1, "the fetch of offsets"));
    }
    // Up to version 7 the one group's topics stand alone; from 8 on they stand in their group.
    let grouped = answer.groups.iter().flat_map(|group| &group.topics).flat_map(|topic| {
        let row = |row: &'_ kafka_protocol::messages::offset_fetch_response::OffsetFetchResponsePartitions| {
            (row.partition_index, row.committed_offset, row.error_code)
        };
        topic.partitions.iter().map(move |p| (topic.name.as_str(), row(p), p.metadata.as_ref().map(StrBytes::as_str)))
    });
    let alone = answer.topics.iter().flat_map(|topic| {
        let row = |row: &'_ kafka_protocol::messages::offset_fetch_response::OffsetFetchResponsePartition| {
            (row.partition_index, row.committed_offset, row.error_code)
        };
        topic.partitions.iter().map(move |p| (topic.name.as_str(), row(p), p.metadata.as_ref().map(StrBytes::as_str)))
    });
    for (topic, (partition, offset, error_code), metadata) in grouped.chain(alone) {
        match error_code {
            code::NONE => {
                found.insert((topic, partition), (offset, metadata.unwrap_or_default()));
            }
            code::UNSTABLE_OFFSET_COMMIT => return Ok(Fetched::Unstable(TopicPartition::new(topic, partition))),
            other => return Err(group_error(other, -1, &format!("the fetch of {topic}-{partition}'s offset"))),
        }
    }
    let offset_of = |partition: &TopicPartition| {
        let (offset, metadata) = *found.get(&(&*partition.topic, partition.partition))?;
        (offset >= 0).then(|| CommittedOffset { offset, metadata: metadata.to_owned() })
    };
    Ok(Fetched::Offsets(partitions.iter().map(offset_of).collect()))
}

fn group_error(error_code: i16, generation: i32, what: &str) -> GroupError {
    match error_code {
        code::ILLEGAL_GENERATION => GroupError::IllegalGeneration { generation },
        code::UNKNOWN_MEMBER_ID | code::FENCED_INSTANCE_ID => GroupError::NotAMember,
        code::REBALANCE_IN_PROGRESS => GroupError::Rebalancing,
        away if code::is_coordinator_away(away) => GroupError::Unavailable(code_name(away)),
        other => GroupError::Refused(format!("{what} with {}", code_name(other))),
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
        offset_fetch_response::{
            OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
            OffsetFetchResponseTopic, OffsetFetchResponseTopics,
        },
    };

    use super::*;

    fn metadata() -> GroupMetadata {
        GroupMetadata { group_id: "g".into(), generation: 3, member_id: "m".into(), tenure: 0 }
    }

    fn name(topic: &'static str) -> TopicName {
        TopicName(StrBytes::from_static_str(topic))
    }

    #[test]
    fn commit_codes_become_errors_that_callers_decide_by() {
        for (error_code, expected) in [
            (0, Ok(())),
            (22, Err(GroupError::IllegalGeneration { generation: 3 })),
            (25, Err(GroupError::NotAMember)),
            (82, Err(GroupError::NotAMember)),
            (27, Err(GroupError::Rebalancing)),
            (14, Err(GroupError::Unavailable("COORDINATOR_LOAD_IN_PROGRESS (14)".to_owned()))),
            (16, Err(GroupError::Unavailable("NOT_COORDINATOR (16)".to_owned()))),
            (29, Err(GroupError::Refused("the commit of t-1 with TOPIC_AUTHORIZATION_FAILED (29)".to_owned()))),
        ] {
            let good = OffsetCommitResponsePartition::default();
            let bad = OffsetCommitResponsePartition::default().with_partition_index(1).with_error_code(error_code);
            let topic = OffsetCommitResponseTopic::default().with_name(name("t")).with_partitions(vec![good, bad]);
            let answer = OffsetCommitResponse::default().with_topics(vec![topic]);
            assert_eq!(commit_outcome(&metadata(), &answer), expected);
        }
    }

    #[test]
    fn a_commit_groups_partitions_by_topic() {
        let offset = |topic: &str, partition, offset| OffsetToCommit {
            partition: TopicPartition::new(topic, partition),
            offset,
            metadata: "m".to_owned(),
        };
        let request = commit_request(&metadata(), &[offset("b", 0, 5), offset("a", 1, 6), offset("b", 2, 7)]);
        let topics: Vec<_> = request.topics.iter().map(|t| (t.name.to_string(), t.partitions.len())).collect();
        assert_eq!(topics, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(request.generation_id_or_member_epoch, 3);
    }

    #[test]
    fn fetched_offsets_come_in_the_order_asked_in_both_shapes() {
        let asked = [TopicPartition::new("t", 1), TopicPartition::new("u", 0), TopicPartition::new("t", 0)];
        let grouped = |partition, offset| {
            OffsetFetchResponsePartitions::default()
                .with_partition_index(partition)
                .with_committed_offset(offset)
                .with_metadata(Some(StrBytes::from_static_str("x")))
        };
        let topic = OffsetFetchResponseTopics::default()
            .with_name(name("t"))
            .with_partitions(vec![grouped(0, 5), grouped(1, -1)]);
        let new = OffsetFetchResponse::default()
            .with_groups(vec![OffsetFetchResponseGroup::default().with_topics(vec![topic])]);
        let alone = |partition, offset| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(partition)
                .with_committed_offset(offset)
                .with_metadata(Some(StrBytes::from_static_str("x")))
        };
        let topic =
            OffsetFetchResponseTopic::default().with_name(name("t")).with_partitions(vec![alone(0, 5), alone(1, -1)]);
        let old = OffsetFetchResponse::default().with_topics(vec![topic]);
        let expected = vec![None, None, Some(CommittedOffset { offset: 5, metadata: "x".to_owned() })];
        for answer in [new, old] {
            assert_eq!(fetch_outcome(&asked, &answer), Ok(Fetched::Offsets(expected.clone())));
        }
    }

    #[test]
    fn an_unstable_offset_is_not_an_absent_one() {
        let row = OffsetFetchResponsePartitions::default().with_error_code(88).with_committed_offset(-1);
        let topic = OffsetFetchResponseTopics::default().with_name(name("t")).with_partitions(vec![row]);
        let answer = OffsetFetchResponse::default()
            .with_groups(vec![OffsetFetchResponseGroup::default().with_topics(vec![topic])]);
        let partition = TopicPartition::new("t", 0);
        assert_eq!(fetch_outcome(std::slice::from_ref(&partition), &answer), Ok(Fetched::Unstable(partition)));
    }
}
