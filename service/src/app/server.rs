//! A listener: connections over HTTP/1.1 and HTTP/2 without TLS on one port, REST and gRPC told apart by content type, and
//! a drain that lets what is open finish.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, routing::future::RouteFuture};
use futures::FutureExt;
use holdfast_types::Endpoint;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use pin_project_lite::pin_project;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{
    idle::{IdleConnections, Waiting},
    workers::Workers,
};
use crate::telemetry::names;

/// Pause after a connection could not be accepted, for descriptors of ended connections to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time without a refused connection after which the next one is told again.
const ACCEPT_QUIET: Duration = Duration::from_secs(30);
/// Time for a client to send a request's head: a slow one must not hold a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle time after which an HTTP/2 client is pinged, and time that it has to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server that is drained still answers, closing each connection with its answer.
const FAREWELL: Duration = Duration::from_millis(250);
/// How long a connection that was accepted last has for its request to come.
const FIRST_REQUEST: Duration = Duration::from_millis(100);
/// Calls at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1024;

/// A listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: cannot listen on {endpoint}: {source}; choose another address or port, or end what uses it")]
pub struct ListenError {
    setting: &'static str,
    endpoint: Endpoint,
    source: io::Error,
}

/// Opens the listener of `setting`; port 0 chooses a free one.
pub async fn bind(setting: &'static str, endpoint: &Endpoint) -> Result<TcpListener, ListenError> {
    TcpListener::bind((endpoint.host.as_str(), endpoint.port)).await.map_err(|source| ListenError {
        setting,
        endpoint: endpoint.clone(),
        source,
    })
}

/// What answers on a listener.
#[derive(Clone, Debug)]
pub struct Front {
    /// Answers all that is not gRPC.
    pub rest: Router,
    /// Answers gRPC, where it is served.
    pub grpc: Option<Router>,
    /// Cancelled when what is open is to finish: an answer that has no end of its own ends then.
    pub closing: CancellationToken,
}

