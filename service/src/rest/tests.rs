//! Every route's successes and failures, over a real listener.

use std::time::{Duration, Instant};

use holdfast_stream::engine::EngineState;
use holdfast_types::{Assignment, Role, TaskId, partition_for};
use serde_json::json;

use crate::{
    app::testing::{TestServer, send},
    query::{
        QueryLimits,
        testing::{PARTITIONS, SELF, assignment, member},
    },
    rest,
};

fn problem(status: u16, code: &str, reason: &str) -> (u16, String, String) {
    (status, code.to_owned(), reason.to_owned())
}

async fn words() -> TestServer {
    let server = TestServer::start().await;
    server.view.fill("Words", 0, [(&b"apple"[..], "{\"n\":1}"), (b"a/b", "2"), (b"", "0"), (b"bad", "broken")]);
    server
}

#[tokio::test]
async fn a_row_comes_with_who_served_it() {
    let server = words().await;
    let answer = server.get("/v1/stores/Words/keys/apple").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        answer.json(),
        json!({"store": "Words", "key": "apple", "value": {"n": 1}, "timestamp_ms": 1000, "offset": 0})
    );
    let partition = partition_for(b"apple", PARTITIONS);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("holdfast-served-by"), SELF);
    assert_eq!(answer.header("holdfast-role"), "active");
    assert_eq!(answer.header("holdfast-partition"), partition.to_string());
    assert_eq!(answer.header("holdfast-position"), format!("items-{partition}:41"));
    assert!(answer.header("holdfast-staleness-ms").parse::<u64>().unwrap() < 5000);
    // Nobody sent one, and no log line has one.
    assert_eq!(answer.header("x-request-id"), "");
}

#[tokio::test]
async fn keys_go_through_the_key_format() {
    let server = words().await;
    server.view.fill("Numbers", 1, [(&(-7_i64).to_be_bytes()[..], "1")]);
    for (path, status) in [
        ("/v1/stores/Words/keys/a%2Fb", 200),
        ("/v1/stores/Words/keys/%61pple", 200),
        ("/v1/stores/Words/keys/", 200),
        ("/v1/stores/Words/keys/Apple", 404),
        ("/v1/stores/Words/keys/%ff", 400),
        ("/v1/stores/Words/keys/a%2", 400),
        ("/v1/stores/Numbers/keys/-7", 200),
        ("/v1/stores/Numbers/keys/%2D7", 200),
        ("/v1/stores/Numbers/keys/8", 404),
        ("/v1/stores/Numbers/keys/seven", 400),
        ("/v1/stores/Numbers/keys/99999999999999999999", 400),
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        if status == 400 {
            assert_eq!(answer.problem(), problem(400, "INVALID_ARGUMENT", "key"), "{path}");
        }
    }
    let long = format!("/v1/stores/Words/keys/{}", "x".repeat(17 * 1024));
    assert_eq!(server.get(&long).await.problem(), problem(413, "PAYLOAD_TOO_LARGE", ""));
}

#[tokio::test]
async fn missing_things_are_told_apart() {
    let server = words().await;
    let answer = server.get("/v1/stores/Words/keys/nobody").await;
    assert_eq!(answer.problem(), problem(404, "NOT_FOUND", ""));
    assert_eq!(answer.json()["key"], "nobody");
    assert_eq!(answer.header("holdfast-served-by"), SELF, "a copy says that it is not there");
    let answer = server.get("/v1/stores/Wrods/keys/apple").await;
    assert_eq!(answer.problem(), problem(404, "STORE_NOT_FOUND", ""));
    assert!(answer.text.contains("Words"), "names what there is");
    assert_eq!(server.get("/v2/stores").await.problem(), problem(404, "PATH_NOT_FOUND", ""));
    let answer = server.post("/v1/stores", "").await;
    assert_eq!(answer.problem(), problem(405, "METHOD_NOT_ALLOWED", ""));
    assert_eq!(answer.header("allow"), "GET,HEAD");
    assert_eq!(server.get("/v1/stores/Words/keys/bad").await.problem(), problem(500, "INTERNAL", ""));
}

