//! Transactions of this process whose end is not known: while there is one, nobody reads offsets or changelogs to restore from.
//!
//! A lost transaction may have been committed in part: its markers reach the offsets topic and each changelog one by one. Who
//! read the offsets after theirs and the changelog before its own would lose rows. `init_transactions` of the next handle
//! answers once all markers are written.

use std::sync::atomic::{AtomicBool, Ordering};

/// One flag per stream thread, which has one transactional id.
#[derive(Debug)]
pub(in crate::engine) struct OpenTransactions {
    threads: Vec<AtomicBool>,
}

impl OpenTransactions {
    pub(in crate::engine) fn new(threads: usize) -> Self {
        Self { threads: (0..threads).map(|_| AtomicBool::new(false)).collect() }
    }

    /// Whether one is left, of any thread.
    pub(in crate::engine) fn any(&self) -> bool {
        self.threads.iter().any(|open| open.load(Ordering::Acquire))
    }

    pub(super) fn may_be_open(&self, thread: usize) -> bool {
        self.threads.get(thread).is_some_and(|open| open.load(Ordering::Acquire))
    }

    pub(super) fn left_open(&self, thread: usize) {
        self.set(thread, true);
    }

    pub(super) fn ended(&self, thread: usize) {
        self.set(thread, false);
    }

    fn set(&self, thread: usize, open: bool) {
        if let Some(flag) = self.threads.get(thread) {
            flag.store(open, Ordering::Release);
        }
    }
}