impl Front {
    fn router(&self, headers: &HeaderMap) -> Router {
        match &self.grpc {
            Some(grpc) if is_grpc(headers) => grpc.clone(),
            _ => self.rest.clone(),
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// A listener that serves, until it is drained.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<Duration>,
    running: JoinHandle<bool>,
}

impl Server {
    /// Serves `front` on `listener`, for at most `connections` at a time; more wait in the kernel's queue. Connections are
    /// accepted here and served by `workers`.
    pub fn start(listener: TcpListener, front: Front, connections: usize, workers: Arc<Workers>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(accept(listener, front, connections, workers, stopped));
        Ok(Self { address, stop, running })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new connections, lets open requests finish, closes idle connections. `false` when something was still open
    /// after `timeout`, and was cut.
    pub async fn drain(self, timeout: Duration) -> bool {
        // A listener that has ended has nothing to drain.
        let _ = self.stop.send(timeout);
        self.running.await.unwrap_or(false)
    }
}

async fn accept(
    listener: TcpListener,
    front: Front,
    connections: usize,
    workers: Arc<Workers>,
    mut stopped: oneshot::Receiver<Duration>,
) -> bool {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // See `idle` for slow heads.
    builder.http1().header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS);
    let open = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(connections));
    let leaving = Arc::new(AtomicBool::new(false));
    let idle = IdleConnections::new(HEAD_TIMEOUT);
    let looking = tokio::spawn(Arc::clone(&idle).look_after());
    // However this ends.
    let _looking = AbortOnDrop(looking);
    let serving = Serving { builder, front, leaving: Arc::clone(&leaving), idle: Arc::clone(&idle), workers };
    let mut refused = None::<tokio::time::Instant>;
    let timeout = loop {
        tokio::select! {
            // A dropped handle stops at once.
            timeout = &mut stopped => break timeout.unwrap_or_default(),
            (accepted, slot) = next(&listener, &slots) => match accepted {
                Ok((stream, _)) => serving.spawn(stream, open.watcher(), slot),
                Err(error) => {
                    // Out of file descriptors, mostly: those of ended connections come back in a moment.
                    // One is accepted now and then meanwhile: it is over, and worth a new line, after some quiet.
                    if refused.is_none_or(|last| last.elapsed() > ACCEPT_QUIET) {
                        tracing::warn!(%error, "connections cannot be accepted; they wait, and it is tried again");
                    }
                    refused = Some(tokio::time::Instant::now());
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    };
    // A busy client's next request may be on its way to a connection that is idle at this moment: closing it would fail that
    // request. So busy ones are told to go first, each with its next answer, by connections old and new; then idle ones close.
    leaving.store(true, Ordering::Release);
    let told = tokio::time::Instant::now() + FAREWELL.min(timeout / 2);
    while let Ok((accepted, slot)) = tokio::time::timeout_at(told, next(&listener, &slots)).await {
        if let Ok((stream, _)) = accepted {
            serving.spawn(stream, open.watcher(), slot);
        }
    }
    // What is accepted by now has its answer still to come, too.
    while let Some((Ok((stream, _)), slot)) = next(&listener, &slots).now_or_never() {
        serving.spawn(stream, open.watcher(), slot);
    }
    drop(listener);
    tokio::time::sleep(FIRST_REQUEST.min(timeout / 4)).await;
    serving.front.closing.cancel();
    tokio::time::timeout(timeout.saturating_sub(FAREWELL + FIRST_REQUEST), open.shutdown()).await.is_ok()
}

type Slot = Result<OwnedSemaphorePermit, AcquireError>;

async fn next(listener: &TcpListener, slots: &Arc<Semaphore>) -> (io::Result<(TcpStream, SocketAddr)>, Slot) {
    let slot = Arc::clone(slots).acquire_owned().await;
    (listener.accept().await, slot)
}

/// What each connection of a listener needs.
struct Serving {
    builder: auto::Builder<TokioExecutor>,
    front: Front,
    leaving: Arc<AtomicBool>,
    idle: Arc<IdleConnections>,
    workers: Arc<Workers>,
}

impl Serving {
    /// Runs a connection until it ends, the server is drained, or it is cut for sending nothing.
    fn spawn(&self, stream: TcpStream, open: Watcher, slot: Slot) {
        // It was accepted on another runtime than the one that it is served by.
        let (Some(place), Ok(stream)) = (self.workers.place(), stream.into_std()) else { return };
        let waiting = self.idle.waiting();
        let service = FrontService {
            front: self.front.clone(),
            leaving: Arc::clone(&self.leaving),
            waiting: Arc::clone(&waiting),
        };
        let builder = self.builder.clone();
        let counted = Counted::new();
        let runtime = place.runtime.clone();
        let task = runtime.spawn(async move {
            let served = async {
                let stream = TcpStream::from_std(stream)?;
                // An answer is written whole: waiting to fill a packet only delays it.
                stream.set_nodelay(true)?;
                let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
                open.watch(connection).await
            };
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection ended with an error");
            }
            drop((counted, slot, place));
        });
        self.idle.watch(waiting, task.abort_handle());
    }
}

/// A connection in the gauge, until dropped.
struct Counted(metrics::Gauge);

impl Counted {
    fn new() -> Self {
        let connections = metrics::gauge!(names::CONNECTIONS);
        connections.increment(1.0);
        Self(connections)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The front as hyper calls it, on one connection.
#[derive(Clone, Debug)]
struct FrontService {
    front: Front,
    leaving: Arc<AtomicBool>,
    waiting: Arc<Waiting>,
}

impl hyper::service::Service<Request<Incoming>> for FrontService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = FrontFuture;

    fn call(&self, request: Request<Incoming>) -> FrontFuture {
        self.waiting.request();
        let version = request.version();
        let answer = self.front.router(request.headers()).call(request);
        FrontFuture { answer, version, leaving: Arc::clone(&self.leaving), waiting: Arc::clone(&self.waiting) }
    }
}

pin_project! {
    /// An answer in the making.
    struct FrontFuture {
        #[pin]
        answer: RouteFuture<Infallible>,
        version: Version,
        leaving: Arc<AtomicBool>,
        waiting: Arc<Waiting>,
    }
}

impl Future for FrontFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.answer.poll(cx))?;
        if *this.version <= Version::HTTP_11 && this.leaving.load(Ordering::Acquire) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response.map(|body| this.waiting.answered(*this.version, body))))
    }
}
