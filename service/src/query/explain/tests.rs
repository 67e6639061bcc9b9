//! What is said of each copy, and who is said to answer.

use std::time::Duration;

use bytes::Bytes;
use holdfast_types::SystemClock;

use super::*;
use crate::query::{
    Answer, Consistency, Forward, Forwarded, NotForwarded, Outcome, QueryLimits, RowRead, ScanPart, ScanQuestion,
    StoreView,
    describe::TopologyPictures,
    testing::{FakeView, PARTITIONS, SELF, assignment, held, items, known, member, peer},
};

/// Knows peers, and asks none.
#[derive(Debug)]
struct Known(Arc<PeersView>);

impl Forward for Known {
    fn peers(&self) -> Arc<PeersView> {
        Arc::clone(&self.0)
    }

    fn get<'a>(
        &'a self,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        key: &'a [u8],
        options: ReadOptions,
    ) -> Forwarded<'a, Answer<RowRead>> {
        NotForwarded.get(peer, store, key, options)
    }

    fn batch<'a>(
        &'a self,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        keys: Vec<Bytes>,
        options: ReadOptions,
    ) -> Forwarded<'a, Vec<Outcome>> {
        NotForwarded.batch(peer, store, keys, options)
    }

    fn scan<'a>(
        &'a self,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        question: &'a ScanQuestion,
        options: ReadOptions,
    ) -> Forwarded<'a, ScanPart> {
        NotForwarded.scan(peer, store, question, options)
    }

    fn found_slow(&self, _: ProcessId) {}

    fn hedge_after(&self) -> Option<Duration> {
        None
    }
}

type Held = Option<Vec<HeldTask>>;

/// The first peer is assigned the key's partition, the others follow it; the copy here is as given.
fn explain(here: Option<Role>, peers: &[(u16, Held, Condition)], options: &ReadOptions) -> RouteExplanation {
    let view = FakeView::new();
    let tasks: Vec<TaskId> = (0..PARTITIONS).map(|partition| TaskId::new(0, partition)).collect();
    for task in &tasks {
        match here {
            Some(role) => view.open("Words", *task, role, Vec::new()),
            None => view.close("Words", task.partition),
        }
    }
    let members = peers.iter().enumerate().map(|(index, (port, ..))| {
        let mut member = peer(*port);
        *(if index == 0 { &mut member.active } else { &mut member.standby }) = tasks.clone();
        member
    });
    let members = members.collect();
    view.set_cluster(|cluster| cluster.with_assignment(&assignment(members)));
    queries(view, peers).explain_route("Words", b"key", options).unwrap()
}

fn queries(view: Arc<FakeView>, peers: &[(u16, Held, Condition)]) -> Queries {
    let forward = Arc::new(Known(Arc::new(known(peers))));
    let pictures = TopologyPictures::default();
    Queries::with(view as Arc<dyn StoreView>, forward, Arc::new(SystemClock), QueryLimits::default(), pictures)
}

/// Peers in the order in which they are asked, and behind them those that are not.
fn whys(route: &RouteExplanation) -> Vec<(u16, &'static str)> {
    let port = |copy: &RemoteCopy| copy.instance.rsplit(':').next().unwrap().parse().unwrap();
    route.others.iter().chain(&route.not_asked).map(|copy| (port(copy), copy.why.as_str())).collect()
}

fn at(port: u16) -> Option<String> {
    Some(peer(port).instance.endpoint.to_string())
}

