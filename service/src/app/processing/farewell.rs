//! The end of processing: tasks handed over while others can take them, the group left, all state closed.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::Processing;

/// Longest time that a drain waits for a rebalance in which this member has no task any more.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);
/// Longest time that it stays reachable then for reads of tasks whose new owners do not answer yet.
const ANSWERED_LIMIT: Duration = Duration::from_secs(3);
/// Time that is kept for telling the group that this member leaves.
const FAREWELL: Duration = Duration::from_secs(1);

impl Processing {
    /// Hands over, commits, releases every task, leaves the group, closes all state. Blocks; whether all was done within the
    /// deadline.
    pub fn shutdown(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        self.stop.store(true, Ordering::Release);
        let left = || until.saturating_duration_since(Instant::now());
        if self.hand_over(HAND_OVER_LIMIT.min(left() / 2)) {
            self.wait_answered(ANSWERED_LIMIT.min(left() / 2));
        }
        // Whatever the threads do, the group hears that this member leaves.
        let time = left().saturating_sub(FAREWELL.min(left() / 4));
        let committed = self.engine.get().is_none_or(|engine| engine.release(time));
        if !committed {
            warn!("not everything was committed in time; what is missing is processed again after the next start");
        }
        let gone = self.member.get().is_none_or(|member| match member.leave(left()) {
            Ok(()) => true,
            Err(error) => {
                warn!(%error, "the group was not told that this member leaves; its session timeout will tell");
                false
            }
        });
        // Nobody waits for this any more: whoever took over has a copy of its own.
        let closed = self.engine.get().is_none_or(|engine| engine.shutdown(left()));
        if !closed {
            warn!("not all state was closed in time; what is missing is replayed after the next start");
        }
        committed && gone && closed
    }

    /// Tells the group that this member is about to leave, while it still processes, and waits until it has nothing to process
    /// any more: its standby slots are kept for it then, and each task goes to the copy that is the furthest. Whether that was
    /// done.
    fn hand_over(&self, deadline: Duration) -> bool {
        let others = self.cluster.load().members.len() > 1;
        let Some(member) = self.member.get().filter(|_| others) else { return false };
        let until = Instant::now() + deadline;
        let mut applied = self.applied.lock();
        let before = applied.generation;
        member.drain();
        while applied.generation <= before || !applied.idle {
            if self.applied_changed.wait_until(&mut applied, until).timed_out() {
                info!("the group has not rebalanced in time; leaving as it is");
                return false;
            }
        }
        info!(generation = applied.generation, "tasks are handed over");
        true
    }

    /// Waits until others answer for what was handed over: whoever has to replay something first leaves the copies here as the
    /// only complete ones, and once this member is out of the group, nobody asks it any more.
    fn wait_answered(&self, deadline: Duration) {
        let Some(engine) = self.engine.get() else { return };
        let until = Instant::now() + deadline;
        let mut applied = self.applied.lock();
        loop {
            let unanswered = engine.status().unanswered();
            if unanswered == 0 {
                return;
            }
            if self.applied_changed.wait_until(&mut applied, until).timed_out() {
                info!(tasks = unanswered, "the new owners of some tasks do not answer yet; leaving as it is");
                return;
            }
        }
    }
}