#[tokio::test]
async fn nobody_can_answer_says_why() {
    let server = words().await;
    let partition = partition_for(b"apple", PARTITIONS);
    let task = TaskId::new(0, partition);
    let path = "/v1/stores/Words/keys/apple";

    server.view.set_confirmed(Some(Instant::now() - Duration::from_secs(9)));
    assert_eq!(server.get(path).await.problem(), problem(503, "UNAVAILABLE", "stale"));
    assert_eq!(server.get(&format!("{path}?max_staleness=60s")).await.status, 200);
    let any = server.get(&format!("{path}?consistency=any")).await;
    assert!(any.header("holdfast-staleness-ms").parse::<u64>().unwrap() >= 9000);
    server.view.set_confirmed(Some(Instant::now()));

    server.view.open("Words", task, Role::Restoring, Vec::new());
    server.view.set_restoring(task, 500, Some(Duration::from_millis(2500)));
    for consistency in ["any", "bounded", "strong"] {
        let answer = server.get(&format!("{path}?consistency={consistency}")).await;
        assert_eq!(answer.problem(), problem(503, "UNAVAILABLE", "restoring"));
        assert_eq!(answer.header("retry-after"), "3");
        assert_eq!(answer.json()["eta_ms"], 2500);
        assert_eq!(answer.json()["task"], task.to_string());
        assert_eq!(answer.json()["remaining_records"], 500);
    }

    server.view.close("Words", partition);
    assert_eq!(server.get(path).await.problem(), problem(503, "UNAVAILABLE", "restoring"), "assigned, not opened");

    server.view.set_cluster(|cluster| cluster.with_assignment(&assignment(Vec::new())));
    assert_eq!(server.get(path).await.problem(), problem(503, "UNAVAILABLE", "no_owner"));

    let other = vec![member("10.0.0.9:80", vec![task], Vec::new())];
    server.view.set_cluster(|cluster| cluster.with_assignment(&assignment(other)));
    let answer = server.get(path).await;
    assert_eq!(answer.problem(), problem(503, "UNAVAILABLE", "owner_unreachable"));
    assert_eq!(answer.json()["owner"], "10.0.0.9:80");
    let answer = server.get(&format!("{path}?routing=redirect&timeout=1s")).await;
    assert_eq!(answer.problem(), problem(307, "UNAVAILABLE", "not_here"));
    assert_eq!(answer.header("location"), format!("http://10.0.0.9:80{path}?routing=redirect&timeout=1s"));

    let unknown = Assignment { generation: -1, ..assignment(Vec::new()) };
    server.view.set_cluster(|cluster| cluster.with_assignment(&unknown));
    assert_eq!(server.get(path).await.problem(), problem(503, "UNAVAILABLE", "not_ready"));
}

#[tokio::test]
async fn strong_reads_and_positions_wait() {
    let server = words().await;
    let path = "/v1/stores/Words/keys/apple";
    let answer = server.get(&format!("{path}?consistency=strong&timeout=50")).await;
    assert_eq!(answer.problem(), problem(504, "DEADLINE_EXCEEDED", "confirmation"));
    server.view.confirm_on_request();
    assert_eq!(server.get(&format!("{path}?consistency=strong")).await.status, 200);

    let partition = partition_for(b"apple", PARTITIONS);
    let position = |offset| format!("{path}?min_position=items-{partition}:{offset}&timeout=50ms");
    assert_eq!(server.get(&position(41)).await.status, 200);
    assert_eq!(server.get(&position(42)).await.problem(), problem(504, "DEADLINE_EXCEEDED", "position"));
    let foreign = format!("{path}?min_position=elsewhere-{partition}:1");
    assert_eq!(server.get(&foreign).await.problem(), problem(501, "UNIMPLEMENTED", ""));

    // The same options as headers.
    for (name, value, status) in [
        ("Holdfast-Consistency", "nonsense", 400),
        ("holdfast-max-staleness", "0", 503),
        ("Holdfast-Served-By", "an answer's header", 200),
    ] {
        assert_eq!(server.get_with(path, &[(name, value)]).await.status, status, "{name}");
    }
}

