//! A served view on a real listener, for tests of REST and gRPC.

use std::{sync::Arc, time::Duration};

use axum::Router;
use holdfast_types::Endpoint;

use super::server::{Front, Server, bind};
use crate::{
    admin::health::Health,
    grpc,
    query::{QueryLimits, StoreView, admission::Admission, testing::FakeView},
    rest::{self, Api, ApiParts},
    telemetry::metrics::Metrics,
};

/// A server over a fake view.
pub(crate) struct TestServer {
    pub(crate) view: Arc<FakeView>,
    pub(crate) health: Arc<Health>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) url: String,
    pub(crate) client: reqwest::Client,
    pub(crate) server: Server,
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::with(QueryLimits::default(), rest::Limits::default(), Router::new()).await
    }

    pub(crate) async fn with(limits: QueryLimits, rest_limits: rest::Limits, domain: Router) -> Self {
        let view = FakeView::new();
        let health = Health::new(Arc::clone(&view) as Arc<dyn StoreView>);
        let admission = Admission::new(8);
        let queries = view.queries_with(limits);
        let api = Api::new(ApiParts {
            queries: queries.clone(),
            health: Arc::clone(&health),
            metrics: Metrics::install().unwrap(),
            admission: Arc::clone(&admission),
            limits: rest_limits,
        });
        let grpc = grpc::router(
            queries,
            Arc::clone(&health),
            Arc::clone(&admission),
            grpc::Limits::default(),
            grpc::DomainServices::default(),
        );
        let front = Front { rest: rest::router(api, domain), grpc: Some(grpc.unwrap()) };
        let listener = bind("listen", &Endpoint::new("127.0.0.1", 0)).await.unwrap();
        let server = Server::start(listener, front).unwrap();
        let url = format!("http://{}", server.address());
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        Self { view, health, admission, url, client, server }
    }

    pub(crate) async fn get(&self, path: &str) -> Answered {
        Answered::of(self.client.get(format!("{}{path}", self.url)).send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answered {
        Answered::of(self.client.post(format!("{}{path}", self.url)).body(body).send().await.unwrap()).await
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answered {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
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
