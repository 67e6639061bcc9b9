//! One question to several replicas: the next one is asked as soon as one refuses, and besides as soon as one is slow or a hedge
//! is due. It is on the way of every forwarded look-up: one timer, and one allocation for the calls.

use std::{future::poll_fn, iter::Peekable, pin::pin, slice, sync::Arc, task::Poll};

use holdfast_types::{InstanceInfo, ProcessId};
use tokio::time::{Instant, sleep_until};

use super::{GRACE, SLOW_AFTER, Search};
use crate::{
    query::{Cluster, Queries, QueryError, forward::Forwarded},
    telemetry::names,
};

/// Who may be asked yet.
type Replicas<'a> = Peekable<slice::Iter<'a, Arc<InstanceInfo>>>;

/// A call on its way.
struct Call<'a, T> {
    peer: ProcessId,
    /// When it counts as slow; `None` once it does.
    slow_at: Option<Instant>,
    answer: Forwarded<'a, T>,
}

/// The calls on their way: at most one to each replica.
struct Calls<'a, T>(Vec<Call<'a, T>>);

impl<T> Calls<'_, T> {
    /// The next answer, and who gave it.
    async fn next(&mut self) -> (ProcessId, Result<T, QueryError>) {
        poll_fn(|cx| {
            let answered = self.0.iter_mut().enumerate().find_map(|(index, call)| {
                let Poll::Ready(answer) = call.answer.as_mut().poll(cx) else { return None };
                Some((index, answer))
            });
            match answered {
                Some((index, answer)) => Poll::Ready((self.0.remove(index).peer, answer)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// When somebody counts as slow next.
    fn slow_at(&self) -> Option<Instant> {
        self.0.iter().filter_map(|call| call.slow_at).min()
    }

    /// Those who count as slow by now, each once.
    fn slow(&mut self, now: Instant) -> impl Iterator<Item = ProcessId> {
        self.0.iter_mut().filter_map(move |call| call.slow_at.take_if(|slow_at| *slow_at <= now).map(|_| call.peer))
    }
}

impl Queries {
    /// Asks replicas one after the other; the first good answer counts.
    pub(in crate::query) async fn ask<'a, T: Send + 'a>(
        &'a self,
        cluster: &Cluster,
        peers: &'a [Arc<InstanceInfo>],
        search: &Search,
        call: impl Fn(&'a InstanceInfo) -> Forwarded<'a, T>,
    ) -> Result<T, QueryError> {
        let forward = &self.inner.forward;
        let (patience, counted) = match forward.hedge_after().filter(|hedge| *hedge < SLOW_AFTER) {
            Some(hedge) => (hedge, names::FORWARD_HEDGES),
            None => (SLOW_AFTER, names::FORWARD_RETRIES),
        };
        // The peers say themselves that the time is over, and why.
        let give_up_at = search.until + GRACE;
        let mut now = Instant::now();
        // When the next one is asked, whoever is silent.
        let mut besides_at = now + patience;
        let mut alarm = pin!(sleep_until(besides_at.min(give_up_at)));
        let mut calls = Calls(Vec::with_capacity(1));
        let mut rest = peers.iter().peekable();
        let mut next = rest.next();
        let mut refusal = None::<QueryError>;
        self.inner.budget.deposit();
        loop {
            if let Some(peer) = next.take() {
                // A copy here that waits is not slow.
                let slow_at = (!cluster.is_self(peer)).then(|| now + SLOW_AFTER);
                calls.0.push(Call { peer: peer.process_id, slow_at, answer: call(peer) });
                besides_at = now + patience;
            }
            let besides = rest.peek().map(|_| besides_at);
            let wake_at = calls.slow_at().into_iter().chain(besides).fold(give_up_at, Instant::min);
            if alarm.deadline() != wake_at {
                alarm.as_mut().reset(wake_at);
            }
            let answered = tokio::select! {
                // An answer that is there comes before what is done for the want of one.
                biased;
                answered = calls.next() => Some(answered),
                () = &mut alarm => None,
            };
            let Some((peer, answer)) = answered else {
                now = Instant::now();
                calls.slow(now).for_each(|peer| forward.found_slow(peer));
                if now >= give_up_at {
                    return Err(refusal.unwrap_or(QueryError::Deadline { timeout: search.timeout }));
                }
                if besides_at <= now {
                    // Unless the budget denies it: then later.
                    besides_at = now + SLOW_AFTER;
                    next = self.another(cluster, &mut rest, counted);
                }
                continue;
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) if error.elsewhere_may_help() => {
                    if matches!(error, QueryError::OwnerUnreachable { .. }) {
                        forward.found_slow(peer);
                    }
                    refusal = Some(refusal.map_or(error.clone(), |earlier| earlier.or_rather(error)));
                    next = self.another(cluster, &mut rest, names::FORWARD_RETRIES);
                    now = Instant::now();
                    if next.is_none() && calls.0.is_empty() {
                        return Err(refusal.unwrap_or(QueryError::Deadline { timeout: search.timeout }));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next replica, if there is one and the budget allows a further call, which is counted. The copy here costs no call.
    pub(super) fn another<'a>(
        &self,
        cluster: &Cluster,
        rest: &mut Replicas<'a>,
        counted: &'static str,
    ) -> Option<&'a Arc<InstanceInfo>> {
        let own = |peer: &InstanceInfo| cluster.is_self(peer);
        let next = rest.next_if(|peer| own(peer) || self.inner.budget.withdraw())?;
        if !own(next) {
            metrics::counter!(counted).increment(1);
        }
        Some(next)
    }
}
