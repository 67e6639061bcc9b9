//! Keeps apart the commits that name a generation and the joins that end it, for as long as either can wait.
//!
//! A transaction whose offsets reach the coordinator in the moments after the generation that they name has ended is refused, and all
//! of its rows are written again. A join takes a few milliseconds where all members hear of it, and so do offsets: whoever comes
//! second waits for the other. What takes longer than that goes on, as both would without this.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::{sync::Notify, time::timeout};

/// Between the threads that commit and the driver.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    joined: Condvar,
    quiet: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// JoinGroup is out, or about to go out.
    joining: bool,
    /// Calls that name the generation, on their way.
    naming: usize,
}

impl Gate {
    /// Makes a call that names the generation: when no join is under way, and at the latest after `patience`.
    pub(super) fn name_generation(&self, patience: Duration, call: &mut dyn FnMut()) {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.joining && !self.joined.wait_until(&mut state, until).timed_out() {}
        state.naming += 1;
        drop(state);
        let _naming = Naming(self);
        call();
    }

    /// From now on a join is under way, or none is.
    pub(super) fn set_joining(&self, joining: bool) {
        let before = std::mem::replace(&mut self.state.lock().joining, joining);
        if before && !joining {
            self.joined.notify_all();
        }
    }

    /// Whether no call is on its way that names the generation.
    pub(super) fn is_quiet(&self) -> bool {
        self.state.lock().naming == 0
    }

    /// Waits until no call is on its way that names the generation, and for no longer than `patience`.
    pub(super) async fn wait_quiet(&self, patience: Duration) {
        let quiet = async {
            loop {
                let left = self.quiet.notified();
                if self.is_quiet() {
                    return;
                }
                left.await;
            }
        };
        // Too late or not, the join goes out now.
        let _ = timeout(patience, quiet).await;
    }
}

/// One call that names the generation.
struct Naming<'a>(&'a Gate);

impl Drop for Naming<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.naming -= 1;
        if state.naming == 0 {
            self.0.quiet.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn a_call_is_made_when_the_join_has_ended() {
        let gate = Arc::new(Gate::default());
        gate.set_joining(true);
        let began = Instant::now();
        let caller = thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.name_generation(LONG, &mut || {})
        });
        gate.set_joining(false);
        caller.join().unwrap();
        assert!(began.elapsed() < LONG, "it was woken");
        assert!(gate.is_quiet());
    }

    #[test]
    fn a_call_waits_for_a_join_as_long_as_it_may() {
        let gate = Gate::default();
        gate.set_joining(true);
        let (began, mut calls) = (Instant::now(), 0);
        gate.name_generation(SHORT, &mut || calls += 1);
        assert!(began.elapsed() >= SHORT, "it waited");
        assert_eq!(calls, 1);
    }

    #[tokio::test]
    async fn a_join_waits_for_the_calls_before_it() {
        let gate = Arc::new(Gate::default());
        gate.wait_quiet(LONG).await;
        let (begin, begun) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let mut once = Some((begin, ended));
        let caller = thread::spawn({
            let gate = Arc::clone(&gate);
            move || {
                gate.name_generation(LONG, &mut || {
                    let (begin, ended) = once.take().unwrap();
                    begin.send(()).unwrap();
                    ended.blocking_recv().unwrap();
                });
            }
        });
        begun.await.unwrap();
        assert!(!gate.is_quiet());
        // For no longer than it may.
        gate.wait_quiet(SHORT).await;
        assert!(!gate.is_quiet());
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.wait_quiet(LONG).await }
        });
        end.send(()).unwrap();
        waiting.await.unwrap();
        assert!(gate.is_quiet());
        caller.join().unwrap();
    }

    #[test]
    fn a_call_that_panics_is_over() {
        let gate = Gate::default();
        let call = std::panic::AssertUnwindSafe(|| gate.name_generation(LONG, &mut || panic!("on purpose")));
        assert!(std::panic::catch_unwind(call).is_err());
        assert!(gate.is_quiet());
    }
}
