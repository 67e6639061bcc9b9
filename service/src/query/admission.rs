//! How many requests may be in progress, over REST and gRPC together, and whether new ones are taken at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::QueryError;

/// Counts requests in progress and refuses those over the bound.
#[derive(Debug)]
pub struct Admission {
    limit: usize,
    in_progress: AtomicUsize,
    idle: Notify,
}

/// A request in progress; ends when dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
}

impl Admission {
    /// Up to `limit` requests at once.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, in_progress: AtomicUsize::new(0), idle: Notify::new() })
    }

    /// Lets a request in, or says that there are too many.
    pub fn enter(self: &Arc<Self>) -> Result<Permit, QueryError> {
        if self.in_progress.fetch_add(1, Ordering::AcqRel) >= self.limit {
            self.leave();
            return Err(QueryError::Busy { what: "requests", limit: self.limit });
        }
        Ok(Permit { admission: Arc::clone(self) })
    }

    /// Requests in progress.
    pub fn in_progress(&self) -> usize {
        self.in_progress.load(Ordering::Acquire)
    }

    /// Waits until none is in progress; `false` when some still are after `timeout`.
    pub async fn idle(&self, timeout: Duration) -> bool {
        let wait = async {
            loop {
                let notified = self.idle.notified();
                if self.in_progress() == 0 {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(timeout, wait).await.is_ok()
    }

    fn leave(&self) {
        if self.in_progress.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_bound_holds_and_idleness_is_seen() {
        let admission = Admission::new(2);
        let first = admission.enter().unwrap();
        let second = admission.enter().unwrap();
        assert!(matches!(admission.enter(), Err(QueryError::Busy { limit: 2, .. })));
        drop(first);
        assert!(admission.enter().is_ok());
        assert!(!admission.idle(Duration::from_millis(1)).await);
        let waiting = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.idle(Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        drop(second);
        assert!(waiting.await.unwrap());
        assert_eq!(admission.in_progress(), 0);
    }
}
