//! The standard bytes of the consumer protocol, so that Kafka's own tools show members, partitions and lag.

use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use holdfast_types::TopicPartition;
use kafka_protocol::{
    messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicName, consumer_protocol_assignment},
    protocol::{Decodable as _, Encodable as _, Message as _, StrBytes},
};

/// Kafka's tools decode members' bytes of this protocol type only.
pub(crate) const PROTOCOL_TYPE: &str = "consumer";

/// The name of our assignor. A Java member offers others, so the coordinator refuses it, or us, for INCONSISTENT_GROUP_PROTOCOL.
pub(crate) const PROTOCOL_NAME: &str = "holdfast";

/// The oldest versions carry all that is needed, and every tool reads them.
const SUBSCRIPTION_VERSION: i16 = 0;
const ASSIGNMENT_VERSION: i16 = 0;

/// Bytes that are not the consumer protocol's.
#[derive(Debug, thiserror::Error)]
#[error("not a consumer protocol {what}: {reason}")]
pub(crate) struct ProtocolError {
    what: &'static str,
    reason: String,
}

fn error(what: &'static str, reason: impl std::fmt::Display) -> ProtocolError {
    ProtocolError { what, reason: reason.to_string() }
}

/// i16 version ‖ ConsumerProtocolSubscription.
pub(crate) fn encode_subscription<'a>(
    topics: impl IntoIterator<Item = &'a str>,
    user_data: Vec<u8>,
) -> Result<Bytes, ProtocolError> {
    let subscription = ConsumerProtocolSubscription::default()
        .with_topics(topics.into_iter().map(|topic| StrBytes::from_string(topic.to_owned())).collect())
        .with_user_data(Some(user_data.into()));
    let mut bytes = BytesMut::new();
    bytes.put_i16(SUBSCRIPTION_VERSION);
    subscription.encode(&mut bytes, SUBSCRIPTION_VERSION).map_err(|source| error("subscription", source))?;
    Ok(bytes.freeze())
}

/// The user data of a subscription.
pub(crate) fn subscription_user_data(mut bytes: Bytes) -> Result<Bytes, ProtocolError> {
    let version = version(&mut bytes, "subscription", ConsumerProtocolSubscription::VERSIONS.max)?;
    let subscription = ConsumerProtocolSubscription::decode(&mut bytes, version)
        .map_err(|source| error("subscription", format!("{source:#}")))?;
    Ok(subscription.user_data.unwrap_or_default())
}

/// i16 version ‖ ConsumerProtocolAssignment.
pub(crate) fn encode_assignment(
    partitions: impl IntoIterator<Item = TopicPartition>,
    user_data: Vec<u8>,
) -> Result<Bytes, ProtocolError> {
    let mut by_topic: BTreeMap<_, Vec<i32>> = BTreeMap::new();
    for TopicPartition { topic, partition } in partitions {
        by_topic.entry(topic).or_default().push(partition);
    }
    let partitions = by_topic.into_iter().map(|(topic, mut partitions)| {
        partitions.sort_unstable();
        consumer_protocol_assignment::TopicPartition::default()
            .with_topic(TopicName(StrBytes::from_string(topic.to_string())))
            .with_partitions(partitions)
    });
    let assignment = ConsumerProtocolAssignment::default()
        .with_assigned_partitions(partitions.collect())
        .with_user_data(Some(user_data.into()));
    let mut bytes = BytesMut::new();
    bytes.put_i16(ASSIGNMENT_VERSION);
    assignment.encode(&mut bytes, ASSIGNMENT_VERSION).map_err(|source| error("assignment", source))?;
    Ok(bytes.freeze())
}

/// The user data of an assignment.
pub(crate) fn assignment_user_data(mut bytes: Bytes) -> Result<Bytes, ProtocolError> {
    let version = version(&mut bytes, "assignment", ConsumerProtocolAssignment::VERSIONS.max)?;
    let assignment = ConsumerProtocolAssignment::decode(&mut bytes, version)
        .map_err(|source| error("assignment", format!("{source:#}")))?;
    Ok(assignment.user_data.unwrap_or_default())
}

/// A later version only appends, so the newest known one reads it.
fn version(bytes: &mut Bytes, what: &'static str, newest: i16) -> Result<i16, ProtocolError> {
    if bytes.len() < 2 {
        return Err(error(what, format!("expected a version, got {} bytes", bytes.len())));
    }
    match bytes.get_i16() {
        negative if negative < 0 => Err(error(what, format!("version {negative}"))),
        version => Ok(version.min(newest)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_are_the_consumer_protocols() {
        let bytes = encode_subscription(["ab"], vec![7]).unwrap();
        assert_eq!(&bytes[..], [0, 0, 0, 0, 0, 1, 0, 2, b'a', b'b', 0, 0, 0, 1, 7]);
        assert_eq!(&subscription_user_data(bytes).unwrap()[..], [7]);

        let partitions = [TopicPartition::new("t", 2), TopicPartition::new("t", 0)];
        let bytes = encode_assignment(partitions, vec![9, 9]).unwrap();
        let expected = [0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 9, 9];
        assert_eq!(&bytes[..], expected);
        assert_eq!(&assignment_user_data(bytes).unwrap()[..], [9, 9]);
    }

    proptest! {
        #[test]
        fn short_wild_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = subscription_user_data(Bytes::from(bytes.clone()));
            let _ = assignment_user_data(Bytes::from(bytes));
        }
    }
}
