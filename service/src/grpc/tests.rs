//! gRPC over a real listener, and the same answers as REST.

use std::time::{Duration, Instant};

use holdfast_proto::holdfast::v1::{self as pb, batch_get_result::Outcome, query_service_client::QueryServiceClient};
use holdfast_stream::engine::EngineState;
use holdfast_types::{Role, TaskId, partition_for};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt;

use crate::{
    app::testing::TestServer,
    inventory,
    query::{
        QueryLimits,
        testing::{FakeView, PARTITIONS, SELF, assignment, member},
    },
    rest,
};

async fn start() -> (TestServer, QueryServiceClient<Channel>) {
    let server = TestServer::start().await;
    server.view.fill("Words", 0, [(&b"apple"[..], "{\"n\":1}"), (b"a/b", "2")]);
    let client = QueryServiceClient::new(channel(&server).await);
    (server, client)
}

async fn channel(server: &TestServer) -> Channel {
    Channel::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap()
}

fn text(key: &str) -> Option<pb::Key> {
    Some(pb::Key { form: Some(pb::key::Form::Text(key.to_owned())) })
}

fn get(store: &str, key: &str) -> pb::GetRequest {
    pb::GetRequest { store: store.to_owned(), key: text(key), options: None }
}

/// The status, the code of the one table and its reason.
fn told(status: &Status) -> (Code, String, String) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no details: {status:?}"));
    (status.code(), info.reason.clone(), info.metadata.get("reason").cloned().unwrap_or_default())
}

