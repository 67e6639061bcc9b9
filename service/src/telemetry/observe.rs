//! What happens around every request, REST or gRPC: a bound on how many, an id, a span, a count and a time, and no panic
//! gets out.
//!
//! It is on the way of every look-up, so it allocates nothing of its own.

use std::{
    any::Any,
    convert::Infallible,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{extract::Request, response::Response};
use futures::{FutureExt, future::CatchUnwind};
use http::HeaderValue;
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tracing::{Instrument, Level, instrument::Instrumented};

use super::{
    logs::REQUEST_TARGET,
    names, request_id,
    requests::{InProgress, RequestMetrics, RouteMetrics},
};
use crate::query::{
    QueryError,
    admission::{Admission, Permit},
};

/// What REST and gRPC do differently.
pub(crate) trait Protocol: fmt::Debug + Send + Sync + 'static {
    /// Label of its metrics.
    const NAME: &'static str;

    /// The route or method that a request is for: one of few, whatever clients send.
    fn route<'a>(&'a self, request: &'a Request) -> &'a str;

    /// Whether requests for a route are let in however many there are: a busy instance must not be taken for a dead one.
    fn is_exempt(route: &str) -> bool;

    /// The answer that says why there is no other.
    fn refused(error: QueryError) -> Response;

    /// How an answer ended.
    fn ended(response: &Response) -> Ended;
}

/// How an answer ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Label of the count.
    pub(crate) code: u16,
    /// Holdfast's own code, or the protocol's, for the log.
    pub(crate) reason: &'static str,
    pub(crate) outcome: Outcome,
}

/// Who is to look at an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is as it was asked for.
    Answered,
    /// The caller: the request was refused.
    Refused,
    /// An operator: something is broken here.
    Failed,
}

/// Wraps routes; see the module.
#[derive(Debug)]
pub(crate) struct ObserveLayer<P> {
    shared: Arc<Shared<P>>,
}

#[derive(Debug)]
struct Shared<P> {
    protocol: P,
    admission: Arc<Admission>,
    metrics: RequestMetrics,
}

impl<P: Protocol> ObserveLayer<P> {
    /// Requests count against `admission`, unless they are exempt.
    pub(crate) fn new(protocol: P, admission: Arc<Admission>) -> Self {
        Self { shared: Arc::new(Shared { protocol, admission, metrics: RequestMetrics::new(P::NAME) }) }
    }
}

impl<P> Clone for ObserveLayer<P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S, P> Layer<S> for ObserveLayer<P> {
    type Service = Observe<S, P>;

    fn layer(&self, inner: S) -> Observe<S, P> {
        Observe { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A service, observed.
#[derive(Debug)]
pub(crate) struct Observe<S, P> {
    inner: S,
    shared: Arc<Shared<P>>,
}

impl<S: Clone, P> Clone for Observe<S, P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S, P> Service<Request> for Observe<S, P>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    P: Protocol,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Observed<S::Future, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let began = Instant::now();
        let Shared { protocol, admission, metrics } = &*self.shared;
        let name = protocol.route(&request);
        let route = metrics.route(name);
        let mut id = request_id::given(request.headers());
        let permit = if P::is_exempt(name) { Ok(None) } else { admission.enter().map(Some) };
        let span = if tracing::enabled!(target: REQUEST_TARGET, Level::DEBUG) {
            let id = id.get_or_insert_with(request_id::new).to_str().unwrap_or_default();
            let method = request.method().as_str();
            tracing::debug_span!(target: REQUEST_TARGET, "request", otel.name = name, method, request_id = id)
        } else {
            tracing::Span::none()
        };
        let state = match permit {
            Ok(permit) => {
                // Its futures own what they need: the service itself is free again after the call, and is not cloned.
                match std::panic::catch_unwind(AssertUnwindSafe(|| self.inner.call(request))) {
                    Ok(answer) => State::Running {
                        answer: AssertUnwindSafe(answer).catch_unwind().instrument(span),
                        _permit: permit,
                        _progress: metrics.begin(),
                    },
                    Err(panic) => State::Answered { response: Some(P::refused(panicked(&*panic))) },
                }
            }
            Err(busy) => {
                metrics::counter!(names::REQUESTS_REFUSED, "protocol" => P::NAME).increment(1);
                State::Answered { response: Some(P::refused(busy)) }
            }
        };
        Observed { state, id, route, began, protocol: std::marker::PhantomData }
    }
}

pin_project! {
    /// A request in progress, observed.
    pub(crate) struct Observed<F, P> {
        #[pin]
        state: State<F>,
        id: Option<HeaderValue>,
        route: Arc<RouteMetrics>,
        began: Instant,
        protocol: std::marker::PhantomData<fn(P)>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Running {
            #[pin]
            answer: Instrumented<CatchUnwind<AssertUnwindSafe<F>>>,
            _permit: Option<Permit>,
            _progress: InProgress,
        },
        // It was not let in, or is over.
        Answered { response: Option<Response> },
    }
}

impl<F, P> Future for Observed<F, P>
where
    F: Future<Output = Result<Response, Infallible>>,
    P: Protocol,
{
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let response = match this.state.as_mut().project() {
            StateProjection::Answered { response } => match response.take() {
                Some(response) => response,
                // Polled again after its end, which no executor does.
                None => return Poll::Pending,
            },
            StateProjection::Running { answer, .. } => match ready!(answer.poll(cx)) {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(panic) => P::refused(panicked(&*panic)),
            },
        };
        // The permit goes back before the answer goes out.
        this.state.set(State::Answered { response: None });
        Poll::Ready(Ok(finish::<P>(response, this.id.take(), this.route, this.began.elapsed())))
    }
}

/// Counts and times an answer, and says in the log what is wrong. Its request's id goes back where somebody can know it: the
/// caller, or a reader of the log.
fn finish<P: Protocol>(
    mut response: Response,
    mut id: Option<HeaderValue>,
    route: &RouteMetrics,
    took: Duration,
) -> Response {
    let Ended { code, reason, outcome } = P::ended(&response);
    route.answered(code, took);
    if outcome != Outcome::Answered {
        let request_id = id.get_or_insert_with(request_id::new).to_str().unwrap_or_default();
        if outcome == Outcome::Failed {
            tracing::error!(request_id, ?route, reason, code, "a request failed");
        } else {
            tracing::debug!(request_id, ?route, reason, code, "a request was refused");
        }
    }
    if let Some(id) = id {
        response.headers_mut().insert(request_id::HEADER, id);
    }
    response
}

fn panicked(panic: &(dyn Any + Send)) -> QueryError {
    let what = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = what.unwrap_or("of an unknown kind"), "a handler panicked");
    QueryError::Internal("the handler panicked".to_owned())
}
