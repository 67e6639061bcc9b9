//! In which order instances are asked, and what happens when they do not answer.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use holdfast_types::{MemberAssignment, SystemClock, partition_for};
use metrics_exporter_prometheus::PrometheusBuilder;
use parking_lot::Mutex;

use super::*;
use crate::{
    query::{
        Forward, Forwarded, Outcome, QueryLimits, ScanPart, ScanQuestion, ScanRequest, Served, StoreView,
        describe::TopologyPictures,
        testing::{FakeView, PARTITIONS, SELF, assignment, held, items, known, member, peer},
    },
    telemetry::names,
};

#[test]
fn the_best_copy_is_asked_first() {
    use Condition::{Alive, Refused, Silent, Slow};
    let task = TaskId::new(0, 0);
    let instance = |port: u16| Arc::new(peer(port).instance);
    let route = PartitionRoute {
        task,
        active: Some(instance(1)),
        standbys: vec![instance(2), instance(3)],
        warmups: vec![instance(4)],
    };
    let holds = |role, ms| Some(vec![held(task, role, ms)]);
    let nothing = || Some(Vec::new());
    let (active, standby, restoring) = (Role::Active, Role::Standby, Role::Restoring);
    type Known = Vec<(u16, Option<Vec<HeldTask>>, Condition)>;
    let cases: Vec<(&str, Known, Vec<u16>)> = vec![
        ("nothing is known", vec![], vec![1, 2, 3, 4]),
        (
            "the fresher standby first",
            vec![(1, holds(active, 0), Alive), (2, holds(standby, 90), Alive), (3, holds(standby, 10), Alive)],
            vec![1, 3, 2, 4],
        ),
        ("a slow active after standbys", vec![(1, holds(active, 0), Slow)], vec![2, 3, 4, 1]),
        ("a silent one last", vec![(1, holds(active, 0), Slow), (2, holds(standby, 0), Silent)], vec![3, 4, 1, 2]),
        ("nobody listens there", vec![(1, holds(active, 0), Refused)], vec![2, 3, 4]),
        ("an active that restores after the others", vec![(1, holds(restoring, 0), Alive)], vec![2, 3, 4, 1]),
        ("an active that has not opened yet", vec![(1, nothing(), Alive)], vec![2, 3, 4, 1]),
        (
            "the former active still has it",
            vec![(1, nothing(), Alive), (5, holds(active, 0), Alive)],
            vec![5, 2, 3, 4, 1],
        ),
    ];
    for (what, peers, expected) in cases {
        let view = known(&peers);
        let ports = |found: Vec<Arc<InstanceInfo>>| found.iter().map(|peer| peer.endpoint.port).collect::<Vec<_>>();
        assert_eq!(ports(order(&route, &view, |_| false, false, false)), expected, "{what}");
        let actives: Vec<u16> = expected.into_iter().filter(|port| matches!(port, 1 | 5)).collect();
        assert_eq!(ports(order(&route, &view, |_| false, false, true)), actives, "{what}, strong");
    }
    let slow = || known(&[(1, holds(active, 0), Slow), (2, holds(standby, 10), Alive)]);
    for (what, own, catches_up, view, expected) in [
        ("not oneself", 1, false, known(&[]), vec![2, 3, 4]),
        ("as the active there is nobody to wait for", 1, true, known(&[]), vec![2, 3, 4]),
        ("not a copy that does not help", 3, false, slow(), vec![2, 4, 1]),
        ("a copy here waits, but for an active that answers", 3, true, known(&[]), vec![1, 3, 2, 4]),
        ("before one that does not", 3, true, slow(), vec![3, 2, 4, 1]),
    ] {
        let found = order(&route, &view, |instance| instance.endpoint.port == own, catches_up, false);
        assert_eq!(found.iter().map(|peer| peer.endpoint.port).collect::<Vec<_>>(), expected, "{what}");
    }
}

/// What a peer does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Answer,
    Refuse,
    Hang,
}

/// Peers by port, and who was asked.
#[derive(Debug)]
struct FakePeers {
    does: Vec<(u16, Does)>,
    asked: Mutex<Vec<u16>>,
    slow: AtomicUsize,
    hedge: Option<Duration>,
}

impl Forward for FakePeers {
    fn peers(&self) -> Arc<PeersView> {
        Arc::default()
    }

