//! Questions between two instances over a real connection.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Router, routing::any};
use bytes::Bytes;
use holdfast_discovery::peers::{HeldTask, PeerReport, interval};
use holdfast_types::{Endpoint, InstanceInfo, MemberAssignment, Position, Role, SystemClock, TaskId, partition_for};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Exchange, PeerClient, Reporter, Token, convert, router};
use crate::{
    app::{
        server::{Front, Server, bind},
        workers::Workers,
    },
    query::{
        Consistency, Forward, Queries, QueryError, QueryLimits, ReadOptions, Routing, ScanRequest, StoreView,
        admission::Admission,
        describe::TopologyPictures,
        testing::{FakeView, PARTITIONS, SELF, assignment, member},
    },
};

const TOKEN: &str = "only-for-instances";

/// An instance that holds every partition, and serves its peers.
struct Holder {
    view: Arc<FakeView>,
    member: MemberAssignment,
    server: Server,
}

impl Holder {
    async fn start(number: u16) -> Self {
        let listener = bind("peer_listen", &Endpoint::new("127.0.0.1", 0)).await.unwrap();
        Self::start_on(listener, number, |grpc| grpc).await
    }

    async fn start_on(listener: TcpListener, number: u16, change: impl FnOnce(Router) -> Router) -> Self {
        let view = FakeView::new();
        let queries = view.queries();
        let port = listener.local_addr().unwrap().port();
        let mut member = member(&format!("10.0.0.9:{number}"), Vec::new(), Vec::new());
        member.instance.peer_endpoint = Endpoint::new("127.0.0.1", port);
        let reporter = Reporter::new("shop".to_owned(), member.instance.clone(), queries.clone());
        let token = Token::new(Some(TOKEN)).unwrap();
        let closing = CancellationToken::new();
        let inbox = Exchange::new().inbox();
        let grpc = router(queries, token, Admission::new(8), reporter, inbox, closing.clone());
        let front = Front { rest: Router::new(), grpc: Some(change(grpc)), closing };
        let server = Server::start(listener, front, 64, Workers::start(2).unwrap()).unwrap();
        Self { view, member, server }
    }
}

/// An instance that holds nothing, and asks others.
struct Asker {
    view: Arc<FakeView>,
    queries: Queries,
}

impl Asker {
    fn new(token: &str, members: Vec<MemberAssignment>) -> Self {
        let view = FakeView::new();
        for partition in 0..PARTITIONS {
            view.close("Words", partition);
        }
        view.set_cluster(|cluster| cluster.with_assignment(&assignment(members)));
        let token = Token::new(Some(token)).unwrap();
        let client = PeerClient::new(token, Arc::clone(&view) as Arc<dyn StoreView>, None);
        let queries = Queries::with(
            Arc::clone(&view) as Arc<dyn StoreView>,
            client as Arc<dyn Forward>,
            Arc::new(SystemClock),
            QueryLimits::default(),
            TopologyPictures::default(),
        );
        Self { view, queries }
    }
}

fn tasks() -> Vec<TaskId> {
    (0..PARTITIONS).map(|partition| TaskId::new(0, partition)).collect()
}

fn rows() -> BTreeMap<Vec<u8>, String> {
    (0..200_u32).map(|n| (format!("key-{n:03}").into_bytes(), format!("{n}"))).collect()
}

fn fill(view: &FakeView, rows: &BTreeMap<Vec<u8>, String>) {
    view.fill("Words", 0, rows.iter().map(|(key, value)| (key.as_slice(), value.as_str())));
}

/// Nobody listens there.
fn gone(number: u16, active: Vec<TaskId>) -> MemberAssignment {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut member = member(&format!("10.0.0.8:{number}"), active, Vec::new());
    member.instance.peer_endpoint = Endpoint::new("127.0.0.1", listener.local_addr().unwrap().port());
    member
}