fn expected(code: Code, name: &str, reason: &str) -> (Code, String, String) {
    (code, name.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn a_row_is_the_same_over_rest() {
    let (server, mut client) = start().await;
    let mut request = tonic::Request::new(get("Words", "apple"));
    request.metadata_mut().insert("x-request-id", "mine".parse().unwrap());
    let answer = client.get(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "mine");
    let pb::GetResponse { row, served } = answer.into_inner();
    let (row, served) = (row.unwrap(), served.unwrap());
    let rest = server.get("/v1/stores/Words/keys/apple").await;
    let body = rest.json();
    assert_eq!(body["key"], row.key);
    assert_eq!(body["value"].to_string(), row.value_json);
    assert_eq!((&row.value_encoded[..], &row.key_encoded[..]), (&b"{\"n\":1}"[..], &b"apple"[..]));
    assert_eq!((body["timestamp_ms"].as_i64(), body["offset"].as_i64()), (Some(row.timestamp_ms), Some(row.offset)));
    assert_eq!(rest.header("holdfast-served-by"), served.served_by);
    assert_eq!(rest.header("holdfast-partition"), served.partition.to_string());
    assert_eq!(served.role(), pb::Role::Active);
    assert_eq!(served.position.unwrap().offsets[0].offset, 41);
    assert!(served.staleness_ms.unwrap() < 5000);

    let encoded = Some(pb::Key { form: Some(pb::key::Form::Encoded(bytes::Bytes::from_static(b"a/b"))) });
    let request = pb::GetRequest { store: "Words".to_owned(), key: encoded, options: None };
    assert_eq!(client.get(request).await.unwrap().into_inner().row.unwrap().key, "a/b");
}

#[tokio::test]
async fn statuses_carry_the_code_of_the_table() {
    let (server, mut client) = start().await;
    let mut refused = async |request: Request<pb::GetRequest>| told(&client.get(request).await.unwrap_err());
    let with =
        |options: pb::ReadOptions| Request::new(pb::GetRequest { options: Some(options), ..get("Words", "apple") });
    assert_eq!(refused(Request::new(get("Words", "x"))).await, expected(Code::NotFound, "NOT_FOUND", ""));
    assert_eq!(refused(Request::new(get("W", "x"))).await, expected(Code::NotFound, "STORE_NOT_FOUND", ""));
    let invalid = |reason| expected(Code::InvalidArgument, "INVALID_ARGUMENT", reason);
    assert_eq!(refused(Request::new(get("Numbers", "seven"))).await, invalid("key"));
    let no_key = pb::GetRequest { key: None, ..get("Words", "") };
    assert_eq!(refused(Request::new(no_key)).await, invalid("parameter"));
    assert_eq!(refused(with(pb::ReadOptions { consistency: 9, ..Default::default() })).await, invalid("parameter"));

    let strong = pb::ReadOptions { consistency: pb::Consistency::Strong.into(), ..Default::default() };
    let late = expected(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "confirmation");
    assert_eq!(refused(with(pb::ReadOptions { timeout_ms: Some(30), ..strong })).await, late);

    let unavailable = |reason| expected(Code::Unavailable, "UNAVAILABLE", reason);
    server.view.set_confirmed(Some(Instant::now() - Duration::from_secs(9)));
    assert_eq!(refused(Request::new(get("Words", "apple"))).await, unavailable("stale"));
    server.view.set_confirmed(Some(Instant::now()));
    let task = TaskId::new(0, partition_for(b"apple", PARTITIONS));
    let members = vec![member("10.0.0.9:80", vec![task], Vec::new())];
    server.view.close("Words", task.partition);
    server.view.set_cluster(|cluster| cluster.with_assignment(&assignment(members)));
    assert_eq!(refused(Request::new(get("Words", "apple"))).await, unavailable("owner_unreachable"));
    let redirect = pb::ReadOptions { routing: pb::Routing::Redirect.into(), ..Default::default() };
    let status = client.get(with(redirect)).await.unwrap_err();
    assert_eq!(told(&status), unavailable("not_here"));
    assert_eq!(status.get_error_details().error_info().unwrap().metadata["owner"], "10.0.0.9:80");
}

#[tokio::test]
async fn a_batch_keeps_the_order() {
    let (server, mut client) = start().await;
    let partition = partition_for(b"apple", PARTITIONS);
    let keys = ["a/b", "apple", "none"].map(|key| text(key).unwrap()).to_vec();
    let request = pb::BatchGetRequest { store: "Words".to_owned(), keys, options: None };
    let results = client.batch_get(request.clone()).await.unwrap().into_inner().results;
    let shown: Vec<String> = results
        .iter()
        .map(|result| match result.outcome.as_ref().unwrap() {
            Outcome::Row(row) => row.key.clone(),
            Outcome::Failure(failure) => failure.code.clone(),
        })
        .collect();
    assert_eq!(shown, ["a/b", "apple", "NOT_FOUND"]);
    assert_eq!(results[1].served.as_ref().unwrap().partition, partition);

    server.view.open("Words", TaskId::new(0, partition), Role::Restoring, Vec::new());
    let results = client.batch_get(request).await.unwrap().into_inner().results;
    let Some(Outcome::Failure(failure)) = &results[1].outcome else { panic!("{results:?}") };
    assert_eq!((failure.code.as_str(), failure.reason.as_str()), ("UNAVAILABLE", "restoring"));
}

#[tokio::test]
async fn a_scan_streams_all_rows_and_resumes() {
    let (server, mut client) = start().await;
    let keys: Vec<String> = (0..2500).map(|n| format!("k{n:04}")).collect();
    server.view.fill("Words", 0, keys.iter().map(|key| (key.as_bytes(), "1")));
    let scan = pb::ScanRequest { store: "Words".to_owned(), ..Default::default() };
    let read = async |client: &mut QueryServiceClient<Channel>, request: pb::ScanRequest| {
        let mut stream = client.scan(request).await.unwrap().into_inner();
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        while let Some(page) = stream.next().await {
            let page = page.unwrap();
            assert_eq!(page.served.len(), PARTITIONS as usize);
            cursor = page.cursor;
            seen.extend(page.rows.into_iter().map(|row| row.key));
        }
        (seen, cursor)
    };
    let (seen, cursor) = read(&mut client, scan.clone()).await;
    assert_eq!((seen, cursor.as_str()), (keys.clone(), ""));
    let (mut seen, cursor) = read(&mut client, pb::ScanRequest { limit: 1234, reverse: true, ..scan.clone() }).await;
    assert_eq!(seen.len(), 1234);
    seen.extend(read(&mut client, pb::ScanRequest { reverse: true, cursor, ..scan.clone() }).await.0);
    seen.reverse();
    assert_eq!(seen, keys);
    let wrong = pb::ScanRequest { cursor: "nonsense".to_owned(), ..scan };
    assert_eq!(told(&client.scan(wrong).await.unwrap_err()).2, "cursor");
}

#[tokio::test]
async fn the_service_describes_itself_as_over_rest() {
    let (server, mut client) = start().await;
    let stores = client.list_stores(pb::ListStoresRequest {}).await.unwrap().into_inner().stores;
    let rest = server.get("/v1/stores").await.json();
    for (ours, theirs) in stores.iter().zip(rest["stores"].as_array().unwrap()) {
        assert_eq!(
            (&theirs["name"], &theirs["key_format"]),
            (&ours.name.clone().into(), &ours.key_format.clone().into())
        );
    }
    let mut request = pb::ExplainRouteRequest { store: "Words".to_owned(), key: text("apple"), options: None };
    let route = client.explain_route(request.clone()).await.unwrap().into_inner();
    let rest = server.get("/v1/route?store=Words&key=apple").await.json();
    assert_eq!((route.active.as_str(), route.would_ask.as_str()), (SELF, SELF));
    assert_eq!((&rest["task"], &rest["active"]), (&route.task.into(), &route.active.into()));
    assert_eq!((route.answers.as_str(), route.here.as_str(), route.error), (SELF, "answers", None));
    request.options = Some(pb::ReadOptions { max_staleness_ms: Some(0), ..Default::default() });
    let refused = client.explain_route(request).await.unwrap().into_inner();
    assert_eq!((refused.answers.as_str(), refused.here.as_str()), ("", "too old"));
    assert_eq!(refused.error.unwrap().reason, "stale");
    let instances = client.describe_instances(pb::DescribeInstancesRequest {}).await.unwrap().into_inner();
    assert_eq!((instances.generation, instances.instances[0].self_), (4, true));
    server.view.set_restoring(TaskId::new(0, 1), 9, Some(Duration::from_secs(2)));
    let tasks = client.describe_tasks(pb::DescribeTasksRequest {}).await.unwrap().into_inner();
    assert_eq!((tasks.state.as_str(), tasks.instance.as_str()), ("restoring", SELF));
    assert_eq!(tasks.tasks[0].restore.as_ref().unwrap().eta_ms, Some(2000));
    let topology = client.describe_topology(pb::DescribeTopologyRequest {}).await.unwrap().into_inner();
    assert_eq!(topology.dot, "digraph {}");
}

#[tokio::test]
async fn what_is_not_served_says_so() {
    let (server, mut client) = start().await;
    let windows = pb::FetchWindowsRequest { store: "Words".to_owned(), ..Default::default() };
    let unimplemented = expected(Code::Unimplemented, "UNIMPLEMENTED", "");
    assert_eq!(told(&client.fetch_windows(windows).await.unwrap_err()), unimplemented);
    let watch = pb::WatchRequest { store: "Words".to_owned(), ..Default::default() };
    assert_eq!(told(&client.watch(watch).await.unwrap_err()), unimplemented);
    // A service that nobody has.
    let mut unknown =
        holdfast_proto::inventory::v1::inventory_service_client::InventoryServiceClient::new(channel(&server).await);
    let request = holdfast_proto::inventory::v1::GetItemRequest::default();
    assert_eq!(unknown.get_item(request).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn health_follows_the_instance() {
    let (server, _) = start().await;
    let mut health = HealthClient::new(channel(&server).await);
    let check = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "holdfast.v1.QueryService"] {
        let status = health.check(check(service)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving);
    }
    assert_eq!(health.check(check("x")).await.unwrap_err().code(), Code::NotFound);
    let mut watch = health.watch(check("")).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.view.set_state(EngineState::Failed("disk".to_owned()));
    assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    server.health.set_draining();
    assert!(watch.next().await.is_none(), "a watch does not hold the drain");
}

/// The services that reflection lists.
async fn reflected(server: &TestServer) -> Vec<String> {
    let mut reflection = ServerReflectionClient::new(channel(server).await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.next().await.unwrap().unwrap().message_response
    else {
        panic!("not a list");
    };
    list.service.into_iter().map(|service| service.name).collect()
}

#[tokio::test]
async fn health_and_reflection_know_the_services_that_are_there() {
    let (query, domain) = ("holdfast.v1.QueryService", "inventory.v1.InventoryService");
    let check = || HealthCheckRequest { service: domain.to_owned() };
    let server = TestServer::start().await;
    let listed = reflected(&server).await;
    for name in [query, "grpc.health.v1.Health"] {
        assert!(listed.iter().any(|known| known == name), "{name} in {listed:?}");
    }
    assert!(!listed.iter().any(|known| known == domain), "{listed:?}");
    let refused = HealthClient::new(channel(&server).await).check(check()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message().contains(query)), (Code::NotFound, true), "{refused}");

    let routes = inventory::routes(FakeView::new().queries_with(QueryLimits::default()));
    let server = TestServer::with(QueryLimits::default(), rest::Limits::default(), routes).await;
    let listed = reflected(&server).await;
    assert!(listed.iter().any(|known| known == domain), "{listed:?}");
    let answer = HealthClient::new(channel(&server).await).check(check()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn calls_are_bounded_and_counted() {
    let (server, mut client) = start().await;
    let held: Vec<_> = (0..8).map(|_| server.admission.enter().unwrap()).collect();
    let status = client.get(get("Words", "apple")).await.unwrap_err();
    assert_eq!(told(&status), expected(Code::ResourceExhausted, "RESOURCE_EXHAUSTED", ""));
    assert!(status.get_error_details().retry_info().is_some());
    let mut health = HealthClient::new(channel(&server).await);
    assert!(health.check(HealthCheckRequest::default()).await.is_ok());
    drop(held);
    client.get(get("Words", "apple")).await.unwrap();
    let text = server.get("/metrics").await.text;
    for code in [0, 8] {
        let line = format!(
            r#"holdfast_requests_total{{protocol="grpc",route="/holdfast.v1.QueryService/Get",code="{code}"}}"#
        );
        assert!(text.contains(&line), "{line} in\n{text}");
    }
}