#[tokio::test]
async fn a_batch_keeps_the_order_and_each_key_its_outcome() {
    let server = words().await;
    let restoring = (partition_for(b"apple", PARTITIONS) + 1) % PARTITIONS;
    let elsewhere = (0..100).map(|n| format!("k{n}")).find(|k| partition_for(k.as_bytes(), PARTITIONS) == restoring);
    let elsewhere = elsewhere.unwrap();
    server.view.open("Words", TaskId::new(0, restoring), Role::Restoring, Vec::new());
    let body = json!({"keys": ["apple", elsewhere, "apple", "apple2"]}).to_string();
    let answer = server.post("/v1/stores/Words/keys:batch", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    let results = body["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    for index in [0, 2] {
        assert_eq!(results[index]["code"], "OK");
        assert_eq!(results[index]["value"], json!({"n": 1}));
        assert_eq!(results[index]["served"]["by"], SELF);
    }
    assert_eq!(results[1]["key"], *elsewhere);
    assert_eq!((&results[1]["code"], &results[1]["reason"]), (&json!("UNAVAILABLE"), &json!("restoring")));

    let answer = server.post("/v1/stores/Numbers/keys:batch", r#"{"keys": [5, "6", "x", 1.5]}"#).await.json();
    let codes: Vec<_> = answer["results"].as_array().unwrap().iter().map(|result| result["code"].clone()).collect();
    assert_eq!(codes, ["NOT_FOUND", "NOT_FOUND", "INVALID_ARGUMENT", "INVALID_ARGUMENT"]);
}

#[tokio::test]
async fn wrong_batches_are_refused() {
    let limits = QueryLimits { max_batch_keys: 2, ..QueryLimits::default() };
    let server = TestServer::with(limits, rest::Limits { max_body_bytes: 64 }, axum::Router::new()).await;
    let path = "/v1/stores/Words/keys:batch";
    for body in ["", "[]", "{}", r#"{"keys": 1}"#, r#"{"keys": [null]}"#, r#"{"keys": [], "x": 1}"#] {
        assert_eq!(server.post(path, body).await.problem(), problem(400, "INVALID_ARGUMENT", "body"), "{body}");
    }
    assert_eq!(server.post(path, r#"{"keys": []}"#).await.status, 200);
    let many = r#"{"keys": ["a","b","c"]}"#;
    assert_eq!(server.post(path, many).await.problem(), problem(413, "PAYLOAD_TOO_LARGE", ""));
    let long = format!(r#"{{"keys": ["{}"]}}"#, "x".repeat(64));
    assert_eq!(server.post(path, &long).await.problem(), problem(413, "PAYLOAD_TOO_LARGE", ""));
    // Without a length, the bound is found while reading.
    let streamed = server.post_chunked(path, &["0123456789"; 10]).await;
    assert_eq!(streamed.problem(), problem(413, "PAYLOAD_TOO_LARGE", ""));
}

#[tokio::test]
async fn who_writes_a_body_that_is_too_large_hears_so() {
    let limits = rest::Limits { max_body_bytes: 64 * 1024 };
    let server = TestServer::with(QueryLimits::default(), limits, axum::Router::new()).await;
    let path = "/v1/stores/Words/keys:batch";
    let too_large = problem(413, "PAYLOAD_TOO_LARGE", "");
    // More than sockets buffer.
    let chunk = "x".repeat(64 * 1024);
    assert_eq!(server.post(path, &chunk.repeat(12)).await.problem(), too_large);
    assert_eq!(server.post_chunked(path, &[&*chunk; 12]).await.problem(), too_large);
    // Who asks before it writes, or says that it has much more, hears it at once.
    for (length, expect) in [(65 * 1024, "expect: 100-continue\r\n"), (1 << 30, "")] {
        let head = format!("POST {path} HTTP/1.1\r\ncontent-length: {length}\r\n{expect}");
        assert_eq!(send(server.address, head, &[]).await.unwrap().problem(), too_large, "{length}");
    }
}

#[tokio::test]
async fn a_scan_pages_through_all_partitions() {
    let server = TestServer::start().await;
    let keys: Vec<String> = (0..100).map(|n| format!("k{n:03}")).collect();
    server.view.fill("Words", 0, keys.iter().map(|key| (key.as_bytes(), "1")));
    for reverse in [false, true] {
        let mut seen: Vec<String> = Vec::new();
        let mut path = format!("/v1/stores/Words/keys?limit=7&reverse={reverse}");
        loop {
            let answer = server.get(&path).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert_eq!(answer.header("holdfast-partition"), "0,1,2");
            let body = answer.json();
            seen.extend(body["rows"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()));
            let Some(cursor) = body["cursor"].as_str() else { break };
            path = format!("/v1/stores/Words/keys?limit=7&reverse={reverse}&cursor={cursor}");
        }
        let mut expected = keys.clone();
        if reverse {
            expected.reverse();
        }
        assert_eq!(seen, expected);
    }
    let some = server.get("/v1/stores/Words/keys?from=k010&to=k012").await.json();
    assert_eq!(some["rows"].as_array().unwrap().len(), 3);
    assert_eq!(some["cursor"], json!(null));
    let some = server.get("/v1/stores/Words/keys?prefix=k09").await.json();
    assert_eq!(some["rows"].as_array().unwrap().len(), 10);
}

#[tokio::test]
async fn wrong_scans_are_refused() {
    let server = words().await;
    let scan = |query: &str| format!("/v1/stores/Words/keys?{query}");
    for query in
        ["limit=0", "limit=1001", "limit=-1", "limit=x", "from=b&to=a", "prefix=a&from=a", "reverse=maybe", "x=1"]
    {
        assert_eq!(server.get(&scan(query)).await.problem(), problem(400, "INVALID_ARGUMENT", "parameter"), "{query}");
    }
    assert_eq!(server.get(&scan("cursor=nonsense")).await.problem(), problem(400, "INVALID_ARGUMENT", "cursor"));
    let first = server.get(&scan("limit=1")).await.json();
    let cursor = first["cursor"].as_str().unwrap();
    let other = server.get(&scan(&format!("limit=1&reverse=true&cursor={cursor}"))).await;
    assert_eq!(other.problem(), problem(400, "INVALID_ARGUMENT", "cursor"), "a cursor belongs to its scan");
    server.view.close("Words", 2);
    assert_eq!(
        server.get(&scan("")).await.problem(),
        problem(503, "UNAVAILABLE", "restoring"),
        "never a scan with a hole"
    );
}

#[tokio::test]
async fn windows_and_watch_are_not_served_yet() {
    let server = words().await;
    for path in ["/v1/stores/Words/windows/apple?from=0&to=5", "/v1/stores/Words/keys/apple/watch"] {
        assert_eq!(server.get(path).await.problem(), problem(501, "UNIMPLEMENTED", ""), "{path}");
    }
    assert_eq!(server.get("/v1/stores/X/windows/a").await.problem(), problem(404, "STORE_NOT_FOUND", ""));
}

#[tokio::test]
async fn the_service_describes_itself() {
    let server = words().await;
    let stores = server.get("/v1/stores").await.json();
    assert_eq!(
        stores["stores"][1],
        json!({"name": "Words", "type": "key_value", "storage": "persistent", "key_format": "utf8",
               "value_format": "json", "partitions": 3, "subtopology": 0})
    );
    let route = server.get("/v1/route?store=Words&key=a%2Fb").await.json();
    let partition = partition_for(b"a/b", PARTITIONS);
    assert_eq!(route["partition"], partition);
    assert_eq!(route["task"], format!("0_{partition}"));
    assert_eq!((&route["active"], &route["would_ask"]), (&json!(SELF), &json!(SELF)));
    assert_eq!((&route["store"], &route["key"], &route["standbys"]), (&json!("Words"), &json!("a/b"), &json!([])));
    assert_eq!((&route["answers"], &route["here"], &route["error"]), (&json!(SELF), &json!("answers"), &json!(null)));
    assert_eq!((&route["others"], &route["not_asked"]), (&json!([]), &json!([])));
    assert_eq!(server.get("/v1/route?store=Words").await.problem(), problem(400, "INVALID_ARGUMENT", "parameter"));
    // It is explained of the read that is asked about, and of what becomes of that.
    let read = "store=Words&key=a%2Fb&max_staleness=0";
    let route = server.get(&format!("/v1/route?{read}")).await.json();
    assert_eq!((&route["answers"], &route["here"]), (&json!(null), &json!("too old")));
    let refused = server.get("/v1/stores/Words/keys/a%2Fb?max_staleness=0").await.json();
    for member in ["code", "reason", "retry_after_ms"] {
        assert_eq!(route["error"][member], refused[member], "{route}");
    }
    assert_eq!(
        server.get("/v1/route?store=Words&key=a&consistency=very").await.problem(),
        problem(400, "INVALID_ARGUMENT", "parameter")
    );
    let instances = server.get("/v1/instances").await.json();
    assert_eq!(instances["generation"], 4);
    assert_eq!(instances["instances"][0]["endpoint"], SELF);
    assert_eq!(instances["instances"][0]["self"], true);
    server.view.set_restoring(TaskId::new(0, 1), 9, None);
    let tasks = server.get("/v1/tasks").await.json();
    assert_eq!((&tasks["instance"], &tasks["state"]), (&json!(SELF), &json!("restoring")));
    assert_eq!(tasks["tasks"][0]["id"], "0_1");
    assert_eq!(tasks["tasks"][0]["restore"]["remaining_records"], 9);
    assert_eq!(server.get("/v1/topology").await.json(), json!({"subtopologies": []}));
    assert_eq!(server.get("/v1/topology?format=text").await.text, "Topologies:");
    assert_eq!(server.get("/v1/topology?format=dot").await.text, "digraph {}");
    assert_eq!(server.get("/v1/topology?format=mermaid").await.text, "graph TD");
    assert_eq!(server.get("/v1/topology?format=png").await.status, 400);
    assert!(server.get("/openapi.json").await.json()["paths"].is_object());
}

#[tokio::test]
async fn health_follows_the_engine() {
    let server = words().await;
    assert_eq!(server.get("/healthz/ready").await.status, 200);
    assert_eq!(server.get("/healthz/startup").await.status, 503);
    server.health.set_started();
    assert_eq!(server.get("/healthz/startup").await.status, 200);
    server.view.set_state(EngineState::Failed("disk".to_owned()));
    let live = server.get("/healthz/live").await;
    assert_eq!((live.status, live.json()["status"].clone()), (503, json!("fail")));
    server.view.set_state(EngineState::Running);
    server.health.set_draining();
    assert_eq!(server.get("/healthz/ready").await.status, 503);
    assert_eq!(server.get("/healthz/live").await.status, 200);
}

#[tokio::test]
async fn too_many_requests_are_refused_and_probes_are_not() {
    let server = words().await;
    let held: Vec<_> = (0..8).map(|_| server.admission.enter().unwrap()).collect();
    let answer = server.get("/v1/stores").await;
    assert_eq!(answer.problem(), problem(429, "RESOURCE_EXHAUSTED", ""));
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(server.get("/healthz/ready").await.status, 200);
    assert_eq!(server.get("/metrics").await.status, 200);
    drop(held);
    assert_eq!(server.get("/v1/stores").await.status, 200);
    assert_eq!(server.admission.in_progress(), 0);
}

#[tokio::test]
async fn requests_are_counted_by_route_and_code() {
    let server = words().await;
    server.get("/v1/stores/Words/keys/apple").await;
    server.get("/v1/stores/Words/keys/none").await;
    server.get("/nowhere/at/all").await;
    let text = server.get("/metrics").await.text;
    for line in [
        r#"holdfast_requests_total{protocol="rest",route="/v1/stores/{store}/keys/{key}",code="200"}"#,
        r#"holdfast_requests_total{protocol="rest",route="/v1/stores/{store}/keys/{key}",code="404"}"#,
        r#"holdfast_requests_total{protocol="rest",route="unmatched",code="404"}"#,
        r#"holdfast_request_duration_seconds_bucket{protocol="rest",route="/v1/stores/{store}/keys/{key}",le="0.01"}"#,
        "# HELP holdfast_requests_total Requests answered",
        "# TYPE holdfast_request_duration_seconds histogram",
        "holdfast_build_info{version=",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(!text.contains("nowhere"), "a client cannot invent labels");
}

#[tokio::test]
async fn an_applications_routes_are_served_beside_and_may_not_panic_out() {
    let panics = axum::routing::get(|| async {
        if true {
            panic!("handler")
        }
    });
    let domain =
        axum::Router::new().route("/api/hello", axum::routing::get(|| async { "hi" })).route("/api/panic", panics);
    let server = TestServer::with(QueryLimits::default(), rest::Limits::default(), domain).await;
    let answer = server.get("/api/hello").await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "hi"));
    assert_eq!(server.get("/api/panic").await.problem(), problem(500, "INTERNAL", ""));
    let answer = server.get_with("/api/hello", &[("x-request-id", "mine")]).await;
    assert_eq!(answer.header("x-request-id"), "mine");
}

#[tokio::test]
async fn a_drain_lets_open_requests_finish() {
    let server = words().await;
    let partition = partition_for(b"apple", PARTITIONS);
    let path = format!("/v1/stores/Words/keys/apple?min_position=items-{partition}:42&timeout=400");
    let address = server.address;
    let slow = tokio::spawn(send(address, format!("GET {path} HTTP/1.1\r\n"), &[]));
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.admission.in_progress() == 0 {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    assert!(server.server.drain(Duration::from_secs(10)).await);
    assert_eq!(slow.await.unwrap().unwrap().status, 504);
    assert!(send(address, "GET /v1/stores HTTP/1.1\r\n".to_owned(), &[]).await.is_err(), "nobody listens");
}
