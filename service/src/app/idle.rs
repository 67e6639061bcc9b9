//! HTTP/1 connections on which no request comes, or one very slowly: they are cut after a while.
//!
//! hyper has a time-out for heads; it costs a timer and one more read from the socket with every request. This one costs two
//! stores: each connection notes since when it waits for a request, and one task looks at all of them now and then.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes, HttpBody};
use http::Version;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::task::AbortHandle;

const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// An answer of at most this many bytes goes out at once, into the socket's buffer.
const AT_ONCE_BYTES: u64 = 64 * 1024;
/// In place of a time: a request is in progress, or the connection has its own way to notice a dead client.
const BUSY: u64 = u64::MAX;

/// The connections of a listener.
#[derive(Debug)]
pub(super) struct IdleConnections {
    began: Instant,
    timeout: Duration,
    open: Mutex<Vec<(Arc<Waiting>, AbortHandle)>>,
}

/// Since when a connection waits for a request: milliseconds since the listener began, or [`BUSY`].
#[derive(Debug)]
pub(super) struct Waiting {
    began: Instant,
    since_ms: AtomicU64,
}

impl IdleConnections {
    pub(super) fn new(timeout: Duration) -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), timeout, open: Mutex::default() })
    }

    /// A connection that waits for its first request from now on.
    pub(super) fn waiting(&self) -> Arc<Waiting> {
        let waiting = Waiting { began: self.began, since_ms: AtomicU64::new(0) };
        waiting.wait();
        Arc::new(waiting)
    }

    /// Cuts the task that serves a connection when it has waited for too long.
    pub(super) fn watch(&self, waiting: Arc<Waiting>, connection: AbortHandle) {
        self.open.lock().push((waiting, connection));
    }

    /// Cuts what waits for too long, until dropped.
    pub(super) async fn look_after(self: Arc<Self>) {
        let mut interval = tokio::time::interval(LOOK_INTERVAL.min(self.timeout / 4));
        loop {
            interval.tick().await;
            self.cut(self.began.elapsed());
        }
    }

    fn cut(&self, now: Duration) {
        let latest = now.saturating_sub(self.timeout).as_millis() as u64;
        self.open.lock().retain(|(waiting, connection)| {
            // BUSY is later than any time.
            if !connection.is_finished() && waiting.since_ms.load(Relaxed) < latest {
                tracing::debug!("a connection sent no whole request in time and is cut");
                connection.abort();
            }
            !connection.is_finished()
        });
    }
}

impl Waiting {
    /// A request has come. HTTP/2 connections are left alone from then on: they are pinged.
    pub(super) fn request(&self) {
        self.since_ms.store(BUSY, Relaxed);
    }

    fn wait(&self) {
        self.since_ms.store(self.began.elapsed().as_millis() as u64, Relaxed);
    }

    /// Waits for the next request once the answer's body is on its way.
    pub(super) fn answered(self: &Arc<Self>, version: Version, body: Body) -> Body {
        if version >= Version::HTTP_2 {
            return body;
        }
        if body.size_hint().exact().is_some_and(|bytes| bytes <= AT_ONCE_BYTES) {
            self.wait();
            return body;
        }
        Body::new(Watched { body, waiting: Arc::clone(self) })
    }
}

/// A body that takes its time; the connection waits for a request when it is dropped.
struct Watched {
    body: Body,
    waiting: Arc<Waiting>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.waiting.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_waits_too_long_is_cut_and_a_busy_one_is_not() {
        let connections = IdleConnections::new(Duration::from_secs(30));
        let start = |busy: bool| {
            let waiting = connections.waiting();
            if busy {
                waiting.request();
            }
            let task = tokio::spawn(std::future::pending::<()>());
            connections.watch(Arc::clone(&waiting), task.abort_handle());
            (waiting, task)
        };
        let (_, idle) = start(false);
        let (busy, answering) = start(true);
        let (streaming, slow) = start(true);
        connections.cut(Duration::from_secs(29));
        assert!(!idle.is_finished());
        let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::convert::Infallible>>());
        let body = streaming.answered(Version::HTTP_11, body);
        connections.cut(Duration::from_secs(31));
        assert!(idle.await.unwrap_err().is_cancelled());
        assert!(!answering.is_finished() && !slow.is_finished());
        // An HTTP/2 connection stays as it is; a short answer and a body's end begin the wait.
        drop(busy.answered(Version::HTTP_2, Body::empty()));
        drop(body);
        connections.cut(Duration::from_secs(31));
        assert!(!answering.is_finished());
        assert!(slow.await.unwrap_err().is_cancelled());
        drop(busy.answered(Version::HTTP_11, Body::from("short")));
        connections.cut(Duration::from_secs(31));
        assert!(answering.await.unwrap_err().is_cancelled());
    }
}
