//! Group membership on a real broker: hand-over between members, dead predecessors, fencing, Kafka's own tools, strangers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_discovery::{GroupConfig, GroupEvent, GroupMember};
use holdfast_tests::{consumer, kafka::Kafka, runtime, wait};
use holdfast_types::{
    Assignment, Endpoint, GroupError, GroupSession as _, InstanceInfo, LostTransaction, OffsetToCommit, ProcessId,
    SubtopologySpec, TaskId, TopicPartition, TransactionEnd,
};
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use tokio::sync::mpsc::Receiver;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(30);
/// Longer than anything that a test should take: what happens sooner did not wait for it.
const SESSION: Duration = Duration::from_secs(25);
const PARTITIONS: i32 = 6;

/// One member in this process. Dropping it ends it as a kill does: without leaving.
struct Member {
    handle: GroupMember,
    events: Receiver<GroupEvent>,
}

impl Member {
    fn start(kafka: &Kafka, group: &str, process: ProcessId, port: u16) -> Self {
        let instance = InstanceInfo {
            process_id: process,
            endpoint: Endpoint::new("127.0.0.1", port),
            peer_endpoint: Endpoint::new("127.0.0.1", port + 1),
            threads: 1,
            tags: Default::default(),
            transactional_ids: vec![transactional_id(group, process)],
        };
        let items = SubtopologySpec {
            id: 0,
            fingerprint: "items".to_owned(),
            source_topics: vec![topic(group).into()],
            stores: vec!["stock".into()],
            partitions: PARTITIONS,
        };
        let mut config = GroupConfig::new(kafka.bootstrap(), group, instance, vec![items]);
        config.session_timeout = SESSION;
        config.heartbeat_interval = Duration::from_millis(200);
        config.fence_on_start = true;
        let (handle, events) = GroupMember::start(config, runtime().handle().clone()).unwrap();
        Self { handle, events }
    }

    #[track_caller]
    fn next(&mut self) -> GroupEvent {
        let next = runtime().block_on(async { tokio::time::timeout(LIMIT, self.events.recv()).await });
        next.expect("no event in time").expect("the member ended")
    }

    /// Assignments until one satisfies `enough`, each acknowledged as an instance does it.
    #[track_caller]
    fn assigned(&mut self, enough: impl Fn(&Assignment) -> bool) -> Assignment {
        loop {
            if let GroupEvent::Assigned(assignment) = self.next() {
                self.handle.acknowledge(assignment.tenure, assignment.generation, &assignment.active);
                if enough(&assignment) {
                    return assignment;
                }
            }
        }
    }
}

fn topic(group: &str) -> String {
    format!("{group}-items")
}

fn transactional_id(group: &str, process: ProcessId) -> String {
    format!("{group}-{process}-0")
}

/// A group of one's own with its topic.
fn fresh(kafka: &Kafka) -> String {
    let group = format!("group-{}", Uuid::new_v4());
    kafka.create_topic(&topic(&group), PARTITIONS, &[]);
    group
}

fn process() -> ProcessId {
    ProcessId(Uuid::new_v4())
}

fn all_tasks() -> BTreeSet<TaskId> {
    (0..PARTITIONS).map(|partition| TaskId::new(0, partition)).collect()
}

#[test]
fn tasks_are_shared_and_given_back_and_kafkas_tools_show_it() {
    let kafka = Kafka::shared();
    let group = fresh(kafka);
    let mut first = Member::start(kafka, &group, process(), 7000);
    assert_eq!(first.assigned(|_| true).active.len(), 6);

    let mut second = Member::start(kafka, &group, process(), 7100);
    // Nothing is given out before the first has released it.
    assert!(second.assigned(|_| true).active.is_empty());
    assert_eq!(first.assigned(|assignment| assignment.members.len() == 2).active.len(), 3);
    let theirs = second.assigned(|assignment| !assignment.active.is_empty());
    let mine = first.assigned(|assignment| assignment.generation == theirs.generation);
    assert_eq!((mine.active.len(), theirs.active.len()), (3, 3));
    assert_eq!(mine.active.iter().chain(&theirs.active).copied().collect::<BTreeSet<_>>(), all_tasks());
    assert_eq!(mine.members, theirs.members);

    let metadata = first.handle.metadata().unwrap();
    let partition = TopicPartition::new(topic(&group), mine.active[0].partition);
    let offset = OffsetToCommit { partition: partition.clone(), offset: 42, metadata: "stream time".to_owned() };
    first.handle.commit_offsets(&metadata, &[offset], LIMIT).unwrap();
    let fetched = second.handle.fetch_offsets(&[partition], LIMIT).unwrap();
    let fetched = fetched[0].clone().unwrap();
    assert_eq!((fetched.offset, fetched.metadata.as_str()), (42, "stream time"));
    let shown = kafka.describe_group(&group);
    assert_eq!(shown.lines().filter(|line| line.contains(&topic(&group))).count(), 6, "{shown}");
    assert!(shown.contains(&*metadata.member_id), "{shown}");

    second.handle.leave(LIMIT).unwrap();
    assert_eq!(first.assigned(|assignment| assignment.members.len() == 1).active.len(), 6);
    // The generation in which there were two is over.
    let offset =
        OffsetToCommit { partition: TopicPartition::new(topic(&group), 0), offset: 1, metadata: String::new() };
    let stale = first.handle.commit_offsets(&metadata, &[offset], LIMIT);
    assert_eq!(stale, Err(GroupError::IllegalGeneration { generation: metadata.generation }));
}

