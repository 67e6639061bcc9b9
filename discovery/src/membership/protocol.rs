//! The standard bytes of the consumer protocol, so that Kafka's own tools show members, partitions and lag.

use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use holdfast_types::TopicPartition;
use kafka_protocol::{
    messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicName, consumer_protocol_assignment},
    protocol::{Encodable as _, StrBytes},
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
pub(crate) fn subscription_user_data(bytes: Bytes) -> Result<Bytes, ProtocolError> {
    let mut reader = Reader::versioned("subscription", bytes)?;
    for _ in 0..reader.count()? {
        reader.text()?;
    }
    reader.user_data()
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
pub(crate) fn assignment_user_data(bytes: Bytes) -> Result<Bytes, ProtocolError> {
    let mut reader = Reader::versioned("assignment", bytes)?;
    for _ in 0..reader.count()? {
        reader.text()?;
        for _ in 0..reader.count()? {
            reader.i32()?;
        }
    }
    reader.user_data()
}

/// Reads up to the user data, which stands at the same place in all versions. The codec's own decoder allocates whatever
/// length the bytes claim, and these bytes come from any client that names our group.
struct Reader {
    what: &'static str,
    bytes: Bytes,
}

impl Reader {
    fn versioned(what: &'static str, bytes: Bytes) -> Result<Self, ProtocolError> {
        let mut reader = Self { what, bytes };
        match reader.i16()? {
            version if version < 0 => Err(error(what, format!("version {version}"))),
            _ => Ok(reader),
        }
    }

    fn need(&self, length: usize) -> Result<(), ProtocolError> {
        let left = self.bytes.remaining();
        if left < length { Err(error(self.what, format!("expected {length} more bytes, got {left}"))) } else { Ok(()) }
    }

    fn i16(&mut self) -> Result<i16, ProtocolError> {
        self.need(2)?;
        Ok(self.bytes.get_i16())
    }

    fn i32(&mut self) -> Result<i32, ProtocolError> {
        self.need(4)?;
        Ok(self.bytes.get_i32())
    }

    fn count(&mut self) -> Result<usize, ProtocolError> {
        let count = self.i32()?;
        usize::try_from(count).map_err(|_| error(self.what, format!("a count of {count}")))
    }

    fn text(&mut self) -> Result<(), ProtocolError> {
        let length = self.i16()?;
        let length = usize::try_from(length).map_err(|_| error(self.what, format!("a length of {length}")))?;
        self.need(length)?;
        self.bytes.advance(length);
        Ok(())
    }

    fn user_data(&mut self) -> Result<Bytes, ProtocolError> {
        match usize::try_from(self.i32()?) {
            // −1: none.
            Err(_) => Ok(Bytes::new()),
            Ok(length) => {
                self.need(length)?;
                Ok(self.bytes.split_to(length))
            }
        }
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

    #[test]
    fn later_versions_and_absent_user_data_are_read() {
        let mut bytes = encode_subscription(["ab"], vec![7]).unwrap().to_vec();
        bytes[1] = 3;
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 5, 0xff, 0xff]);
        assert_eq!(&subscription_user_data(bytes.into()).unwrap()[..], [7]);
        let java: [u8; 14] = [0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(subscription_user_data(java.to_vec().into()).unwrap(), Bytes::new());
        assert!(subscription_user_data(Bytes::from_static(&[0xff, 0xff])).is_err());
    }

    proptest! {
        #[test]
        fn wild_bytes_never_panic(bytes: Vec<u8>) {
            let _ = subscription_user_data(Bytes::from(bytes.clone()));
            let _ = assignment_user_data(Bytes::from(bytes));
        }
    }
}
