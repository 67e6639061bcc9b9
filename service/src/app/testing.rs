//! A served view on a real listener, for tests of REST and gRPC.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use holdfast_types::Endpoint;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::{
    server::{Front, Server, bind},
    workers::Workers,
};
use crate::{
    Routes,
    admin::health::Health,
    config::ReadyWhen,
    grpc,
    query::{QueryLimits, admission::Admission, testing::FakeView},
    rest::{self, Api, ApiParts},
    telemetry::metrics::Metrics,
};

/// A server over a fake view.
pub(crate) struct TestServer {
    pub(crate) view: Arc<FakeView>,
    pub(crate) health: Arc<Health>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) address: SocketAddr,
    pub(crate) server: Server,
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::with(QueryLimits::default(), rest::Limits::default(), Router::new()).await
    }

    pub(crate) async fn with(limits: QueryLimits, rest_limits: rest::Limits, domain: impl Into<Routes>) -> Self {
        let domain = domain.into();
        let view = FakeView::new();
        let admission = Admission::new(8);
        let queries = view.queries_with(limits);
        let health = Health::new(queries.clone(), ReadyWhen::Answering);
        let api = Api::new(ApiParts {
            queries: queries.clone(),
            health: Arc::clone(&health),
            metrics: Metrics::install().unwrap(),
            admission: Arc::clone(&admission),
            limits: rest_limits,
        });
        let grpc =
            grpc::router(queries, Arc::clone(&health), Arc::clone(&admission), grpc::Limits::default(), domain.grpc);
        let front = Front {
            rest: rest::router(api, domain.rest),
            grpc: Some(grpc.unwrap()),
            closing: CancellationToken::new(),
        };
        let listener = bind("listen", &Endpoint::new("127.0.0.1", 0)).await.unwrap();
        let server = Server::start(listener, front, 1024, Workers::start(2).unwrap()).unwrap();
        let address = server.address();
        Self { view, health, admission, address, server }
    }

    pub(crate) async fn get(&self, path: &str) -> Answered {
        self.get_with(path, &[]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answered {
        let mut head = format!("GET {path} HTTP/1.1\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        send(self.address, head, &[]).await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answered {
        let head = format!("POST {path} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
        send(self.address, head, body.as_bytes()).await.unwrap()
    }

    /// The same with a body whose length is not told ahead.
    pub(crate) async fn post_chunked(&self, path: &str, chunks: &[&str]) -> Answered {
        let head = format!("POST {path} HTTP/1.1\r\ntransfer-encoding: chunked\r\n");
        let mut body = String::new();
        for chunk in chunks {
            body.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
        }
        body.push_str("0\r\n\r\n");
        send(self.address, head, body.as_bytes()).await.unwrap()
    }
}

/// One request on a connection of its own, as bytes: tests decide themselves what is on the wire.
pub(crate) async fn send(address: SocketAddr, head: String, body: &[u8]) -> std::io::Result<Answered> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("{head}host: {address}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        // Whole before anything is read, as most clients do.
        stream.write_all(body).await?;
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer).await;
        if answer.is_empty() {
            ended?;
        }
        Ok(Answered::parse(&answer))
    };
    tokio::time::timeout(Duration::from_secs(30), exchange).await?
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answered {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let mut lines: VecDeque<&str> = head.split("\r\n").collect();
        let status = lines.pop_front().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.into_iter().map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
        });
        Self { status, headers: headers.collect(), text: body.to_owned() }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status, code and reason of a problem, whose shape is checked.
    pub(crate) fn problem(&self) -> (u16, String, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text);
        assert!(!self.header("x-request-id").is_empty());
        let body = self.json();
        let code = body["code"].as_str().unwrap();
        assert_eq!(body["status"], self.status);
        assert_eq!(body["type"], format!("urn:holdfast:error:{code}"));
        assert!(!body["title"].as_str().unwrap().is_empty() && !body["detail"].as_str().unwrap().is_empty());
        let known = holdfast_proto::error::Code::parse(code).unwrap();
        assert_eq!(body["retryable"], known.retryable());
        if body.get("retry_after_ms").is_some() {
            assert!(self.header("retry-after").parse::<u64>().unwrap() >= 1);
        }
        (self.status, code.to_owned(), body["reason"].as_str().unwrap_or_default().to_owned())
    }
}