#[test]
fn a_restarted_instance_does_not_wait_for_its_dead_predecessor() {
    let kafka = Kafka::shared();
    let group = fresh(kafka);
    let me = process();
    let mut before = Member::start(kafka, &group, me, 7000);
    let old = before.assigned(|_| true);
    drop(before);
    // The same process id, and then another one at the same address.
    for process in [me, process()] {
        let started = Instant::now();
        let mut after = Member::start(kafka, &group, process, 7000);
        let assignment = after.assigned(|_| true);
        assert!(assignment.generation > old.generation);
        assert_eq!((assignment.active.len(), assignment.members.len()), (6, 1));
        assert!(started.elapsed() < SESSION / 2, "it took {:?}", started.elapsed());
    }
}

#[test]
fn fencing_frees_what_an_open_transaction_holds_back() {
    let kafka = Kafka::shared();
    let group = fresh(kafka);
    let me = process();
    let producer: BaseProducer = kafka.client().set("transactional.id", transactional_id(&group, me)).create().unwrap();
    producer.init_transactions(LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<(), [u8]>::to(&topic(&group)).payload(b"open").partition(0)).unwrap();
    producer.flush(LIMIT).unwrap();

    // An instance that starts with that id in its description fences it before it joins.
    let mut member = Member::start(kafka, &group, me, 7000);
    member.assigned(|_| true);
    assert!(producer.commit_transaction(LIMIT).is_err(), "the fenced producer committed");
    member.handle.fence(&[format!("{group}-never-used")], LIMIT).unwrap();
}

/// What is left open of a transaction is ended as the rest of it ended, and its coordinator says how that was.
#[test]
fn a_lost_transaction_is_ended_as_its_coordinator_says() {
    let kafka = Kafka::shared();
    let group = fresh(kafka);
    let mut member = Member::start(kafka, &group, process(), 7000);
    member.assigned(|_| true);
    let id = format!("{group}-lost");
    assert_eq!(member.handle.transaction_end(&id, LIMIT).unwrap(), None, "an id that nobody used");
    let mut lost = LostTransaction {
        end: TransactionEnd::Committed,
        partitions: [TopicPartition::new(topic(&group), 0), TopicPartition::new("no-such-topic", 0)].into(),
        topics: [Arc::from(topic(&group))].into(),
        committed: Default::default(),
        group: Some((Arc::from(&*group), TransactionEnd::Committed)),
    };
    let mut kept = Vec::new();
    for (value, commit) in [("kept", true), ("lost", false)] {
        let producer: BaseProducer = kafka.client().set("transactional.id", &id).create().unwrap();
        producer.init_transactions(LIMIT).unwrap();
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::<(), str>::to(&topic(&group)).payload(value).partition(0)).unwrap();
        producer.flush(LIMIT).unwrap();
        let expected = if commit { TransactionEnd::Committed } else { TransactionEnd::Aborted };
        if commit {
            producer.commit_transaction(LIMIT).unwrap();
            kept.push(value);
        }
        assert_eq!(member.handle.transaction_end(&id, LIMIT).unwrap(), Some(expected));
        // Twice: an answer may have been lost.
        for _ in 0..2 {
            lost.end = expected;
            member.handle.end_transaction(&id, &lost, LIMIT).unwrap();
        }
        let read = consumer::read_committed(kafka, &topic(&group));
        let values: Vec<_> = read.iter().filter_map(|record| record.value.clone()).collect();
        assert_eq!(values, kept.iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>());
        if !commit {
            assert!(producer.commit_transaction(LIMIT).is_err(), "the producer of an ended transaction committed it");
        }
    }
}

#[test]
fn a_member_of_another_kind_is_refused_and_named() {
    let kafka = Kafka::shared();
    let group = fresh(kafka);
    let stranger: BaseConsumer = kafka.client().set("group.id", &group).create().unwrap();
    stranger.subscribe(&[&topic(&group)]).unwrap();
    wait::until_true("the stranger has its partitions", LIMIT, || {
        let _ = stranger.poll(Duration::from_millis(20));
        stranger.assignment().unwrap().count() == 6
    });
    let mut member = Member::start(kafka, &group, process(), 7000);
    let GroupEvent::Waiting { reason } = member.next() else { panic!("expected to be refused") };
    assert!(reason.contains("INCONSISTENT_GROUP_PROTOCOL"), "{reason}");
    assert!(reason.contains("choose another application_id"), "{reason}");
    drop(stranger);
    assert_eq!(member.next(), GroupEvent::Recovered);
    assert_eq!(member.assigned(|_| true).active.len(), 6);
}
