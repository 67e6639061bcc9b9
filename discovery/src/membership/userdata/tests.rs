//! The bytes that members exchange: what is written is read again, across builds too.

use holdfast_types::{Endpoint, StoreName};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn instances() -> impl Strategy<Value = InstanceInfo> {
    (any::<u128>(), "[a-z0-9.]{1,12}", any::<u16>(), any::<u32>(), prop::collection::vec("\\PC{0,12}", 0..4)).prop_map(
        |(id, host, port, threads, transactional_ids)| InstanceInfo {
            process_id: ProcessId(Uuid::from_u128(id)),
            endpoint: Endpoint::new(host.clone(), port),
            peer_endpoint: Endpoint::new(host, port.wrapping_add(1)),
            threads,
            tags: [("zone".to_owned(), "a".to_owned())].into(),
            transactional_ids,
        },
    )
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
    let spec = (any::<u32>(), "\\PC{0,20}", "[a-z]{1,9}", 0..99_i32).prop_map(|(id, fingerprint, name, partitions)| {
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
        promised in tasks(), restoring in tasks(), flags: [bool; 2], reserved in reservations(), reads: u8,
    ) {
        let (restoring, [follows, draining]) = (restoring.into_iter().collect(), flags);
        let data = SubscriptionData {
            instance, subtopologies, owned, generation, followed, promised, follows, positions, restoring, draining,
            reserved, reads,
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
        let sorted = |mut tasks: Vec<TaskId>| { tasks.sort_unstable(); tasks };
        let members: Vec<_> = members
            .into_iter()
            .map(|(instance, active, standby, warmup)| MemberAssignment {
                instance, active: sorted(active), standby: sorted(standby), warmup: sorted(warmup),
            })
            .collect();
        let refused = vec![RefusedData { member: 0, reason }];
        let data = AssignmentData { you: you.index(members.len()), members, promised, reserved, refused };
        for version in [VERSION, COMPACT, COMPACT + 1] {
            let all = data.clone().encode_for_all(vec![version; data.members.len()]).unwrap();
            prop_assert_eq!(all.len(), data.members.len());
            let bytes = &all[data.you];
            prop_assert_eq!(bytes[0], version.min(COMPACT));
            prop_assert_eq!(&AssignmentData::decode(bytes).unwrap(), &data);
            for cut in (0..bytes.len()).rev().step_by(bytes.len() / 50 + 1) {
                prop_assert!(AssignmentData::decode(&bytes[..cut]).is_err());
            }
        }
    }

    #[test]
    fn wild_bytes_never_panic(mut bytes: Vec<u8>) {
        let _ = SubscriptionData::decode(&bytes);
        let _ = AssignmentData::decode(&bytes);
        for version in [VERSION, COMPACT] {
            bytes.insert(0, version);
            let _ = SubscriptionData::decode(&bytes);
            let _ = AssignmentData::decode(&bytes);
        }
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

/// [`assignment`] in the second form, by another compressor.
const ASSIGNMENT_OF_THE_SECOND_FORM: &[u8] =
    b"\x02\x00\x00\x00\x00\x95\x91K\x0e\xc20\x0cD\xef\xe25H\x05V\xf4*\xa8\xaaL\xe3B\x04I*;|\xab\xdc\x1d\xbb\
    \x94\x05\x12\x1b\xbc\x88\xa2g'3\x93\x8c\x10(\xec\x89\x05\xea\xdd\x08>J\xc6\xd8\x11\xd4#\x0c\x9c:\x12i\
    \xbd\x83\x1a\xaa\xb9\x96?\x96\xb9V\xb0\x00\x8anH>f=\x81\xb5\x81\x81\x88\xdb/\xbaV\x9a\x8fL\xe8Tr\xa3{\
    <\x88\xc9=STYxBQ\xc6\x18\x05\xbb\xecS\xc4\xb3\x1a0s\x90\xef\xd0h\xcf\xf0u2X)]\x192\xcfn\xff\xf8\xb0\xb5\
    \xb1\x1br\xb8\x0c\x1f\xb4iJi\x16\x16)x!7\xe1V\x1b\x95N2\x09\xf1\xd5\xe0\xee\xff\xd0[K\x83r\x9a\x1c\xda\
    \x95\xaar\xa6>\xb7\xc1\xd2M#&\xcc\xd4_d\x96x\xbf\xb7j\x1bFIQ\x95\x9c\xef{\xfb\x83\xd2\x94\x17";

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
        reads: COMPACT,
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
        reads: VERSION,
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

    let bytes = assignment().encode_for_all([VERSION]).unwrap().remove(0);
    assert_eq!(bytes[0], ASSIGNMENT_BEFORE_STANDBYS[0]);
    let read: AssignmentRead = serde_json::from_slice(&bytes[1..]).unwrap();
    let member = MemberRead { instance: instance(), active: vec![TaskId::new(0, 1)], standby: vec![TaskId::new(0, 2)] };
    assert_eq!(read, AssignmentRead { you: 0, members: vec![member] });
}

/// What builds wrote before there was the second form of assignments, which is read and written for them still.
#[test]
fn the_bytes_with_standbys() {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let instance = "{\"process_id\":\"00000000-0000-0000-0000-000000000001\",\"endpoint\":\"a:1\",\
        \"peer_endpoint\":\"a:2\",\"threads\":3,\"tags\":{\"zone\":\"z\"},\"transactional_ids\":[\"tx\"]}";
    let reserved = "[{\"process_id\":\"00000000-0000-0000-0000-000000000009\",\"tasks\":[\"0_0\"],\"left_ms\":300000}]";
    let written = format!(
        "\x01\x05{{\"instance\":{instance},\"subtopologies\":[{{\"id\":0,\"fingerprint\":\"f\",\"source_topics\":\
         [\"items\"],\"stores\":[\"stock\"],\"partitions\":4}}],\"owned\":[\"0_1\"],\"generation\":7,\"followed\":[\"0_2\"],\
         \"promised\":[\"0_3\"],\"follows\":true,\"positions\":{{\"0_1\":17,\"0_2\":12}},\"restoring\":[\"0_1\"],\"draining\":true,\
         \"reserved\":{reserved}}}"
    );
    let subscription = SubscriptionData { reads: VERSION, ..subscription() };
    assert_eq!(text(subscription.encode(5).unwrap()), written);
    assert_eq!(SubscriptionData::decode(written.as_bytes()).unwrap(), subscription);
    let written = format!(
        "\x01{{\"you\":0,\"members\":[{{\"instance\":{instance},\"active\":[\"0_1\"],\"standby\":[\"0_2\"],\
         \"warmup\":[\"0_3\"]}}],\"promised\":{{\"0_0\":0}},\"reserved\":{reserved},\"refused\":[{{\"member\":0,\"reason\":\"differs\"}}]}}"
    );
    assert_eq!(text(assignment().encode_for_all([VERSION]).unwrap().remove(0)), written);
    assert_eq!(AssignmentData::decode(written.as_bytes()).unwrap(), assignment());
}

/// What this build writes, kept for the builds that come: they must read it.
#[test]
fn the_bytes_of_the_second_form() {
    let json = subscription().encode(5).unwrap();
    assert!(json.ends_with(b",\"reads\":2}"), "{}", String::from_utf8_lossy(&json));
    let reads_more = String::from_utf8(json).unwrap().replace("\"reads\":2", "\"reads\":9,\"new\":[]");
    assert_eq!(SubscriptionData::decode(reads_more.as_bytes()).unwrap().reads, 9);

    // The deflated bytes depend on the compressor; what counts is that they are read, whoever wrote them.
    let bytes = assignment().encode_for_all([COMPACT]).unwrap().remove(0);
    assert_eq!(bytes[..5], [COMPACT, 0, 0, 0, 0]);
    assert_eq!(AssignmentData::decode(ASSIGNMENT_OF_THE_SECOND_FORM).unwrap(), assignment());
}

#[test]
fn each_member_gets_the_form_that_it_reads() {
    let mut data = assignment();
    data.members = vec![data.members.remove(0); 3];
    let all = data.clone().encode_for_all([COMPACT, VERSION, COMPACT]).unwrap();
    assert_eq!(all.iter().map(|bytes| bytes[0]).collect::<Vec<_>>(), [COMPACT, VERSION, COMPACT]);
    for (you, bytes) in all.iter().enumerate() {
        assert_eq!(AssignmentData::decode(bytes).unwrap(), AssignmentData { you, ..data.clone() });
    }
}