#[test]
fn every_copy_has_a_reason() {
    use Condition::{Alive, Refused, Silent, Slow};
    let task = TaskId::new(0, holdfast_types::partition_for(b"key", PARTITIONS));
    let holds = |role, ms| Some(vec![held(task, role, ms)]);
    let (active, standby, restoring) = (Role::Active, Role::Standby, Role::Restoring);
    let (bounded, any, strong) = (ReadOptions::default(), ReadOptions::any(), ReadOptions::strong());
    let all = [(1, holds(active, 0), Alive), (2, holds(standby, 90), Alive), (3, holds(standby, 7_000), Alive)];
    type Case<'a> =
        (&'a str, &'a [(u16, Held, Condition)], &'a ReadOptions, &'a [(u16, &'a str)], Option<u16>, Option<&'a str>);
    let cases: &[Case<'_>] = &[
        ("all is well", &all, &bounded, &[(1, "answers"), (2, "answers"), (3, "too old")], Some(1), None),
        ("any age", &all, &any, &[(1, "answers"), (2, "answers"), (3, "answers")], Some(1), None),
        ("strong", &all, &strong, &[(1, "answers"), (2, "not the active"), (3, "not the active")], Some(1), None),
        (
            "the active is gone",
            &[(1, holds(active, 0), Refused), (2, holds(standby, 90), Alive)],
            &bounded,
            &[(2, "answers"), (1, "gone")],
            Some(2),
            None,
        ),
        (
            "gone, and a strong read",
            &[(1, holds(active, 0), Refused), (2, holds(standby, 90), Alive)],
            &strong,
            &[(1, "gone"), (2, "not the active")],
            None,
            Some("owner_unreachable"),
        ),
        (
            "slow, and the other is too old",
            &[(1, holds(active, 0), Slow), (2, holds(standby, 7_000), Alive)],
            &bounded,
            &[(2, "too old"), (1, "slow")],
            Some(1),
            None,
        ),
        (
            "a new active restores beside an old copy",
            &[(1, holds(restoring, 0), Alive), (2, holds(standby, 7_000), Alive)],
            &bounded,
            &[(2, "too old"), (1, "restoring")],
            None,
            Some("restoring"),
        ),
        (
            "silent, and too old",
            &[(1, holds(active, 0), Silent), (2, holds(standby, 7_000), Alive)],
            &bounded,
            &[(2, "too old"), (1, "silent")],
            None,
            Some("stale"),
        ),
        ("nothing is known yet", &[(1, None, Alive)], &bounded, &[(1, "not heard yet")], Some(1), None),
        ("not opened yet", &[(1, Some(Vec::new()), Alive)], &bounded, &[(1, "restoring")], None, Some("restoring")),
        ("nobody has it", &[], &bounded, &[], None, Some("no_owner")),
    ];
    for (what, peers, options, expected, answers, reason) in cases {
        let route = explain(None, peers, options);
        assert_eq!(whys(&route), *expected, "{what}");
        assert_eq!(route.answers, answers.and_then(at), "{what}");
        assert_eq!(route.error.as_ref().and_then(|error| error.reason), *reason, "{what}: {:?}", route.error);
        assert_eq!((route.here, route.local.is_none()), (Why::NoCopy, true), "{what}");
    }
}

#[test]
fn the_copy_here_has_one_too() {
    let task = TaskId::new(0, holdfast_types::partition_for(b"key", PARTITIONS));
    let owner = [(1, Some(vec![held(task, Role::Active, 0)]), Condition::Alive)];
    let far = ReadOptions { min_position: Some(items(task.partition, 1_000)), ..ReadOptions::any() };
    let me = Some(SELF.to_owned());
    let lag = Consistency::Bounded { max_staleness: Duration::from_secs(5), max_lag: Some(3) };
    let lag = ReadOptions { consistency: lag, ..ReadOptions::default() };
    for (role, options, here, answers) in [
        (Role::Active, ReadOptions::default(), "answers", me.clone()),
        (Role::Active, ReadOptions::strong(), "answers", me.clone()),
        (Role::Active, lag.clone(), "answers", me.clone()),
        (Role::Active, far.clone(), "answers", me.clone()),
        (Role::Standby, ReadOptions::any(), "answers", me),
        // It was never caught up.
        (Role::Standby, ReadOptions::default(), "too old", at(1)),
        (Role::Standby, ReadOptions::strong(), "not the active", at(1)),
        (Role::Standby, far, "before min_position", at(1)),
        (Role::Restoring, ReadOptions::any(), "restoring", at(1)),
    ] {
        let route = explain(Some(role), &owner, &options);
        assert_eq!((route.here.as_str(), &route.answers), (here, &answers), "{role:?} {options:?}");
        assert_eq!(route.would_ask, answers, "{role:?} {options:?}");
        assert!(route.error.is_none() && route.local.is_some());
    }
}

#[test]
fn a_copy_here_that_waits_is_asked_where_the_active_is_slow() {
    let task = TaskId::new(0, holdfast_types::partition_for(b"key", PARTITIONS));
    let far = ReadOptions { min_position: Some(items(task.partition, 1_000)), ..ReadOptions::any() };
    let me = SELF.to_owned();
    for (condition, first) in [(Condition::Alive, at(1).unwrap()), (Condition::Slow, me)] {
        let view = FakeView::new();
        view.open("Words", task, Role::Standby, Vec::new());
        let mut active = peer(1);
        active.active = vec![task];
        let members = vec![active, member(SELF, Vec::new(), vec![task])];
        view.set_cluster(|cluster| cluster.with_assignment(&assignment(members)));
        let active = (1, Some(vec![held(task, Role::Active, 0)]), condition);
        let route = queries(view, &[active]).explain_route("Words", b"key", &far).unwrap();
        assert_eq!(route.here, Why::BeforePosition);
        assert_eq!((route.would_ask, route.answers), (Some(first.clone()), Some(first)));
        assert_eq!(route.others.len(), 1, "the copy here is told of apart");
    }
}
