//! The state machine, event by event, with time in the test's hand.

mod losses;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use holdfast_types::{Assignment, Endpoint, ProcessId};
use uuid::Uuid;

use super::*;
use crate::membership::{leader, protocol, userdata::SubscriptionData};

const SESSION: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_millis(500);

/// A machine with its time, and what it asked for and has not been answered.
struct Harness {
    machine: Machine,
    now: Instant,
    pending: Vec<Action>,
    told: Vec<GroupEvent>,
}

fn settings(process: u128) -> Settings {
    Settings {
        group_id: "group".into(),
        instance: InstanceInfo {
            process_id: ProcessId(Uuid::from_u128(process)),
            endpoint: Endpoint::new("h", 1),
            peer_endpoint: Endpoint::new("h", 2),
            threads: 1,
            tags: BTreeMap::new(),
            transactional_ids: Vec::new(),
        },
        subtopologies: vec![SubtopologySpec {
            id: 0,
            fingerprint: "f".to_owned(),
            source_topics: vec!["items".into()],
            stores: vec!["stock".into()],
            partitions: 4,
        }],
        session_timeout: SESSION,
        heartbeat_interval: HEARTBEAT,
        assignor: AssignorSettings::default(),
        follows: false,
        backoff: (Duration::from_millis(100), Duration::from_secs(2)),
    }
}

impl Harness {
    fn new() -> Self {
        let now = Instant::now();
        let mut harness = Self { machine: Machine::new(settings(1), now), now, pending: vec![], told: vec![] };
        harness.send(Event::Tick);
        harness
    }

