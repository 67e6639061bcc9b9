//! Holdfast's own bytes inside the standard subscription and assignment.
//!
//! Both are a version byte, then JSON; the subscription has a counter byte between the two, because the broker starts no
//! rebalance for a re-join whose bytes are unchanged (KAFKA-10455). Unknown JSON fields are ignored, so that a field can be
//! added without a new version; the version changes only when older members would misread the rest.

use holdfast_types::{InstanceInfo, MemberAssignment, SubtopologySpec, TaskId};
use serde::{Deserialize, Serialize};

/// The version that is written, and the only one that is read so far.
pub(crate) const VERSION: u8 = 1;

/// The longest user data that is written or read. The broker keeps all members' in one record of `__consumer_offsets`, which
/// `message.max.bytes` (1 MiB by default) bounds.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// What a member tells the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubscriptionData {
    /// Who it is.
    pub(crate) instance: InstanceInfo,
    /// What it can run.
    pub(crate) subtopologies: Vec<SubtopologySpec>,
    /// Tasks that it may still be processing: nobody else may get them before it joins without them.
    pub(crate) owned: Vec<TaskId>,
    /// The generation in which it got them; −1 where it owns none.
    pub(crate) generation: i32,
}

/// What the leader tells each member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AssignmentData {
    /// Which of `members` the receiver is.
    pub(crate) you: usize,
    /// All members with all they hold.
    pub(crate) members: Vec<MemberAssignment>,
}

/// User data that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserDataError {
    #[error("expected user data version {VERSION}, got {0}: the members run builds that cannot work together")]
    Version(u8),
    #[error("no user data: the member is not a Holdfast instance")]
    Missing,
    #[error("user data of {0} bytes is over the bound of {MAX_BYTES}")]
    TooLong(usize),
    #[error("user data is not what version {VERSION} says: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the assignment names member {you} of {members}")]
    NoSuchMember { you: usize, members: usize },
}

impl SubscriptionData {
    pub(crate) fn encode(&self, counter: u8) -> Result<Vec<u8>, UserDataError> {
        encode(vec![VERSION, counter], self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, UserDataError> {
        let [_counter, json @ ..] = versioned(bytes)? else { return Err(UserDataError::Missing) };
        Ok(serde_json::from_slice(json)?)
    }
}

impl AssignmentData {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, UserDataError> {
        encode(vec![VERSION], self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, UserDataError> {
        let data: Self = serde_json::from_slice(versioned(bytes)?)?;
        if data.you >= data.members.len() {
            return Err(UserDataError::NoSuchMember { you: data.you, members: data.members.len() });
        }
        Ok(data)
    }
}

fn encode(mut bytes: Vec<u8>, data: &impl Serialize) -> Result<Vec<u8>, UserDataError> {
    serde_json::to_writer(&mut bytes, data)?;
    if bytes.len() > MAX_BYTES { Err(UserDataError::TooLong(bytes.len())) } else { Ok(bytes) }
}

fn versioned(bytes: &[u8]) -> Result<&[u8], UserDataError> {
    if bytes.len() > MAX_BYTES {
        return Err(UserDataError::TooLong(bytes.len()));
    }
    match bytes {
        [] => Err(UserDataError::Missing),
        [VERSION, rest @ ..] => Ok(rest),
        [version, ..] => Err(UserDataError::Version(*version)),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_types::{Endpoint, ProcessId, StoreName};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn instances() -> impl Strategy<Value = InstanceInfo> {
        (any::<u128>(), "[a-z0-9.]{1,12}", any::<u16>(), any::<u32>(), prop::collection::vec("\\PC{0,12}", 0..4))
            .prop_map(|(id, host, port, threads, transactional_ids)| InstanceInfo {
                process_id: ProcessId(Uuid::from_u128(id)),
                endpoint: Endpoint::new(host.clone(), port),
                peer_endpoint: Endpoint::new(host, port.wrapping_add(1)),
                threads,
                tags: [("zone".to_owned(), "a".to_owned())].into(),
                transactional_ids,
            })
    }

    fn tasks() -> impl Strategy<Value = Vec<TaskId>> {
        prop::collection::vec((0..9_u32, 0..99_i32).prop_map(|(sub, partition)| TaskId::new(sub, partition)), 0..20)
    }

    fn subtopologies() -> impl Strategy<Value = Vec<SubtopologySpec>> {
        let spec =
            (any::<u32>(), "\\PC{0,20}", "[a-z]{1,9}", 0..99_i32).prop_map(|(id, fingerprint, name, partitions)| {
                let stores = vec![StoreName::from(name.as_str())];
                SubtopologySpec { id, fingerprint, source_topics: vec![name.into()], stores, partitions }
            });
        prop::collection::vec(spec, 0..4)
    }

    proptest! {
        #[test]
        fn a_subscription_round_trips(
            instance in instances(), subtopologies in subtopologies(), owned in tasks(), generation: i32, counter: u8,
        ) {
            let data = SubscriptionData { instance, subtopologies, owned, generation };
            let bytes = data.encode(counter).unwrap();
            prop_assert_eq!(bytes[1], counter);
            prop_assert_eq!(SubscriptionData::decode(&bytes).unwrap(), data);
            for cut in 0..bytes.len() {
                prop_assert!(SubscriptionData::decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn an_assignment_round_trips(
            members in prop::collection::vec((instances(), tasks(), tasks()), 1..4), you: prop::sample::Index,
        ) {
            let members: Vec<_> = members
                .into_iter()
                .map(|(instance, active, standby)| MemberAssignment { instance, active, standby })
                .collect();
            let data = AssignmentData { you: you.index(members.len()), members };
            prop_assert_eq!(AssignmentData::decode(&data.encode().unwrap()).unwrap(), data);
        }

        #[test]
        fn wild_bytes_never_panic(mut bytes: Vec<u8>) {
            let _ = SubscriptionData::decode(&bytes);
            let _ = AssignmentData::decode(&bytes);
            bytes.insert(0, VERSION);
            let _ = SubscriptionData::decode(&bytes);
            let _ = AssignmentData::decode(&bytes);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(matches!(SubscriptionData::decode(&[]), Err(UserDataError::Missing)));
        assert!(matches!(SubscriptionData::decode(&[VERSION]), Err(UserDataError::Missing)));
        assert!(matches!(SubscriptionData::decode(&[9, 0, b'{']), Err(UserDataError::Version(9))));
        assert!(matches!(AssignmentData::decode(&vec![VERSION; MAX_BYTES + 1]), Err(UserDataError::TooLong(_))));
        let nobody = [&[VERSION][..], br#"{"you":0,"members":[]}"#].concat();
        assert!(matches!(AssignmentData::decode(&nobody), Err(UserDataError::NoSuchMember { .. })));
    }

    #[test]
    fn fields_of_a_later_build_are_ignored() {
        let mut bytes = vec![VERSION];
        bytes.extend(
            br#"{"you":0,"members":[{"instance":{"process_id":"00000000-0000-0000-0000-000000000001",
            "endpoint":"a:1","peer_endpoint":"a:2","threads":1,"tags":{},"transactional_ids":[],"weight":3},
            "active":["0_1"],"standby":[],"warmup":["0_2"]}],"probing":true}"#,
        );
        assert_eq!(AssignmentData::decode(&bytes).unwrap().members[0].active, [TaskId::new(0, 1)]);
    }
}
