//! What happens around every REST request: a bound on how many, an id, a span, a count and a time, and no panic gets out.

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request},
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use http::HeaderValue;
use tower::{Layer, Service};
use tracing::Instrument;

use super::problem::{Problem, Refused};
use crate::{
    query::{QueryError, admission::Admission},
    telemetry::{logs::REQUEST_TARGET, names, request_id, requests::RequestMetrics},
};

/// Label of requests that match no route.
const UNMATCHED: &str = "unmatched";

/// Wraps routes; see the module.
#[derive(Clone, Debug)]
pub(super) struct ObserveLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    admission: Arc<Admission>,
    metrics: RequestMetrics,
}

impl ObserveLayer {
    /// Requests count against `admission`; probes and metrics do not, so that a busy instance is not taken for a dead one.
    pub(super) fn new(admission: Arc<Admission>) -> Self {
        Self { shared: Arc::new(Shared { admission, metrics: RequestMetrics::new("rest") }) }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A route, observed.
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
        let path = request.extensions().get::<MatchedPath>().map_or(UNMATCHED, MatchedPath::as_str);
        let route = shared.metrics.route(path);
        let id = request_id::of(request.headers());
        let exempt = path.starts_with("/healthz/") || path == "/metrics";
        let permit = if exempt { Ok(None) } else { shared.admission.enter().map(Some) };
        let span = tracing::debug_span!(
            target: REQUEST_TARGET,
            "request",
            otel.name = path,
            method = %request.method(),
            request_id = id.to_str().unwrap_or_default(),
        );
        let running = permit.map(|permit| {
            // Axum's futures own what they need: the service itself is free again after the call, and is not cloned.
            let answer = std::panic::catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
            (permit, answer)
        });
        Box::pin(async move {
            let response = match running {
                Ok((permit, answer)) => {
                    let progress = shared.metrics.begin();
                    let answer = match answer {
                        Ok(answer) => AssertUnwindSafe(answer).catch_unwind().instrument(span).await,
                        Err(panic) => Err(panic),
                    };
                    drop((progress, permit));
                    match answer {
                        Ok(Ok(response)) => response,
                        Ok(Err(never)) => match never {},
                        Err(_) => {
                            Problem::from(QueryError::Internal("the handler panicked".to_owned())).into_response()
                        }
                    }
                }
                Err(busy) => {
                    metrics::counter!(names::REQUESTS_REFUSED, "protocol" => "rest").increment(1);
                    Problem::from(busy).into_response()
                }
            };
            Ok(finish(response, id, &route, began))
        })
    }
}

fn finish(
    mut response: Response,
    id: HeaderValue,
    route: &crate::telemetry::requests::RouteMetrics,
    began: Instant,
) -> Response {
    let status = response.status();
    route.answered(status.as_u16(), began.elapsed());
    if status.is_client_error() || status.is_server_error() {
        let code = response.extensions().get::<Refused>().map_or("-", |Refused(code)| code.as_str());
        let request_id = id.to_str().unwrap_or_default();
        if status == http::StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(request_id, ?route, code, "a request failed");
        } else {
            tracing::debug!(request_id, ?route, code, status = status.as_u16(), "a request was refused");
        }
    }
    response.headers_mut().insert(request_id::HEADER, id);
    response
}
