//! The whole member against a coordinator that answers by a script: errors, reconnects, predecessors, commits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod fake;

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use fake::{CLOSE, FakeBroker, Script, text};
use holdfast_discovery::{GroupConfig, GroupEvent, GroupMember};
use holdfast_types::{
    Assignment, Endpoint, GroupError, GroupMetadata, GroupSession as _, InstanceInfo, OffsetToCommit, ProcessId,
    SubtopologySpec, TopicPartition,
};
use kafka_protocol::messages::{
    ApiKey, describe_groups_response::DescribedGroup, describe_groups_response::DescribedGroupMember,
};
use tokio::{runtime::Runtime, sync::mpsc, time::timeout};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(20);

fn config(bootstrap: String) -> GroupConfig {
    let instance = InstanceInfo {
        process_id: ProcessId(Uuid::from_u128(1)),
        endpoint: Endpoint::new("127.0.0.1", 7000),
        peer_endpoint: Endpoint::new("127.0.0.1", 7001),
        threads: 1,
        tags: Default::default(),
        transactional_ids: vec!["app-1-0".to_owned()],
    };
    let items = SubtopologySpec {
        id: 0,
        fingerprint: "f".to_owned(),
        source_topics: vec!["items".into()],
        stores: vec!["stock".into()],
        partitions: 3,
    };
    let mut config = GroupConfig::new(bootstrap, "app", instance, vec![items]);
    config.heartbeat_interval = Duration::from_millis(50);
    config.session_timeout = Duration::from_secs(3);
    config.kafka.insert("reconnect.backoff.ms".to_owned(), "20".to_owned());
    config.kafka.insert("reconnect.backoff.max.ms".to_owned(), "50".to_owned());
    config
}

/// A member with its own runtime, and its events.
struct Running {
    member: GroupMember,
    events: mpsc::Receiver<GroupEvent>,
    runtime: Runtime,
}

impl Running {
    fn start(config: GroupConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (member, events) = GroupMember::start(config, runtime.handle().clone()).unwrap();
        Self { member, events, runtime }
    }

    #[track_caller]
    fn next(&mut self) -> GroupEvent {
        let next = self.runtime.block_on(async { timeout(LIMIT, self.events.recv()).await });
        next.expect("no event in time").expect("the member ended")
    }

    #[track_caller]
    fn assigned(&mut self) -> Assignment {
        match self.next() {
            GroupEvent::Assigned(assignment) => assignment,
            other => panic!("expected an assignment, got {other:?}"),
        }
    }
}

#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < LIMIT, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn seen(script: &Mutex<Script>, api: ApiKey) -> Vec<String> {
    script.lock().unwrap().details(api)
}

fn one_offset(offset: i64) -> Vec<OffsetToCommit> {
    vec![OffsetToCommit { partition: TopicPartition::new("items", 0), offset, metadata: String::new() }]
}

#[test]
fn a_member_joins_heartbeats_commits_and_leaves() {
    let mut script = Script::default();
    script.answer(ApiKey::JoinGroup, &[79]);
    let broker = FakeBroker::start(script);
    let mut running = Running::start(config(broker.bootstrap()));
    let assignment = running.assigned();
    assert_eq!((assignment.generation, assignment.active.len()), (1, 3));
    assert_eq!(seen(&broker.script, ApiKey::JoinGroup), ["", "given-1"]);

    let metadata = running.member.metadata().unwrap();
    assert_eq!(&*metadata.member_id, "given-1");
    running.member.commit_offsets(&metadata, &one_offset(5), LIMIT).unwrap();
    let asked = [TopicPartition::new("items", 1), TopicPartition::new("items", 0)];
    let fetched = running.member.fetch_offsets(&asked, LIMIT).unwrap();
    assert_eq!(fetched.iter().map(|one| one.as_ref().map(|one| one.offset)).collect::<Vec<_>>(), [None, Some(5)]);

    let before = running.member.last_confirmed().unwrap().at;
    until("a heartbeat confirms", || running.member.last_confirmed().unwrap().at > before);
    running.member.leave(LIMIT).unwrap();
    assert_eq!(seen(&broker.script, ApiKey::LeaveGroup), ["given-1"]);
    assert_eq!(running.member.metadata(), None);
}

#[test]
fn commit_refusals_reach_the_caller_and_hurry_a_heartbeat() {
    let broker = FakeBroker::start(Script::default());
    let mut running = Running::start(config(broker.bootstrap()));
    let generation = running.assigned().generation;
    let metadata = running.member.metadata().unwrap();
    for (code, expected) in [
        (22, GroupError::IllegalGeneration { generation }),
        (25, GroupError::NotAMember),
        (27, GroupError::Rebalancing),
        (16, GroupError::Unavailable("NOT_COORDINATOR (16)".to_owned())),
        (29, GroupError::Refused("the commit of items-0 with TOPIC_AUTHORIZATION_FAILED (29)".to_owned())),
    ] {
        broker.script.lock().unwrap().answer(ApiKey::OffsetCommit, &[code]);
        assert_eq!(running.member.commit_offsets(&metadata, &one_offset(1), LIMIT), Err(expected));
    }
}