    fn send(&mut self, event: Event) {
        for action in self.machine.handle(self.now, event) {
            match action {
                Action::Emit(event) => self.told.push(event),
                action => self.pending.push(action),
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.send(Event::Tick);
    }

    /// Takes the pending action of a kind, which has to be there.
    #[track_caller]
    fn take<T>(&mut self, kind: impl Fn(&Action) -> Option<T>) -> T {
        let at = self.pending.iter().position(|action| kind(action).is_some());
        let Some(at) = at else { panic!("not asked for; pending: {:?}", self.pending) };
        kind(&self.pending.remove(at)).unwrap()
    }

    #[track_caller]
    fn found(&mut self) {
        self.take(|action| matches!(action, Action::FindCoordinator).then_some(()));
        self.send(Event::CoordinatorFound);
    }

    #[track_caller]
    fn take_join(&mut self) -> (Ticket, Arc<str>, Bytes) {
        self.take(|action| match action {
            Action::Join { ticket, member_id, subscription, .. } => {
                Some((*ticket, member_id.clone(), subscription.clone()))
            }
            _ => None,
        })
    }

    #[track_caller]
    fn take_sync(&mut self) -> (Ticket, i32, Vec<(Arc<str>, Bytes)>) {
        self.take(|action| match action {
            Action::Sync { ticket, generation, assignments, .. } => Some((*ticket, *generation, assignments.clone())),
            _ => None,
        })
    }

    #[track_caller]
    fn take_heartbeat(&mut self) -> (Ticket, i32) {
        self.take(|action| match action {
            Action::Heartbeat { ticket, generation, .. } => Some((*ticket, *generation)),
            _ => None,
        })
    }

    fn answer_heartbeat(&mut self, answer: Result<(), Refusal>) {
        let (ticket, _) = self.take_heartbeat();
        self.send(Event::HeartbeatAnswered { ticket, answer });
    }

    fn refuse_join(&mut self, code: i16) {
        let (ticket, ..) = self.take_join();
        self.send(Event::Joined { ticket, answer: Err(Refusal::Code(code)) });
    }

    /// Lets the outstanding join through, as the only member and leader; gives the subscription.
    #[track_caller]
    fn lead(&mut self, generation: i32) -> Bytes {
        let (ticket, _, subscription) = self.take_join();
        let member_id: Arc<str> = "m-1".into();
        let lead = Some(vec![(Arc::clone(&member_id), subscription.clone())]);
        self.send(Event::Joined { ticket, answer: Ok(Joined { generation, member_id, lead }) });
        let (ticket, of, assignments) = self.take_sync();
        assert_eq!(of, generation);
        self.send(Event::Synced { ticket, answer: Ok(assignments[0].1.clone()) });
        subscription
    }

    /// A member of generation 1 with nothing outstanding.
    fn stable() -> Self {
        let mut harness = Self::new();
        harness.found();
        harness.lead(1);
        harness.answer_heartbeat(Ok(()));
        assert!(harness.pending.is_empty());
        harness.told.clear();
        harness
    }

    fn generation(&self) -> Option<i32> {
        self.machine.metadata().map(|metadata| metadata.generation)
    }
}

fn is_lost(event: &GroupEvent) -> bool {
    matches!(event, GroupEvent::Lost { .. })
}

fn assigned(event: &GroupEvent) -> Option<&Assignment> {
    match event {
        GroupEvent::Assigned(assignment) => Some(assignment),
        _ => None,
    }
}

#[test]
fn a_member_joins_alone_and_gets_everything() {
    let mut harness = Harness::new();
    assert_eq!(harness.generation(), None);
    harness.found();
    let (ticket, member_id, _) = harness.take_join();
    assert_eq!(&*member_id, "");
    harness.send(Event::Joined { ticket, answer: Err(Refusal::MemberIdRequired("m-1".into())) });
    harness.lead(1);
    let assignment = assigned(&harness.told[0]).unwrap();
    assert_eq!((assignment.generation, assignment.active.len(), assignment.members.len()), (1, 4, 1));
    assert_eq!(harness.machine.metadata().map(|metadata| metadata.member_id), Some("m-1".into()));
    assert_eq!(harness.machine.confirmed_at(), Some(harness.now));
}

#[test]
fn the_id_that_was_given_is_used() {
    let mut harness = Harness::new();
    harness.found();
    let (ticket, ..) = harness.take_join();
    harness.send(Event::Joined { ticket, answer: Err(Refusal::MemberIdRequired("m-7".into())) });
    assert_eq!(&*harness.take_join().1, "m-7");
}

#[test]
fn heartbeats_go_out_at_the_interval_and_confirm_when_they_were_sent() {
    let mut harness = Harness::stable();
    harness.pass(HEARTBEAT - Duration::from_millis(1));
    assert!(harness.pending.is_empty());
    harness.pass(Duration::from_millis(1));
    let (ticket, generation) = harness.take_heartbeat();
    assert_eq!(generation, 1);
    let sent_at = harness.now;
    harness.pass(Duration::from_millis(80));
    harness.send(Event::HeartbeatAnswered { ticket, answer: Ok(()) });
    assert_eq!(harness.machine.confirmed_at(), Some(sent_at));
}

#[test]
fn what_the_coordinator_says_to_a_heartbeat() {
    // Code → whether the membership is lost, and the member id of the next join.
    for (code, lost, next_id) in [(27, false, "m-1"), (25, true, ""), (82, true, ""), (22, true, "m-1")] {
        let mut harness = Harness::stable();
        harness.pass(HEARTBEAT);
        harness.answer_heartbeat(Err(Refusal::Code(code)));
        assert_eq!(harness.told.iter().any(is_lost), lost, "{code}");
        assert_eq!(&*harness.take_join().1, next_id, "{code}");
        // Commits go on under the old generation until the new one begins, unless it is lost.
        assert_eq!(harness.generation(), (!lost).then_some(1), "{code}");
    }
}

#[test]
fn a_coordinator_that_moved_is_looked_for_and_costs_no_membership() {
    for refusal in [Refusal::Code(14), Refusal::Code(15), Refusal::Code(16), Refusal::Broken("reset".to_owned())] {
        let mut harness = Harness::stable();
        harness.pass(HEARTBEAT);
        harness.answer_heartbeat(Err(refusal));
        harness.found();
        harness.answer_heartbeat(Ok(()));
        assert_eq!(harness.generation(), Some(1));
        assert_eq!(harness.told, []);
    }
}

#[test]
fn a_broker_away_is_told_once_and_its_return_too() {
    let mut harness = Harness::stable();
    harness.pass(HEARTBEAT);
    harness.answer_heartbeat(Err(Refusal::Broken("reset".to_owned())));
    for _ in 0..20 {
        harness.take(|action| matches!(action, Action::FindCoordinator).then_some(()));
        harness.send(Event::CoordinatorMissing { reason: "refused".to_owned() });
        let wait = harness.machine.link.retry_at().unwrap() - harness.now;
        assert!(wait <= Duration::from_secs(2));
        if harness.now + wait - harness.machine.confirmed_at().unwrap() >= SESSION {
            break;
        }
        harness.pass(wait);
    }
    assert!(matches!(harness.told.as_slice(), [GroupEvent::Waiting { .. }]), "{:?}", harness.told);
    harness.pass(Duration::from_millis(10));
    if harness.pending.is_empty() {
        harness.pass(Duration::from_secs(2));
    }
    harness.found();
    if harness.generation().is_some() {
        harness.answer_heartbeat(Ok(()));
        assert_eq!(harness.told.last(), Some(&GroupEvent::Recovered));
    }
}

#[test]
fn refusals_that_last_are_told_once_with_a_way_out() {
    for (code, way_out) in [
        (23, "stop them, or choose another application_id"),
        (30, "grant it READ on the group"),
        (81, "group.max.size"),
        (26, "session_timeout_ms=10000"),
        (24, "INVALID_GROUP_ID (24)"),
    ] {
        let mut harness = Harness::new();
        harness.found();
        for _ in 0..5 {
            harness.refuse_join(code);
            harness.pass(Duration::from_secs(2));
        }
        let [GroupEvent::Waiting { reason }] = harness.told.as_slice() else { panic!("{code}: {:?}", harness.told) };
        assert!(reason.contains(way_out), "{reason}");
        harness.lead(1);
        assert!(harness.told.contains(&GroupEvent::Recovered));
    }
}

#[test]
fn joins_that_fail_for_a_moment_are_repeated() {
    for (code, found_again) in [(14, true), (15, true), (16, true), (27, false), (25, false)] {
        let mut harness = Harness::new();
        harness.found();
        harness.refuse_join(code);
        if found_again {
            harness.found();
        }
        harness.pass(Duration::from_millis(100));
        harness.lead(1);
        assert!(assigned(&harness.told[0]).is_some(), "{code}: {:?}", harness.told);
    }
}

#[test]
fn a_sync_that_is_overtaken_joins_again_under_the_generation_it_began() {
    let mut harness = Harness::stable();
    harness.send(Event::Rejoin { reason: "test".to_owned() });
    let (ticket, member_id, _) = harness.take_join();
    harness.send(Event::Joined { ticket, answer: Ok(Joined { generation: 2, member_id, lead: None }) });
    assert_eq!(harness.generation(), Some(2));
    let (ticket, ..) = harness.take_sync();
    harness.send(Event::Synced { ticket, answer: Err(Refusal::Code(27)) });
    harness.take_join();
    assert_eq!(harness.generation(), Some(2));
    assert!(!harness.told.iter().any(is_lost));
}

#[test]
fn a_removal_during_a_rebalance_is_a_loss() {
    let mut harness = Harness::stable();
    harness.send(Event::Rejoin { reason: "test".to_owned() });
    harness.refuse_join(25);
    assert!(harness.told.iter().any(is_lost));
    assert_eq!(&*harness.take_join().1, "");
}

#[test]
fn heartbeats_go_on_while_a_join_is_out() {
    let mut harness = Harness::stable();
    harness.send(Event::Rejoin { reason: "test".to_owned() });
    harness.take_join();
    harness.pass(HEARTBEAT);
    let sent_at = harness.now;
    harness.answer_heartbeat(Err(Refusal::Code(27)));
    assert_eq!(harness.machine.confirmed_at(), Some(sent_at));
    // An answer that the new generation overtook decides nothing.
    harness.pass(HEARTBEAT);
    harness.answer_heartbeat(Err(Refusal::Code(22)));
    assert!(!harness.told.iter().any(is_lost));
}

/// KAFKA-14382.
#[test]
fn a_rebalance_that_is_asked_for_during_another_is_remembered() {
    let mut harness = Harness::stable();
    harness.send(Event::Rejoin { reason: "first".to_owned() });
    harness.send(Event::Rejoin { reason: "second".to_owned() });
    let first = harness.lead(2);
    let second = harness.lead(3);
    assert_ne!(first, second, "unchanged bytes would go unnoticed");
    assert!(harness.pending.iter().all(|action| !matches!(action, Action::Join { .. })), "and it is no loop");
}

#[test]
fn answers_to_earlier_requests_decide_nothing() {
    let mut harness = Harness::stable();
    harness.pass(HEARTBEAT);
    let (old, _) = harness.take_heartbeat();
    harness.send(Event::HeartbeatAnswered { ticket: old, answer: Err(Refusal::Code(25)) });
    harness.lead(2);
    harness.told.clear();
    harness.send(Event::HeartbeatAnswered { ticket: old, answer: Err(Refusal::Code(25)) });
    harness.send(Event::Joined { ticket: old, answer: Err(Refusal::Code(25)) });
    harness.send(Event::Synced { ticket: old, answer: Err(Refusal::Code(25)) });
    assert_eq!(harness.told, []);
    assert_eq!(harness.generation(), Some(2));
}

#[test]
fn a_suspicion_asks_the_coordinator_at_once() {
    let mut harness = Harness::stable();
    harness.send(Event::Suspicion);
    harness.take_heartbeat();
}

#[test]
fn leaving_is_the_last_word() {
    let mut harness = Harness::stable();
    harness.send(Event::Leave);
    harness.take(|action| matches!(action, Action::Leave { .. }).then_some(()));
    harness.pass(SESSION * 2);
    harness.send(Event::Rejoin { reason: "late".to_owned() });
    assert!(harness.pending.is_empty());
    assert_eq!((harness.generation(), harness.machine.next_tick()), (None, None));
}

/// Two machines and the assignor: a task moves only after its owner said that it released it.
#[test]
fn a_task_is_handed_over_after_its_release() {
    let mut old = Harness::stable();
    let mut new = Harness::new();
    new.machine = Machine::new(settings(2), new.now);
    new.pending.clear();
    new.send(Event::Tick);
    new.found();
    let rebalance = |generation: i32, old: &mut Harness, new: &mut Harness| -> [Vec<TaskId>; 2] {
        let (old_join, _, old_bytes) = old.take_join();
        let (new_join, _, new_bytes) = new.take_join();
        let ids: [Arc<str>; 2] = ["m-1".into(), "m-2".into()];
        let all = vec![(Arc::clone(&ids[0]), old_bytes), (Arc::clone(&ids[1]), new_bytes)];
        let joined = |index: usize, lead| Joined { generation, member_id: Arc::clone(&ids[index]), lead };
        old.send(Event::Joined { ticket: old_join, answer: Ok(joined(0, Some(all))) });
        new.send(Event::Joined { ticket: new_join, answer: Ok(joined(1, None)) });
        let (old_sync, _, assignments) = old.take_sync();
        let (new_sync, ..) = new.take_sync();
        old.send(Event::Synced { ticket: old_sync, answer: Ok(assignments[0].1.clone()) });
        new.send(Event::Synced { ticket: new_sync, answer: Ok(assignments[1].1.clone()) });
        let held = |harness: &Harness| assigned(harness.told.last().unwrap()).unwrap().active.clone();
        [held(old), held(new)]
    };

    old.pass(HEARTBEAT);
    old.answer_heartbeat(Err(Refusal::Code(27)));
    let [kept, given] = rebalance(2, &mut old, &mut new);
    assert_eq!((kept.len(), given.len()), (2, 0));
    // Nothing happens before the release is acknowledged, and then a rebalance does.
    new.send(Event::CaughtUp { reason: "a copy has".to_owned() });
    for member in [&old, &new] {
        assert!(member.pending.iter().all(|action| !matches!(action, Action::Join { .. })));
    }
    old.send(Event::Acknowledged { tenure: 0, generation: 2, kept: kept.clone() });
    new.answer_heartbeat(Err(Refusal::Code(27)));
    let [still, given] = rebalance(3, &mut old, &mut new);
    assert_eq!((still, given.len()), (kept, 2));
    // No task is on its way any more.
    new.send(Event::CaughtUp { reason: "a copy has".to_owned() });
    new.take_join();
}

#[test]
fn a_reservation_is_over_when_the_leader_looks_again() {
    const RETENTION: Duration = Duration::from_secs(2);
    let mut leaves = Harness::stable();
    leaves.send(Event::Drain);
    let (_, _, leaving) = leaves.take_join();
    let mut stays = Harness::new();
    let mut settings = settings(2);
    settings.assignor.drained_slot_retention = RETENTION;
    stays.machine = Machine::new(settings, stays.now);
    stays.pending.clear();
    stays.send(Event::Tick);
    stays.found();
    let (ticket, _, own) = stays.take_join();
    let member_id: Arc<str> = "m-2".into();
    let lead = Some(vec![("m-1".into(), leaving), (Arc::clone(&member_id), own)]);
    stays.send(Event::Joined { ticket, answer: Ok(Joined { generation: 2, member_id, lead }) });
    let (ticket, _, assignments) = stays.take_sync();
    let answer_after = Duration::from_millis(300);
    stays.pass(answer_after);
    stays.send(Event::Synced { ticket, answer: Ok(assignments[1].1.clone()) });
    let reserved = |subscription: Bytes| {
        let data = protocol::subscription_user_data(subscription).unwrap();
        SubscriptionData::decode(&data).unwrap().reserved
    };
    assert_eq!(stays.machine.following.reserved(stays.now).len(), 1);

    stays.pass(RETENTION - answer_after);
    assert_eq!(reserved(stays.lead(3)), []);
    // Else one rebalance would follow the other.
    stays.pass(HEARTBEAT);
    assert!(stays.pending.iter().all(|action| !matches!(action, Action::Join { .. })));
}

#[test]
fn a_member_that_cannot_be_read_gets_nothing_and_stops_nobody() {
    let mut harness = Harness::new();
    harness.found();
    let (_, _, subscription) = harness.take_join();
    let assignments = leader::assign(
        vec![("good".into(), subscription), ("wild".into(), Bytes::from_static(&[0, 0, 0x7f]))],
        &AssignorSettings::default(),
    )
    .unwrap();
    assert_eq!(assignments.bytes.len(), 1);
    assert_eq!(&*assignments.bytes[0].0, "good");
}
