//! Holdfast's own bytes inside the standard subscription and assignment.
//!
//! Both are a version byte, then JSON; the subscription has a counter byte between the two, because the broker starts no
//! rebalance for a re-join whose bytes are unchanged (KAFKA-10455). Unknown JSON fields are ignored and absent ones have
//! defaults, so that a field can be added without a new version; the version changes only when older members would misread
//! the rest. The tests keep the bytes of earlier builds.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_types::{InstanceInfo, MemberAssignment, ProcessId, SubtopologySpec, TaskId};
use serde::{Deserialize, Serialize};

use crate::assignor::Reservation;

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
    /// Tasks that it follows, as standby or warm-up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) followed: Vec<TaskId>,
    /// Tasks that it gets as soon as their owners have released them, as its last assignment said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) promised: Vec<TaskId>,
    /// Whether it can follow tasks; builds before standbys cannot.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) follows: bool,
    /// How far its copies are: sums of changelog offsets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) positions: BTreeMap<TaskId, u64>,
    /// Of the tasks that it owns, those that still replay their changelogs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) restoring: BTreeSet<TaskId>,
    /// Whether it is about to leave.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) draining: bool,
    /// The reservations of its last assignment, with what is left of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) reserved: Vec<ReservationData>,
}

/// What the leader tells each member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AssignmentData {
    /// Which of `members` the receiver is.
    pub(crate) you: usize,
    /// All members with all they hold.
    pub(crate) members: Vec<MemberAssignment>,
    /// To which member each task is on its way that its owner releases now. Members repeat their own when they join.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) promised: BTreeMap<TaskId, usize>,
    /// Slots that are kept for drained processes. Members repeat them when they join, so that the next leader knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) reserved: Vec<ReservationData>,
    /// What members have that the group does not run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<RefusedData>,
}

/// A [`Reservation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReservationData {
    pub(crate) process_id: ProcessId,
    pub(crate) tasks: Vec<TaskId>,
    /// Time left, counted from when the bytes are written: the members' clocks may differ.
    pub(crate) left_ms: u64,
}

/// Why a member gets no tasks of a sub-topology that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedData {
    /// Which of the members.
    pub(crate) member: usize,
    pub(crate) reason: String,
}

