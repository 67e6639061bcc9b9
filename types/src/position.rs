//! How far a store has read: offsets per topic and partition, and their bytes in changelog headers.

use std::{collections::BTreeMap, sync::Arc};

/// Offsets per topic and partition that a copy of a store reflects.
///
/// As in Kafka Streams' `Position`, an offset is that of the last record reflected (not the next one).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    topics: BTreeMap<Arc<str>, BTreeMap<i32, i64>>,
}

/// Header bytes that are not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// The first byte names a version this build does not read.
    #[error("expected position version 0, got {0}")]
    Version(u8),
    /// The bytes end in the middle of a field.
    #[error("position bytes end at {0}, in the middle of a field")]
    Truncated(usize),
    /// A length or count is negative.
    #[error("position has a negative length at byte {0}")]
    NegativeLength(usize),
    /// A topic name is not UTF-8.
    #[error("position has a topic name that is not UTF-8 at byte {0}")]
    TopicName(usize),
}

impl Position {
    /// A position that reflects nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The last offset reflected of `topic`-`partition`.
    pub fn get(&self, topic: &str, partition: i32) -> Option<i64> {
        self.topics.get(topic)?.get(&partition).copied()
    }

    /// Moves `topic`-`partition` forward to `offset`; an older offset changes nothing.
    pub fn advance(&mut self, topic: &Arc<str>, partition: i32, offset: i64) {
        // The common case first: the topic is known, and no name is cloned for it.
        let partitions = match self.topics.get_mut(topic) {
            Some(partitions) => partitions,
            None => self.topics.entry(Arc::clone(topic)).or_default(),
        };
        let at = partitions.entry(partition).or_insert(offset);
        *at = (*at).max(offset);
    }

    /// Forgets how far `topic`-`partition` was reflected: its offsets begin anew.
    pub fn forget(&mut self, topic: &str, partition: i32) {
        if let Some(partitions) = self.topics.get_mut(topic) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    /// Takes the later offset of each partition.
    pub fn merge(&mut self, other: &Self) {
        for (topic, partition, offset) in other.iter() {
            self.advance(topic, partition, offset);
        }
    }

    /// Whether everything that `bound` names is reflected here.
    pub fn reaches(&self, bound: &Self) -> bool {
        bound.iter().all(|(topic, partition, offset)| self.get(topic, partition).is_some_and(|at| at >= offset))
    }

    /// Whether nothing is reflected.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// All entries, in order of topic and partition.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, i32, i64)> {
        self.topics.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(partition, offset)| (topic, *partition, *offset))
        })
    }

    /// Kafka Streams' bytes (header `c`, `PositionSerde`): u8 0, i32 topics, then per topic i32 length, UTF-8 name, i32
    /// partitions, then per partition i32 partition, i64 offset; all big-endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0];
        put_len(&mut out, self.topics.len());
        for (topic, partitions) in &self.topics {
            put_len(&mut out, topic.len());
            out.extend_from_slice(topic.as_bytes());
            put_len(&mut out, partitions.len());
            for (partition, offset) in partitions {
                out.extend_from_slice(&partition.to_be_bytes());
                out.extend_from_slice(&offset.to_be_bytes());
            }
        }
        out
    }

    /// Reads [`Position::encode`]'s bytes. Bytes after the last field are allowed: Java may leave zeros there.
    pub fn decode(bytes: &[u8]) -> Result<Self, PositionError> {
        let mut reader = Reader { bytes, at: 0 };
        let version = reader.take::<1>()?[0];
        if version != 0 {
            return Err(PositionError::Version(version));
        }
        let mut position = Self::new();
        for _ in 0..reader.len()? {
            let length = reader.len()?;
            let start = reader.at;
            let name = reader.slice(length)?;
            let topic: Arc<str> = std::str::from_utf8(name).map_err(|_| PositionError::TopicName(start))?.into();
            for _ in 0..reader.len()? {
                let partition = i32::from_be_bytes(reader.take()?);
                let offset = i64::from_be_bytes(reader.take()?);
                position.advance(&topic, partition, offset);
            }
        }
        Ok(position)
    }
}

fn put_len(out: &mut Vec<u8>, length: usize) {
    // Topics and partitions are counted in thousands: an i32 always holds them.
    out.extend_from_slice(&(length as i32).to_be_bytes());
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn slice(&mut self, length: usize) -> Result<&'a [u8], PositionError> {
        let end = self.at.checked_add(length).ok_or(PositionError::Truncated(self.bytes.len()))?;
        let slice = self.bytes.get(self.at..end).ok_or(PositionError::Truncated(self.bytes.len()))?;
        self.at = end;
        Ok(slice)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], PositionError> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(N)?);
        Ok(out)
    }

    fn len(&mut self) -> Result<usize, PositionError> {
        let at = self.at;
        usize::try_from(i32::from_be_bytes(self.take()?)).map_err(|_| PositionError::NegativeLength(at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_are_kafka_streams() {
        let mut position = Position::new();
        position.advance(&"ab".into(), 3, 5);
        let bytes = [0, 0, 0, 0, 1, 0, 0, 0, 2, b'a', b'b', 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5];
        assert_eq!(position.encode(), bytes);
        let mut padded = bytes.to_vec();
        padded.extend([0; 9]);
        assert_eq!(Position::decode(&padded), Ok(position));
    }

    #[test]
    fn torn_bytes_are_named() {
        assert_eq!(Position::decode(&[]), Err(PositionError::Truncated(0)));
        assert_eq!(Position::decode(&[1]), Err(PositionError::Version(1)));
        assert_eq!(Position::decode(&[0, 0xff, 0xff, 0xff, 0xff]), Err(PositionError::NegativeLength(1)));
        assert_eq!(Position::decode(&[0, 0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0]), Err(PositionError::TopicName(9)));
    }

    proptest! {
        #[test]
        fn encoding_round_trips(entries in proptest::collection::vec(("[a-z]{1,8}", 0..100_i32, 0..i64::MAX), 0..20)) {
            let mut position = Position::new();
            for (topic, partition, offset) in entries {
                position.advance(&topic.into(), partition, offset);
            }
            prop_assert_eq!(Position::decode(&position.encode()), Ok(position.clone()));
            for cut in 0..position.encode().len() {
                prop_assert!(Position::decode(&position.encode()[..cut]).is_err());
            }
        }

        #[test]
        fn wild_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Position::decode(&bytes);
        }
    }
}
