//! File descriptors: how many this process may have, and how many of them clients may use.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// More than any instance needs; an unlimited limit is no number to take shares of.
const MOST: u64 = 1 << 20;
/// With fewer, files of rows are opened and closed all the time, and few clients can be served.
const FEW: u64 = 1024;
/// Connections to one listener, however many descriptors there are.
const MOST_CONNECTIONS: u64 = 16 * 1024;

/// Threads that serve, at most: each has connections of its own to each peer, and there it has to be let in.
const MOST_WORKERS: usize = 8;
/// Connections of peers for which there is another thread. A group of 40 fits in, with those that reports take.
const CONNECTIONS_OF_A_WORKER: usize = 64;

/// How many connections each listener takes at a time; more wait in the kernel's queue. Clients must not be able to take the
/// descriptors that files of rows and connections to brokers need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionBounds {
    pub(super) public: usize,
    pub(super) peer: usize,
}

impl ConnectionBounds {
    /// Shares of so many descriptors.
    fn of(descriptors: u64) -> Self {
        let share = |part: u64| usize::try_from(part.clamp(8, MOST_CONNECTIONS)).unwrap_or(usize::MAX);
        Self { public: share(descriptors / 2), peer: share(descriptors / 8) }
    }

    /// How many threads serve, given so many processors. All instances of a group are taken to be alike.
    pub(super) fn workers(self, processors: usize) -> usize {
        (self.peer / CONNECTIONS_OF_A_WORKER).clamp(1, MOST_WORKERS).min(processors.max(1))
    }

    /// Raises the limit of this process as far as it may itself, and takes shares of it.
    pub(super) fn of_process() -> Self {
        Self::of(raised_limit())
    }
}

/// The soft limit is small for the sake of programs that use `select`; this is none.
fn raised_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MOST).min(MOST);
    let mut current = limit.current.unwrap_or(MOST).min(MOST);
    if current < most {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum }) {
            Ok(()) => current = most,
            Err(error) => debug!(%error, current, most, "the limit of file descriptors could not be raised"),
        }
    }
    if current < FEW {
        warn!(descriptors = current, "few file descriptors: expected {FEW} or more; raise ulimit -n or LimitNOFILE");
    }
    current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_a_share() {
        assert_eq!(ConnectionBounds::of(1024), ConnectionBounds { public: 512, peer: 128 });
        assert_eq!(ConnectionBounds::of(32), ConnectionBounds { public: 16, peer: 8 });
        assert_eq!(ConnectionBounds::of(MOST).public, 16 * 1024);
    }

    #[test]
    fn peers_can_connect_to_every_thread() {
        let workers = |descriptors, processors| ConnectionBounds::of(descriptors).workers(processors);
        assert_eq!(workers(32, 4), 1);
        assert_eq!(workers(1024, 4), 2);
        assert_eq!(workers(65_536, 4), 4);
        assert_eq!(workers(65_536, 64), 8);
        assert_eq!(workers(65_536, 0), 1);
    }
}