async fn check_all(asker: &Asker, rows: &BTreeMap<Vec<u8>, String>, by: &InstanceInfo, options: &ReadOptions) {
    for (key, value) in rows {
        let answer = asker.queries.get("Words", key, options).await.unwrap();
        assert_eq!(answer.value.unwrap().value, value.as_bytes());
        assert_eq!(*answer.served.by, by.endpoint);
        assert_eq!(answer.served.partition, partition_for(key, PARTITIONS));
        assert!(!answer.served.position.is_empty());
    }
    assert!(asker.queries.get("Words", b"nobody", options).await.unwrap().value.is_none());
    let keys = rows.keys().map(|key| Ok(Bytes::copy_from_slice(key))).collect();
    let outcomes = asker.queries.batch_get("Words", keys, options).await.unwrap();
    for (outcome, value) in outcomes.into_iter().zip(rows.values()) {
        assert_eq!(outcome.unwrap().value.unwrap().value, value.as_bytes());
    }
    let mut request = ScanRequest { limit: Some(7), ..ScanRequest::default() };
    let mut seen = Vec::new();
    loop {
        let page = asker.queries.scan("Words", &request, options).await.unwrap();
        assert_eq!(page.served.len(), PARTITIONS as usize);
        seen.extend(
            page.rows.into_iter().map(|(key, row)| (key.to_vec(), String::from_utf8(row.value.to_vec()).unwrap())),
        );
        request.cursor = page.cursor;
        if request.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, rows.clone().into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn whoever_holds_the_rows_is_asked() {
    let rows = rows();
    let mut holder = Holder::start(1).await;
    fill(&holder.view, &rows);
    holder.member.active = tasks();
    let asker = Asker::new(TOKEN, vec![holder.member.clone()]);
    check_all(&asker, &rows, &holder.member.instance, &ReadOptions::default()).await;

    // Options travel, and so do refusals.
    holder.view.confirm_on_request();
    let strong = ReadOptions { timeout: Some(Duration::from_secs(5)), ..ReadOptions::strong() };
    assert!(asker.queries.get("Words", b"key-001", &strong).await.unwrap().value.is_some());
    holder.view.set_confirmed(None);
    let error = asker.queries.get("Words", b"key-001", &ReadOptions::default()).await.unwrap_err();
    assert_eq!(error.failure().reason.unwrap().as_str(), "stale", "{error}");
    let local = ReadOptions { routing: Routing::Local, ..ReadOptions::any() };
    let error = asker.queries.get("Words", b"key-001", &local).await.unwrap_err();
    assert!(matches!(error, QueryError::NotMine { .. }), "{error}");
}

#[tokio::test]
async fn half_of_the_partitions_here_and_half_there_are_one_table() {
    let rows = rows();
    let mut holder = Holder::start(2).await;
    fill(&holder.view, &rows);
    let mut own = member(SELF, Vec::new(), Vec::new());
    (own.active, holder.member.active) = (tasks()[..1].to_vec(), tasks()[1..].to_vec());
    let asker = Asker::new(TOKEN, vec![own, holder.member.clone()]);
    fill(&asker.view, &rows);
    (1..PARTITIONS).for_each(|partition| asker.view.close("Words", partition));
    let request = ScanRequest { limit: Some(1000), ..ScanRequest::default() };
    let page = asker.queries.scan("Words", &request, &ReadOptions::default()).await.unwrap();
    let seen: Vec<Vec<u8>> = page.rows.iter().map(|(key, _)| key.to_vec()).collect();
    assert_eq!(seen, rows.keys().cloned().collect::<Vec<_>>());
    let by: Vec<String> = page.served.iter().map(|served| served.by.to_string()).collect();
    assert_eq!(by, [SELF, "10.0.0.9:2", "10.0.0.9:2"]);
}

#[tokio::test]
async fn the_next_replica_answers_when_the_owner_is_gone() {
    let rows = rows();
    let mut holder = Holder::start(3).await;
    fill(&holder.view, &rows);
    holder.member.standby = tasks();
    let owner = gone(4, tasks());
    let asker = Asker::new(TOKEN, vec![owner.clone(), holder.member.clone()]);
    check_all(&asker, &rows, &holder.member.instance, &ReadOptions::default()).await;

    // Nobody but the owner may answer this.
    let strong = ReadOptions { timeout: Some(Duration::from_millis(50)), ..ReadOptions::strong() };
    let error = asker.queries.get("Words", b"key-001", &strong).await.unwrap_err();
    assert!(
        matches!(&error, QueryError::OwnerUnreachable { owner: at, .. } if *at == owner.instance.endpoint),
        "{error}"
    );
    let redirect = ReadOptions { routing: Routing::Redirect, ..ReadOptions::default() };
    assert!(matches!(asker.queries.get("Words", b"key-001", &redirect).await, Err(QueryError::NotHere { .. })));
}

#[tokio::test]
async fn a_copy_that_restores_here_is_gone_around() {
    let rows = rows();
    let mut holder = Holder::start(5).await;
    fill(&holder.view, &rows);
    holder.member.standby = tasks();
    let own = member(SELF, tasks(), Vec::new());
    let asker = Asker::new(TOKEN, vec![own, holder.member.clone()]);
    for task in tasks() {
        asker.view.open("Words", task, Role::Restoring, Vec::new());
        asker.view.set_restoring(task, 500, Some(Duration::from_secs(60)));
    }
    check_all(&asker, &rows, &holder.member.instance, &ReadOptions::default()).await;
    // Without the other one, the reason is the copy's own.
    let alone = Asker::new("another-token", vec![member(SELF, tasks(), Vec::new()), holder.member.clone()]);
    for task in tasks() {
        alone.view.open("Words", task, Role::Restoring, Vec::new());
        alone.view.set_restoring(task, 500, Some(Duration::from_secs(60)));
    }
    let error = alone.queries.get("Words", b"key-001", &ReadOptions::default()).await.unwrap_err();
    assert!(matches!(error, QueryError::Restoring { .. }), "{error}");
}

#[tokio::test]
async fn another_token_is_said() {
    let mut holder = Holder::start(6).await;
    holder.member.active = tasks();
    let asker = Asker::new("another-token", vec![holder.member.clone()]);
    let options = ReadOptions { consistency: Consistency::Any, ..ReadOptions::default() };
    let error = asker.queries.get("Words", b"key-001", &options).await.unwrap_err();
    assert!(error.to_string().contains("peer_token"), "{error}");
}

#[tokio::test]
async fn look_ups_that_go_together_are_answered_each_by_itself() {
    let rows = rows();
    let mut holder = Holder::start(7).await;
    fill(&holder.view, &rows);
    holder.member.active = tasks();
    let asker = Asker::new(TOKEN, vec![holder.member.clone()]);
    let ask = |key: Vec<u8>, options: ReadOptions| {
        let queries = asker.queries.clone();
        async move { queries.get("Words", &key, &options).await }
    };
    for round in 0..3 {
        // One in seven is there in no row, one in five is patient, one in three does not mind how old.
        let calls = rows.keys().enumerate().map(|(number, key)| {
            let key = if number % 7 == 0 { [key.as_slice(), b"?"].concat() } else { key.clone() };
            let mut options = if number % 3 == 0 { ReadOptions::any() } else { ReadOptions::default() };
            options.timeout = (number % 5 == 0).then_some(Duration::from_secs(30));
            ask(key, options)
        });
        let answers = futures::future::join_all(calls).await;
        for (number, (answer, value)) in answers.into_iter().zip(rows.values()).enumerate() {
            let row = answer.unwrap().value.map(|row| row.value);
            let expected = (number % 7 != 0).then(|| value.as_bytes().to_vec());
            assert_eq!(row.map(|row| row.to_vec()), expected, "{number} in round {round}");
        }
        // Those who gave up on the way hold nobody up.
        let hasty = ReadOptions { timeout: Some(Duration::from_millis(1)), ..ReadOptions::default() };
        let given_up = futures::future::join_all(rows.keys().map(|key| ask(key.clone(), hasty.clone()))).await;
        assert_eq!(given_up.len(), rows.len());
    }
    // What is wrong with one is not wrong with the others.
    holder.view.set_confirmed(None);
    let calls = rows.keys().enumerate().map(|(number, key)| {
        ask(key.clone(), if number % 2 == 0 { ReadOptions::any() } else { ReadOptions::default() })
    });
    for (number, answer) in futures::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(answer.is_ok(), number % 2 == 0, "{number}: {answer:?}");
    }
}

#[tokio::test]
async fn the_line_ends_with_a_drain_and_is_opened_again() {
    let rows = rows();
    let mut holder = Holder::start(8).await;
    fill(&holder.view, &rows);
    holder.member.active = tasks();
    let asker = Asker::new(TOKEN, vec![holder.member.clone()]);
    let options = ReadOptions::default();
    for _ in 0..2 {
        check_all(&asker, &rows, &holder.member.instance, &options).await;
        // It would never end by itself.
        assert!(holder.server.drain(Duration::from_secs(60)).await);
        let hasty = ReadOptions { timeout: Some(Duration::from_millis(50)), ..ReadOptions::default() };
        let error = asker.queries.get("Words", b"key-001", &hasty).await.unwrap_err();
        assert!(matches!(error, QueryError::OwnerUnreachable { .. }), "{error}");
        let listener = bind("peer_listen", &holder.member.instance.peer_endpoint).await.unwrap();
        let member = holder.member;
        holder = Holder { member, ..Holder::start_on(listener, 8, |grpc| grpc).await };
        fill(&holder.view, &rows);
    }
    check_all(&asker, &rows, &holder.member.instance, &options).await;
}

#[tokio::test]
async fn a_peer_of_a_build_without_the_line_is_asked_one_by_one() {
    let rows = rows();
    let listener = bind("peer_listen", &Endpoint::new("127.0.0.1", 0)).await.unwrap();
    let without = |grpc: Router| {
        let unknown = || async { Status::unimplemented("").into_http::<axum::body::Body>() };
        Router::new().route("/holdfast.v1.PeerService/LookUp", any(unknown)).fallback_service(grpc)
    };
    let mut holder = Holder::start_on(listener, 9, without).await;
    fill(&holder.view, &rows);
    holder.member.active = tasks();
    let asker = Asker::new(TOKEN, vec![holder.member.clone()]);
    check_all(&asker, &rows, &holder.member.instance, &ReadOptions::default()).await;
}

/// Bytes of reports that each of `members` sends per second, asking and answering, with so many copies each.
fn report_bytes_per_s(members: usize, copies: usize) -> f64 {
    let instance = member("10.0.0.1:7070", Vec::new(), Vec::new()).instance;
    let topic: Arc<str> = "items".into();
    let held = |number: usize| {
        let (partition, active) = (i32::try_from(number).unwrap(), number.is_multiple_of(2));
        let mut position = Position::new();
        position.advance(&topic, partition, 1_000_000_000);
        HeldTask {
            id: TaskId::new(0, partition),
            role: if active { Role::Active } else { Role::Standby },
            lag_records: Some(100),
            staleness: Some(Duration::from_millis(100)),
            position,
            changelog: if active { vec![1_000_000_000] } else { Vec::new() },
        }
    };
    let report = PeerReport {
        process_id: instance.process_id,
        incarnation: u64::MAX,
        member_id: Some(format!("{}-{}", instance.process_id, instance.process_id).into()),
        generation: 100,
        leaving: false,
        transactional_ids: (0..4).map(|thread| format!("inventory-{}-{thread}", instance.process_id)).collect(),
        tasks: (0..copies).map(held).collect(),
        opinions: Vec::new(),
        evicted: Vec::new(),
    };
    let bytes = convert::report_to(&report, "inventory", [&instance.endpoint, &instance.peer_endpoint]).encoded_len();
    let questions_per_s = (members - 1) as f64 / interval(members).as_secs_f64();
    // Whoever is asked by each of the others answers with a report, too.
    2.0 * questions_per_s * bytes as f64
}

#[test]
#[allow(clippy::print_stdout, reason = "the curve is to be read with --nocapture")]
fn instances_tell_each_other_no_more_per_second_in_large_groups() {
    const TASKS: usize = 5_000;
    println!("members   KiB/s of reports that each sends: 5,000 tasks in all   50 tasks each; one standby");
    for members in [3, 10, 25, 50, 75, 100] {
        let (all, each) = (report_bytes_per_s(members, 2 * TASKS / members), report_bytes_per_s(members, 2 * 50));
        println!("{members:7} {:50.0} {:16.0}", all / 1024.0, each / 1024.0);
    }
    // The same work, by more instances.
    assert!(report_bytes_per_s(100, 2 * TASKS / 100) < report_bytes_per_s(10, 2 * TASKS / 10));
    // More work, by more instances: questions become rarer as there are more to be asked.
    assert!(report_bytes_per_s(100, 100) < 1.1 * report_bytes_per_s(25, 100));
}