#[test]
fn an_unstable_offset_is_told_at_once_and_is_no_absent_one() {
    let mut script = Script::default();
    script.answer(ApiKey::OffsetFetch, &[88, 88]);
    let broker = FakeBroker::start(script);
    let running = Running::start(config(broker.bootstrap()));
    // Before the join too: a call that comes before the coordinator is known waits for it.
    let asked = [TopicPartition::new("items", 0)];
    for _ in 0..2 {
        let unstable = GroupError::Unstable(asked[0].clone());
        assert_eq!(running.member.fetch_offsets(&asked, LIMIT), Err(unstable));
    }
    assert_eq!(running.member.fetch_offsets(&asked, LIMIT), Ok(vec![None]));
    assert_eq!(broker.script.lock().unwrap().count(ApiKey::OffsetFetch), 3);
}

#[test]
fn a_dead_predecessor_is_removed_and_fenced_before_the_join() {
    let mut script = Script::default();
    let dead = |id: &str, process: u128| {
        DescribedGroupMember::default()
            .with_member_id(text(id))
            .with_client_id(text(&ProcessId(Uuid::from_u128(process)).to_string()))
    };
    script.describe = Some(DescribedGroup::default().with_members(vec![dead("mine", 1), dead("other", 2)]));
    // An open transaction is being aborted, the coordinator is loading, then it works.
    script.answer(ApiKey::InitProducerId, &[51, 14]);
    let broker = FakeBroker::start(script);
    let mut config = config(broker.bootstrap());
    config.fence_on_start = true;
    let mut running = Running::start(config);
    running.assigned();
    assert_eq!(seen(&broker.script, ApiKey::LeaveGroup), ["mine"]);
    assert_eq!(seen(&broker.script, ApiKey::InitProducerId), ["app-1-0"; 3]);
    let seen = broker.script.lock().unwrap().seen.clone();
    let first = |api: ApiKey| seen.iter().position(|seen| seen.api == api as i16).unwrap();
    assert!(first(ApiKey::LeaveGroup) < first(ApiKey::InitProducerId));
    assert!(first(ApiKey::InitProducerId) < first(ApiKey::JoinGroup));
}

/// The embedded broker: at-least-once needs neither.
#[test]
fn a_broker_without_transactions_and_describe_will_do() {
    let mut script = Script::default();
    script.hide(&[ApiKey::DescribeGroups, ApiKey::InitProducerId, ApiKey::LeaveGroup]);
    let broker = FakeBroker::start(script);
    let mut config = config(broker.bootstrap());
    config.fence_on_start = true;
    let mut running = Running::start(config);
    running.assigned();
    running.member.fence(&["somebody".to_owned()], LIMIT).unwrap();
}

#[test]
fn fencing_says_what_stands_in_its_way() {
    let mut script = Script::default();
    script.answer(ApiKey::InitProducerId, &[16, 0, 53]);
    let broker = FakeBroker::start(script);
    let running = Running::start(config(broker.bootstrap()));
    running.member.fence(&["a".to_owned()], LIMIT).unwrap();
    let error = running.member.fence(&["b".to_owned()], LIMIT).unwrap_err();
    assert!(error.to_string().contains("TRANSACTIONAL_ID_AUTHORIZATION_FAILED (53)"), "{error}");
    broker.script.lock().unwrap().answer(ApiKey::InitProducerId, &[51; 1000]);
    let deadline = Duration::from_millis(100);
    assert_eq!(running.member.fence(&["c".to_owned()], deadline), Err(GroupError::TimedOut(deadline)));
}

#[test]
fn a_removed_member_says_so_and_joins_anew() {
    let broker = FakeBroker::start(Script::default());
    let mut running = Running::start(config(broker.bootstrap()));
    running.assigned();
    broker.script.lock().unwrap().answer(ApiKey::Heartbeat, &[25]);
    assert!(matches!(running.next(), GroupEvent::Lost { .. }));
    assert_eq!(running.assigned().generation, 2);
    assert_eq!(seen(&broker.script, ApiKey::JoinGroup), ["", ""]);
}

#[test]
fn a_rebalance_keeps_the_member() {
    let broker = FakeBroker::start(Script::default());
    let mut running = Running::start(config(broker.bootstrap()));
    running.assigned();
    broker.script.lock().unwrap().answer(ApiKey::Heartbeat, &[27]);
    assert_eq!(running.assigned().generation, 2);
    running.member.rejoin("test");
    assert_eq!(running.assigned().generation, 3);
    assert_eq!(seen(&broker.script, ApiKey::JoinGroup), ["", "member-1", "member-1"]);
}