    fn get<'a>(
        &'a self,
        peer: &'a InstanceInfo,
        store: &'a StoreInfo,
        _: &'a [u8],
        options: ReadOptions,
    ) -> Forwarded<'a, Answer<RowRead>> {
        assert_eq!(options.routing, Routing::Local, "a forward goes no further");
        self.asked.lock().push(peer.endpoint.port);
        let does = self.does.iter().find(|(port, _)| *port == peer.endpoint.port).map(|(_, does)| *does);
        Box::pin(async move {
            match does {
                Some(Does::Answer) => Ok(Answer {
                    value: None,
                    served: Served {
                        by: Arc::new(peer.endpoint.clone()),
                        role: Role::Active,
                        partition: 0,
                        position: Arc::default(),
                        staleness: None,
                    },
                }),
                Some(Does::Refuse) => Err(QueryError::NoOwner { store: store.name.clone(), partition: 0 }),
                _ => std::future::pending().await,
            }
        })
    }

    fn batch<'a>(
        &'a self,
        _: &'a InstanceInfo,
        _: &'a StoreInfo,
        _: Vec<Bytes>,
        _: ReadOptions,
    ) -> Forwarded<'a, Vec<Outcome>> {
        Box::pin(std::future::pending())
    }

    fn scan<'a>(
        &'a self,
        _: &'a InstanceInfo,
        _: &'a StoreInfo,
        _: &'a ScanQuestion,
        _: ReadOptions,
    ) -> Forwarded<'a, ScanPart> {
        Box::pin(std::future::pending())
    }

    fn found_slow(&self, _: ProcessId) {
        self.slow.fetch_add(1, Ordering::Relaxed);
    }

    fn hedge_after(&self) -> Option<Duration> {
        self.hedge
    }
}

/// Queries at `view` beside such peers.
fn beside(view: &Arc<FakeView>, does: &[(u16, Does)], hedge: Option<Duration>) -> (Queries, Arc<FakePeers>) {
    let (asked, slow) = (Mutex::default(), AtomicUsize::new(0));
    let peers = Arc::new(FakePeers { does: does.to_vec(), asked, slow, hedge });
    let queries = Queries::with(
        Arc::clone(view) as Arc<dyn StoreView>,
        Arc::clone(&peers) as Arc<dyn Forward>,
        Arc::new(SystemClock),
        QueryLimits::default(),
        TopologyPictures::default(),
    );
    (queries, peers)
}

/// Asks for a key whose owner is the first of the peers, and whose standbys are the others.
async fn ask(does: &[(u16, Does)], hedge: Option<Duration>) -> (Result<u16, QueryError>, Arc<FakePeers>) {
    let view = FakeView::new();
    (0..PARTITIONS).for_each(|partition| view.close("Words", partition));
    let tasks: Vec<TaskId> = (0..PARTITIONS).map(|partition| TaskId::new(0, partition)).collect();
    let members = does.iter().enumerate().map(|(index, (port, _))| {
        let mut member = peer(*port);
        *(if index == 0 { &mut member.active } else { &mut member.standby }) = tasks.clone();
        member
    });
    let members = members.collect();
    view.set_cluster(|cluster| cluster.with_assignment(&assignment(members)));
    let (queries, peers) = beside(&view, does, hedge);
    let options = ReadOptions { timeout: Some(Duration::from_millis(700)), ..ReadOptions::default() };
    let answer = queries.get("Words", b"key", &options).await;
    (answer.map(|answer| answer.served.by.port), peers)
}

#[tokio::test]
async fn the_next_one_is_asked_when_one_refuses_or_is_slow() {
    use Does::{Answer, Hang, Refuse};
    for (does, answered, asked, slow) in [
        (vec![(1, Answer), (2, Answer)], 1, vec![1], 0),
        (vec![(1, Refuse), (2, Answer)], 2, vec![1, 2], 0),
        (vec![(1, Hang), (2, Answer)], 2, vec![1, 2], 1),
        (vec![(1, Hang), (2, Refuse), (3, Answer)], 3, vec![1, 2, 3], 1),
        (vec![(1, Hang), (2, Hang), (3, Answer)], 3, vec![1, 2, 3], 2),
    ] {
        let (outcome, peers) = ask(&does, None).await;
        assert_eq!(outcome.unwrap(), answered, "{does:?}");
        assert_eq!(*peers.asked.lock(), asked, "{does:?}");
        assert_eq!(peers.slow.load(Ordering::Relaxed), slow, "{does:?}");
    }
}

