//! One input partition of a task: what is fetched of it, and how far it is processed, sealed and committed.

use std::time::Instant;

use crate::kafka::{FetchQueue, StartOffset};

/// An input's `sealed` before the first seal of a topic that begins anew.
pub(super) const NOT_SEALED: i64 = -1;

/// One input partition of a task.
#[derive(Debug)]
pub struct Input {
    /// Index of the source in the sub-topology.
    pub source: usize,
    /// What has been fetched of it.
    pub queue: FetchQueue,
    /// The next offset to process.
    pub next: i64,
    /// `next` as of the last seal.
    pub sealed: i64,
    /// `next` as of the last commit; where there was none yet, where reading began.
    pub(super) committed: StartOffset,
    /// Up to where the task goes in small steps, see [`ActiveTask::is_careful`](super::ActiveTask::is_careful); 0 mostly.
    pub(super) careful_until: i64,
    pub(super) retry: Option<Retry>,
    /// Reading was refused, and that was told.
    pub(super) denied: bool,
}

/// A record that is to be tried again.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) attempt: u32,
    pub(super) not_before: Instant,
}

impl Input {
    /// Reads `queue`, which begins at `start`.
    pub fn new(source: usize, queue: FetchQueue, start: StartOffset) -> Self {
        let (next, sealed, careful_until) = (0, 0, 0);
        let mut input =
            Self { source, queue, next, sealed, committed: start, careful_until, retry: None, denied: false };
        input.begin_at(start);
        input
    }

    /// The next offset to read as of the last commit; 0 before the first.
    pub fn committed_offset(&self) -> i64 {
        match self.committed {
            StartOffset::At(offset) => offset,
            StartOffset::Beginning | StartOffset::End => 0,
        }
    }

    /// Goes on at `start`, to which the queue was moved.
    pub fn begin_at(&mut self, start: StartOffset) {
        self.next = match start {
            StartOffset::At(offset) => offset,
            StartOffset::Beginning | StartOffset::End => 0,
        };
        self.sealed = self.next;
        self.committed = start;
        self.retry = None;
    }
}