/// Any single answer may be lost, or come from a broker that is no longer the coordinator.
#[test]
fn one_failure_anywhere_costs_nothing() {
    for api in
        [ApiKey::ApiVersions, ApiKey::FindCoordinator, ApiKey::DescribeGroups, ApiKey::JoinGroup, ApiKey::SyncGroup]
    {
        for code in [CLOSE, 14, 15, 16] {
            if api == ApiKey::ApiVersions && code != CLOSE {
                continue;
            }
            let mut script = Script::default();
            script.answer(api, &[code]);
            let broker = FakeBroker::start(script);
            let mut running = Running::start(config(broker.bootstrap()));
            assert!(!running.assigned().active.is_empty(), "{api:?} {code}");
            assert!(running.member.metadata().is_some());
        }
    }
}

#[test]
fn a_connection_closed_for_idleness_goes_unnoticed() {
    let broker = FakeBroker::start(Script::default());
    let mut running = Running::start(config(broker.bootstrap()));
    running.assigned();
    let metadata = running.member.metadata().unwrap();
    broker.script.lock().unwrap().answer(ApiKey::OffsetCommit, &[CLOSE]);
    running.member.commit_offsets(&metadata, &one_offset(1), LIMIT).unwrap();
    broker.script.lock().unwrap().answer(ApiKey::Heartbeat, &[CLOSE]);
    let before = broker.script.lock().unwrap().count(ApiKey::Heartbeat);
    until("heartbeats go on", || broker.script.lock().unwrap().count(ApiKey::Heartbeat) > before + 3);
    assert_eq!(running.member.metadata(), Some(metadata));
}

#[test]
fn a_broker_that_is_away_at_the_start_is_waited_for() {
    let address = {
        let broker = FakeBroker::start(Script::default());
        broker.address
    };
    let mut running = Running::start(config(address.to_string()));
    assert!(matches!(running.next(), GroupEvent::Waiting { .. }));
    assert_eq!(running.member.metadata(), None);
    let _broker = FakeBroker::start_at(address, Default::default());
    assert_eq!(running.next(), GroupEvent::Recovered);
    assert_eq!(running.assigned().generation, 1);
}

#[test]
fn a_broker_that_restarts_is_told_and_a_long_absence_is_a_loss() {
    let broker = FakeBroker::start(Script::default());
    let (address, script) = (broker.address, broker.script.clone());
    let mut running = Running::start(config(broker.bootstrap()));
    running.assigned();
    let metadata = running.member.metadata();

    // Shorter than the session: the membership stays.
    drop(broker);
    assert!(matches!(running.next(), GroupEvent::Waiting { .. }));
    let broker = FakeBroker::start_at(address, script.clone());
    assert_eq!(running.next(), GroupEvent::Recovered);
    assert_eq!(running.member.metadata(), metadata);

    // Longer: it has to be assumed lost.
    drop(broker);
    assert!(matches!(running.next(), GroupEvent::Waiting { .. }));
    let commit: Result<(), GroupError> = running.member.commit_offsets(&metadata.unwrap(), &one_offset(1), LIMIT);
    assert!(matches!(commit, Err(GroupError::Unavailable(_))), "{commit:?}");
    assert!(matches!(running.next(), GroupEvent::Lost { .. }));
    assert_eq!(running.member.metadata(), None::<GroupMetadata>);
    let _broker = FakeBroker::start_at(address, script);
    assert_eq!(running.next(), GroupEvent::Recovered);
    assert!(!running.assigned().active.is_empty());
}

#[test]
fn settings_that_cannot_work_are_refused_at_the_start() {
    let runtime = Runtime::new().unwrap();
    let refused = |change: &dyn Fn(&mut GroupConfig)| {
        let mut config = config("127.0.0.1:9".to_owned());
        change(&mut config);
        GroupMember::start(config, runtime.handle().clone()).map(drop).unwrap_err().to_string()
    };
    let property = |key: &'static str, value: &'static str| {
        move |config: &mut GroupConfig| {
            config.kafka.insert("security.protocol".to_owned(), "ssl".to_owned());
            config.kafka.insert(key.to_owned(), value.to_owned());
        }
    };
    assert!(refused(&|config| config.group_id.clear()).contains("application_id"));
    assert!(refused(&|config| config.bootstrap_servers = "nowhere:x".to_owned()).contains("expected host:port"));
    assert!(refused(&|config| config.heartbeat_interval = Duration::from_secs(2)).contains("a third"));
    assert!(refused(&|config| config.rebalance_timeout = Duration::from_secs(11)).contains("at most 10s"));
    assert!(
        refused(&property("ssl.ca.location", "/none/ca.pem")).contains("ssl.ca.location: cannot read /none/ca.pem")
    );
    assert!(refused(&property("ssl.ca.pem", "not pem")).contains("expected certificates in PEM"));
    assert!(refused(&property("ssl.keystore.location", "k.p12")).contains("convert the PKCS#12 keystore to PEM"));
}