/// The further calls that were counted, hedges and retries, and how many peers were found slow.
async fn cost(does: &[(u16, Does)], hedge_ms: Option<u64>) -> ((u64, u64), usize) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let recording = metrics::set_default_local_recorder(&recorder);
    let (_, peers) = ask(does, hedge_ms.map(Duration::from_millis)).await;
    drop(recording);
    let text = recorder.handle().render();
    let count = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    };
    ((count(names::FORWARD_HEDGES), count(names::FORWARD_RETRIES)), peers.slow.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_hedge_is_a_call_that_goes_out_and_no_retry() {
    use Does::{Answer, Hang, Refuse};
    assert_eq!(cost(&[(1, Hang), (2, Answer)], Some(1)).await.0, (1, 0));
    assert_eq!(cost(&[(1, Hang), (2, Refuse), (3, Answer)], Some(1)).await.0, (1, 1));
    assert_eq!(cost(&[(1, Hang)], Some(1)).await, ((0, 0), 1), "there is no other to ask");
    assert_eq!(cost(&[(1, Hang), (2, Hang), (3, Hang)], Some(1)).await, ((2, 0), 3), "slow, hedged or not");
    for slow_first in [None, Some(100)] {
        assert_eq!(cost(&[(1, Hang), (2, Answer)], slow_first).await, ((0, 1), 1), "{slow_first:?}");
    }
}

#[test]
fn a_replica_that_the_budget_denies_may_be_asked_later() {
    let queries = FakeView::new().queries_with(QueryLimits::default());
    let cluster = queries.inner.view.cluster();
    let peers = [Arc::new(member(SELF, Vec::new(), Vec::new()).instance), Arc::new(peer(1).instance)];
    let mut rest = peers.iter().peekable();
    while queries.inner.budget.withdraw() {}
    let mut another = || queries.another(&cluster, &mut rest, names::FORWARD_RETRIES).map(|peer| peer.endpoint.port);
    assert_eq!(another(), Some(7070), "the copy here is no further call");
    assert_eq!(another(), None);
    (0..6).for_each(|_| queries.inner.budget.deposit());
    assert_eq!(another(), Some(1));
}

/// A read by each way at an instance whose copy is not at offset 50 yet, and whose only peer, the active, hangs.
#[tokio::test]
async fn a_copy_here_that_is_behind_a_position_answers_when_the_active_does_not() {
    let tasks: Vec<TaskId> = (0..PARTITIONS).map(|partition| TaskId::new(0, partition)).collect();
    let partition = partition_for(b"key", PARTITIONS);
    let mut bound = Position::new();
    (0..PARTITIONS).for_each(|partition| bound.merge(&items(partition, 50)));
    let timeout = Some(Duration::from_secs(20));
    let options = ReadOptions { timeout, min_position: Some(bound), ..ReadOptions::any() };
    for way in ["get", "batch", "scan"] {
        let view = FakeView::new();
        tasks.iter().for_each(|task| view.open("Words", *task, Role::Standby, Vec::new()));
        let active = MemberAssignment { active: tasks.clone(), ..peer(1) };
        let members = vec![active, member(SELF, Vec::new(), tasks.clone())];
        view.set_cluster(|cluster| cluster.with_assignment(&assignment(members)));
        let (queries, peers) = beside(&view, &[(1, Does::Hang)], None);
        let read = async {
            match way {
                "get" => queries.get("Words", b"key", &options).await.map(|answer| answer.served),
                "batch" => {
                    let mut outcomes = queries.batch_get("Words", vec![Ok(Bytes::from("key"))], &options).await?;
                    outcomes.remove(0).map(|answer| answer.served)
                }
                _ => {
                    let page = queries.scan("Words", &ScanRequest::default(), &options).await?;
                    assert_eq!(page.served.len(), tasks.len());
                    Ok(page.served.into_iter().find(|served| served.partition == partition).unwrap())
                }
            }
        };
        let follow = async {
            // Only the active was asked; it is found slow before the copy here is.
            while peers.slow.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            (0..PARTITIONS).for_each(|partition| view.reach("Words", partition, 50));
        };
        let (served, ()) = tokio::join!(read, follow);
        let served = served.unwrap();
        assert_eq!((served.by.to_string(), served.role), (SELF.to_owned(), Role::Standby), "{way}");
        assert_eq!(*served.position, items(partition, 50), "{way}");
        assert_eq!(peers.slow.load(Ordering::Relaxed), 1, "{way}: the copy here is not slow");
        let redirect = ReadOptions { routing: Routing::Redirect, ..options.clone() };
        (0..PARTITIONS).for_each(|partition| view.reach("Words", partition, 49));
        match queries.get("Words", b"key", &redirect).await {
            Err(QueryError::NotHere { owner, .. }) => assert_eq!(owner.port, 1, "nobody is sent to where it asked"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn without_an_answer_there_is_a_reason() {
    // One that may be asked again soon is, and then the reason stands.
    let (outcome, peers) = ask(&[(1, Does::Refuse), (2, Does::Refuse)], None).await;
    assert!(matches!(outcome, Err(QueryError::NoOwner { .. })), "{outcome:?}");
    assert!(peers.asked.lock().len() > 2);
    let (outcome, peers) = ask(&[(1, Does::Hang)], None).await;
    assert!(matches!(outcome, Err(QueryError::Deadline { .. })), "{outcome:?}");
    assert_eq!(*peers.asked.lock(), [1]);
}
