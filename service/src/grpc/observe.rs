//! What happens around every gRPC call: the bound on how many, an id, a span, a count and a time.

use std::{
    collections::HashSet,
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::{extract::Request, response::Response};
use futures::FutureExt;
use http::HeaderMap;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::{
    query::{QueryError, admission::Admission},
    telemetry::{logs::REQUEST_TARGET, names, request_id, requests::RequestMetrics},
};

/// Label of calls to methods that no descriptor names.
const UNKNOWN: &str = "unknown";

/// Wraps services; see the module.
#[derive(Clone, Debug)]
pub(super) struct ObserveLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    admission: Arc<Admission>,
    metrics: RequestMetrics,
    methods: HashSet<String>,
}

impl ObserveLayer {
    /// Calls of `methods` get a label of their own; health is not counted against `admission`.
    pub(super) fn new(admission: Arc<Admission>, methods: &[String]) -> Self {
        let methods = methods.iter().cloned().collect();
        Self { shared: Arc::new(Shared { admission, metrics: RequestMetrics::new("grpc"), methods }) }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A service, observed.
#[derive(Clone, Debug)]
pub(super) struct Observe<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request> for Observe<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let began = Instant::now();
        let shared = Arc::clone(&self.shared);
        let path = shared.methods.get(request.uri().path()).map_or(UNKNOWN, String::as_str);
        let route = shared.metrics.route(path);
        let id = request_id::of(request.headers());
        let exempt = path.starts_with("/grpc.health.");
        let permit = if exempt { Ok(None) } else { shared.admission.enter().map(Some) };
        let request_id = id.to_str().unwrap_or_default();
        let span = tracing::debug_span!(target: REQUEST_TARGET, "call", otel.name = path, request_id);
        let running = permit.map(|permit| {
            // Its futures own what they need: the service itself is free again after the call, and is not cloned.
            let answer = std::panic::catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
            (permit, answer)
        });
        Box::pin(async move {
            let progress = shared.metrics.begin();
            let mut response = match running {
                Ok((permit, answer)) => {
                    let answer = match answer {
                        Ok(answer) => AssertUnwindSafe(answer).catch_unwind().instrument(span).await,
                        Err(panic) => Err(panic),
                    };
                    drop(permit);
                    match answer {
                        Ok(Ok(response)) => response,
                        Ok(Err(never)) => match never {},
                        Err(_) => refused(QueryError::Internal("the handler panicked".to_owned())),
                    }
                }
                Err(busy) => {
                    metrics::counter!(names::REQUESTS_REFUSED, "protocol" => "grpc").increment(1);
                    refused(busy)
                }
            };
            drop(progress);
            // An error is in the head ("trailers only"); an answer that began well may still end otherwise.
            let code = code(response.headers());
            route.answered(code as u16, began.elapsed());
            if matches!(code, Code::Internal | Code::Unknown | Code::DataLoss) {
                tracing::error!(request_id = id.to_str().unwrap_or_default(), ?route, ?code, "a call failed");
            }
            response.headers_mut().insert(request_id::HEADER, id);
            Ok(response)
        })
    }
}

fn refused(error: QueryError) -> Response {
    Status::from(error).into_http::<Body>().map(axum::body::Body::new)
}

fn code(headers: &HeaderMap) -> Code {
    headers.get("grpc-status").map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}