impl From<Reservation> for ReservationData {
    fn from(Reservation { process_id, tasks, left }: Reservation) -> Self {
        Self { process_id, tasks, left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl From<ReservationData> for Reservation {
    fn from(ReservationData { process_id, tasks, left_ms }: ReservationData) -> Self {
        Self { process_id, tasks, left: Duration::from_millis(left_ms) }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_false(value: &bool) -> bool {
    !value
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
    use holdfast_types::{Endpoint, StoreName};
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

    fn task() -> impl Strategy<Value = TaskId> {
        (0..9_u32, 0..99_i32).prop_map(|(sub, partition)| TaskId::new(sub, partition))
    }

    fn tasks() -> impl Strategy<Value = Vec<TaskId>> {
        prop::collection::vec(task(), 0..20)
    }

    fn reservations() -> impl Strategy<Value = Vec<ReservationData>> {
        let reservation = (any::<u128>(), tasks(), any::<u64>()).prop_map(|(id, tasks, left_ms)| ReservationData {
            process_id: ProcessId(Uuid::from_u128(id)),
            tasks,
            left_ms,
        });
        prop::collection::vec(reservation, 0..3)
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
            followed in tasks(), positions in prop::collection::btree_map(task(), any::<u64>(), 0..9),
            promised in tasks(), restoring in tasks(), flags: [bool; 2], reserved in reservations(),
        ) {
            let (restoring, [follows, draining]) = (restoring.into_iter().collect(), flags);
            let data = SubscriptionData {
                instance, subtopologies, owned, generation, followed, promised, follows, positions, restoring, draining,
                reserved,
            };
            let bytes = data.encode(counter).unwrap();
            prop_assert_eq!(bytes[1], counter);
            prop_assert_eq!(SubscriptionData::decode(&bytes).unwrap(), data);
            for cut in 0..bytes.len() {
                prop_assert!(SubscriptionData::decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn an_assignment_round_trips(
            members in prop::collection::vec((instances(), tasks(), tasks(), tasks()), 1..4), you: prop::sample::Index,
            promised in prop::collection::btree_map(task(), 0..9_usize, 0..9), reserved in reservations(), reason in "\\PC{0,12}",
        ) {
            let members: Vec<_> = members
                .into_iter()
                .map(|(instance, active, standby, warmup)| MemberAssignment { instance, active, standby, warmup })
                .collect();
            let refused = vec![RefusedData { member: 0, reason }];
            let data = AssignmentData { you: you.index(members.len()), members, promised, reserved, refused };
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

    /// What builds wrote before there were standbys; the second byte is the counter.
    const SUBSCRIPTION_BEFORE_STANDBYS: &[u8] = b"\x01\x05{\"instance\":{\"process_id\":\"00000000-0000-0000-0000-\
        000000000001\",\"endpoint\":\"a:1\",\"peer_endpoint\":\"a:2\",\"threads\":3,\"tags\":{\"zone\":\"z\"},\
        \"transactional_ids\":[\"tx\"]},\"subtopologies\":[{\"id\":0,\"fingerprint\":\"f\",\"source_topics\":[\"items\"],\
        \"stores\":[\"stock\"],\"partitions\":4}],\"owned\":[\"0_1\"],\"generation\":7}";
    const ASSIGNMENT_BEFORE_STANDBYS: &[u8] = b"\x01{\"you\":0,\"members\":[{\"instance\":{\"process_id\":\"00000000-0000-\
        0000-0000-000000000001\",\"endpoint\":\"a:1\",\"peer_endpoint\":\"a:2\",\"threads\":3,\"tags\":{\"zone\":\"z\"},\
        \"transactional_ids\":[\"tx\"]},\"active\":[\"0_1\"],\"standby\":[]}]}";

    /// What builds read before there were standbys: these fields and no others, without defaults.
    #[derive(Debug, PartialEq, Deserialize)]
    struct SubscriptionRead {
        instance: InstanceInfo,
        subtopologies: Vec<SubtopologySpec>,
        owned: Vec<TaskId>,
        generation: i32,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct AssignmentRead {
        you: usize,
        members: Vec<MemberRead>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct MemberRead {
        instance: InstanceInfo,
        active: Vec<TaskId>,
        standby: Vec<TaskId>,
    }

    fn instance() -> InstanceInfo {
        InstanceInfo {
            process_id: ProcessId(Uuid::from_u128(1)),
            endpoint: Endpoint::new("a", 1),
            peer_endpoint: Endpoint::new("a", 2),
            threads: 3,
            tags: [("zone".to_owned(), "z".to_owned())].into(),
            transactional_ids: vec!["tx".to_owned()],
        }
    }

    /// A subscription with every field that this build writes.
    fn subscription() -> SubscriptionData {
        let subtopology = SubtopologySpec {
            id: 0,
            fingerprint: "f".to_owned(),
            source_topics: vec!["items".into()],
            stores: vec!["stock".into()],
            partitions: 4,
        };
        SubscriptionData {
            instance: instance(),
            subtopologies: vec![subtopology],
            owned: vec![TaskId::new(0, 1)],
            generation: 7,
            followed: vec![TaskId::new(0, 2)],
            promised: vec![TaskId::new(0, 3)],
            follows: true,
            positions: [(TaskId::new(0, 1), 17), (TaskId::new(0, 2), 12)].into(),
            restoring: [TaskId::new(0, 1)].into(),
            draining: true,
            reserved: reserved(),
        }
    }

    fn assignment() -> AssignmentData {
        let member = MemberAssignment {
            instance: instance(),
            active: vec![TaskId::new(0, 1)],
            standby: vec![TaskId::new(0, 2)],
            warmup: vec![TaskId::new(0, 3)],
        };
        let refused = vec![RefusedData { member: 0, reason: "differs".to_owned() }];
        AssignmentData {
            you: 0,
            members: vec![member],
            promised: [(TaskId::new(0, 0), 0)].into(),
            reserved: reserved(),
            refused,
        }
    }

    fn reserved() -> Vec<ReservationData> {
        let (process_id, tasks) = (ProcessId(Uuid::from_u128(9)), vec![TaskId::new(0, 0)]);
        vec![ReservationData { process_id, tasks, left_ms: 300_000 }]
    }

    #[test]
    fn what_an_earlier_build_writes_is_read() {
        let (instance, subtopologies) = (instance(), subscription().subtopologies);
        let read = SubscriptionData::decode(SUBSCRIPTION_BEFORE_STANDBYS).unwrap();
        let (owned, generation) = (vec![TaskId::new(0, 1)], 7);
        let same = SubscriptionData {
            followed: vec![],
            promised: vec![],
            follows: false,
            positions: BTreeMap::new(),
            restoring: BTreeSet::new(),
            draining: false,
            reserved: vec![],
            ..SubscriptionData { instance, subtopologies, owned, generation, ..subscription() }
        };
        assert_eq!(read, same);
        // And it is written as before where there is nothing new to say.
        assert_eq!(same.encode(5).unwrap(), SUBSCRIPTION_BEFORE_STANDBYS);

        let read = AssignmentData::decode(ASSIGNMENT_BEFORE_STANDBYS).unwrap();
        let mut same = AssignmentData { promised: BTreeMap::new(), reserved: vec![], refused: vec![], ..assignment() };
        (same.members[0].standby, same.members[0].warmup) = (vec![], vec![]);
        assert_eq!(read, same);
    }

    #[test]
    fn an_earlier_build_reads_what_is_written() {
        let bytes = subscription().encode(5).unwrap();
        assert_eq!(bytes[..2], SUBSCRIPTION_BEFORE_STANDBYS[..2]);
        let read: SubscriptionRead = serde_json::from_slice(&bytes[2..]).unwrap();
        assert_eq!(read, serde_json::from_slice(&SUBSCRIPTION_BEFORE_STANDBYS[2..]).unwrap());

        let bytes = assignment().encode().unwrap();
        assert_eq!(bytes[0], ASSIGNMENT_BEFORE_STANDBYS[0]);
        let read: AssignmentRead = serde_json::from_slice(&bytes[1..]).unwrap();
        let member =
            MemberRead { instance: instance(), active: vec![TaskId::new(0, 1)], standby: vec![TaskId::new(0, 2)] };
        assert_eq!(read, AssignmentRead { you: 0, members: vec![member] });
    }

    /// What this build writes, kept for the builds that come: they must read it.
    #[test]
    fn the_bytes_with_standbys() {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let instance = "{\"process_id\":\"00000000-0000-0000-0000-000000000001\",\"endpoint\":\"a:1\",\
            \"peer_endpoint\":\"a:2\",\"threads\":3,\"tags\":{\"zone\":\"z\"},\"transactional_ids\":[\"tx\"]}";
        let reserved =
            "[{\"process_id\":\"00000000-0000-0000-0000-000000000009\",\"tasks\":[\"0_0\"],\"left_ms\":300000}]";
        let written = format!(
            "\x01\x05{{\"instance\":{instance},\"subtopologies\":[{{\"id\":0,\"fingerprint\":\"f\",\"source_topics\":\
             [\"items\"],\"stores\":[\"stock\"],\"partitions\":4}}],\"owned\":[\"0_1\"],\"generation\":7,\"followed\":[\"0_2\"],\
             \"promised\":[\"0_3\"],\"follows\":true,\"positions\":{{\"0_1\":17,\"0_2\":12}},\"restoring\":[\"0_1\"],\"draining\":true,\
             \"reserved\":{reserved}}}"
        );
        assert_eq!(text(subscription().encode(5).unwrap()), written);
        assert_eq!(SubscriptionData::decode(written.as_bytes()).unwrap(), subscription());
        let written = format!(
            "\x01{{\"you\":0,\"members\":[{{\"instance\":{instance},\"active\":[\"0_1\"],\"standby\":[\"0_2\"],\
             \"warmup\":[\"0_3\"]}}],\"promised\":{{\"0_0\":0}},\"reserved\":{reserved},\"refused\":[{{\"member\":0,\"reason\":\"differs\"}}]}}"
        );
        assert_eq!(text(assignment().encode().unwrap()), written);
        assert_eq!(AssignmentData::decode(written.as_bytes()).unwrap(), assignment());
    }
}
