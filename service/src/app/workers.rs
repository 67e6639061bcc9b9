//! The threads that serve. Each has a runtime of its own, and a connection stays with the thread that it was given to: its
//! requests, the rows that they ask for, and what other instances are asked on their behalf are dealt with where they came in.
//!
//! A runtime that spreads work over its threads wakes another one at most requests. That costs more than a look-up does, and
//! the more the fewer requests there are at a time.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// The threads; they end with the last of these.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// Dropped when the thread is to end.
    _running: oneshot::Sender<Infallible>,
}

impl Workers {
    /// So many threads; no more than there are processors is of use.
    pub fn start(count: usize) -> io::Result<Arc<Self>> {
        let threads = (0..count).map(Worker::start).collect::<io::Result<_>>()?;
        Ok(Arc::new(Self { threads }))
    }

    /// A place at the thread that has the fewest connections.
    pub(super) fn place(&self) -> Option<Place> {
        let idlest = self.threads.iter().min_by_key(|worker| worker.connections.load(Relaxed))?;
        idlest.connections.fetch_add(1, Relaxed);
        Some(Place { runtime: idlest.runtime.clone(), connections: Arc::clone(&idlest.connections) })
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, ended) = oneshot::channel();
        thread::Builder::new().name(format!("serve-{number}")).spawn(move || {
            // Nothing is ever sent: this waits until the other end is gone.
            let _ = runtime.block_on(ended);
            // A read that hangs on a disk must not keep the thread.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, connections: Arc::default(), _running: running })
    }
}

/// A connection's place at a thread, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_spread_and_their_places_come_back() {
        let count = 3;
        let workers = Workers::start(count).unwrap();
        let counts = |workers: &Workers| -> Vec<usize> {
            workers.threads.iter().map(|worker| worker.connections.load(Relaxed)).collect()
        };
        let mut places: Vec<Place> = (0..2 * count).map(|_| workers.place().unwrap()).collect();
        assert_eq!(counts(&workers), vec![2; count]);
        places.truncate(1);
        assert_eq!(counts(&workers).iter().sum::<usize>(), 1);
        let thread = places[0].runtime.spawn(async { thread::current().name().map(str::to_owned) }).await.unwrap();
        assert!(thread.unwrap().starts_with("serve-"));
        // What is left on a thread whose workers are gone ends with it.
        let left = places[0].runtime.spawn(std::future::pending::<()>());
        drop(workers);
        assert!(left.await.unwrap_err().is_cancelled());
    }
}
