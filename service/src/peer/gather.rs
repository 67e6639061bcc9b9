//! Look-ups on their way to the same peer: those of one turn of a thread go together, and so does what comes while a few calls are
//! on their way.
//!
//! A call costs both instances several times what the look-up in it does. Under load most look-ups share one; a caller that is
//! alone never waits for another.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_proto::holdfast::v1::{self as pb, peer_service_client::PeerServiceClient};
use holdfast_types::StoreName;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot, task::yield_now, time::timeout};
use tonic::{Code, Response, Status};

use super::{channels::Link, client::MAX_ANSWER_BYTES, convert, token::Token};
use crate::query::{Consistency, Outcome, ReadOptions, StoreInfo};

/// Calls on their way to a peer, from which on look-ups wait for one of them to end.
const CALLS: usize = 2;
/// Most look-ups in one call: with rows of 1 MiB, the longest that brokers take unless told otherwise, the answer is within its
/// bound.
const TOGETHER: usize = 32;
/// Most look-ups that wait; further ones go at once.
const WAITING: usize = 1024;

/// Time of a look-up that has no limit of its own.
const LONGEST: Duration = Duration::from_secs(60);
/// How much longer than the question's own time its answer is waited for: the peer says better than a clock why it has none.
const GRACE: Duration = Duration::from_millis(20);

/// The look-ups on their way to one peer.
#[derive(Debug, Default)]
pub(super) struct Gather(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    calls: usize,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    store: StoreName,
    key: Bytes,
    consistency: Consistency,
    until: Instant,
    told: oneshot::Sender<Together>,
}

/// What became of a look-up that went with others.
#[derive(Debug)]
pub(super) enum Together {
    /// The peer's generation, and what it says of this key.
    Answered(i32, Outcome),
    /// Nobody answered the call.
    Failed(Status),
    /// It has to be asked by itself: what is said of the whole call may not hold for each look-up in it.
    Alone,
}

/// How a look-up goes.
#[derive(Debug)]
pub(super) enum Turn {
    /// By itself; the pass is dropped when the answer has come.
    Now(Option<Pass>),
    /// With others.
    Later(oneshot::Receiver<Together>),
}

/// Leave to have a call on its way. Its end lets those go who wait.
#[derive(Debug)]
pub(super) struct Pass {
    link: Arc<Link>,
    token: Token,
}

/// Whether a look-up may share a call: one that waits for something at the peer would hold the others up.
pub(super) fn may_share(options: &ReadOptions) -> bool {
    options.consistency != Consistency::Strong && options.min_position.is_none()
}

/// A look-up that wants to go.
pub(super) async fn enter(
    link: &Arc<Link>,
    token: &Token,
    store: &StoreInfo,
    key: &[u8],
    options: &ReadOptions,
) -> Turn {
    if !link.gather.take_place() {
        return link.gather.wait(store, key, options).map_or(Turn::Now(None), Turn::Later);
    }
    let pass = Pass { link: Arc::clone(link), token: token.clone() };
    // Requests tend to come as answers go, many at once: whoever else is read in this turn of the thread goes along.
    yield_now().await;
    if link.gather.is_alone() {
        return Turn::Now(Some(pass));
    }
    match link.gather.wait(store, key, options) {
        // The pass is dropped here, which lets all go.
        Some(answer) => Turn::Later(answer),
        None => Turn::Now(Some(pass)),
    }
}

impl Gather {
    /// Whether one more call may be on its way, which counts from now on.
    fn take_place(&self) -> bool {
        let mut state = self.0.lock();
        let free = state.calls < CALLS;
        state.calls += usize::from(free);
        free
    }

    fn is_alone(&self) -> bool {
        self.0.lock().waiting.is_empty()
    }

    /// Where the answer comes of a look-up that goes with others; `None` if too many wait.
    fn wait(&self, store: &StoreInfo, key: &[u8], options: &ReadOptions) -> Option<oneshot::Receiver<Together>> {
        let mut state = self.0.lock();
        if state.waiting.len() >= WAITING {
            state.waiting.retain(|waiting| !waiting.told.is_closed());
            if state.waiting.len() >= WAITING {
                return None;
            }
        }
        let (told, answer) = oneshot::channel();
        state.waiting.push_back(Waiting {
            store: store.name.clone(),
            key: Bytes::copy_from_slice(key),
            consistency: options.consistency,
            until: Instant::now() + options.timeout.unwrap_or(LONGEST),
            told,
        });
        Some(answer)
    }

    /// The next look-ups that go together; if there are none, the place of their call is given back.
    fn next(&self) -> Option<Vec<Waiting>> {
        let mut state = self.0.lock();
        let mut together = Vec::new();
        let mut rest = VecDeque::new();
        // But for those who have given up, or were answered by another peer.
        for waiting in std::mem::take(&mut state.waiting).into_iter().filter(|waiting| !waiting.told.is_closed()) {
            if together.len() < TOGETHER && together.first().is_none_or(|first| waiting.goes_with(first)) {
                together.push(waiting);
            } else {
                rest.push_back(waiting);
            }
        }
        state.waiting = rest;
        if together.is_empty() {
            state.calls -= 1;
            return None;
        }
        Some(together)
    }
}

impl Waiting {
    fn goes_with(&self, other: &Self) -> bool {
        self.store == other.store && self.consistency == other.consistency
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        // Without a runtime the process ends; whoever waits is told by the end of the channel.
        let Ok(runtime) = Handle::try_current() else { return };
        if let Some(together) = self.link.gather.next() {
            let pass = Self { link: Arc::clone(&self.link), token: self.token.clone() };
            runtime.spawn(pass.carry(together));
        }
    }
}

impl Pass {
    /// Puts look-ups to the peer in one call.
    async fn carry(self, together: Vec<Waiting>) {
        let now = Instant::now();
        let Some(first) = together.first() else { return };
        let left =
            together.iter().map(|waiting| waiting.until.saturating_duration_since(now)).max().unwrap_or_default();
        let options = ReadOptions { consistency: first.consistency, timeout: Some(left), ..ReadOptions::default() };
        let request = self.token.request(pb::PeerBatchGetRequest {
            store: first.store.to_string(),
            keys: together.iter().map(|waiting| waiting.key.clone()).collect(),
            options: Some(convert::options_to(&options)),
        });
        let channel = match self.link.questions() {
            Ok(channel) => channel,
            Err(error) => return tell(together, Err(Status::unavailable(error.to_string())), &self.link),
        };
        let mut client = PeerServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let answer = match timeout(left.saturating_add(GRACE), client.batch_get(request)).await {
            Ok(answer) => answer.map(Response::into_inner),
            // Each of them has its own limit, which has passed.
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        };
        tell(together, answer, &self.link);
    }
}

fn tell(together: Vec<Waiting>, answer: Result<pb::PeerBatchGetResponse, Status>, link: &Link) {
    let tell = |waiting: Waiting, what| {
        // Who has given up meanwhile does not listen.
        let _ = waiting.told.send(what);
    };
    match answer {
        Ok(answer) if answer.outcomes.len() == together.len() => {
            let generation = answer.generation;
            for (waiting, outcome) in together.into_iter().zip(convert::outcomes_from(answer, &link.endpoint)) {
                tell(
                    waiting,
                    match outcome {
                        // It may be about the call: more keys than the peer takes in one.
                        Err(error) if !error.elsewhere_may_help() => Together::Alone,
                        outcome => Together::Answered(generation, outcome),
                    },
                );
            }
        }
        // An answer that is too long together, or none that makes sense.
        Ok(_) => together.into_iter().for_each(|waiting| tell(waiting, Together::Alone)),
        Err(status) if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted) => {
            together.into_iter().for_each(|waiting| tell(waiting, Together::Alone));
        }
        Err(status) => together.into_iter().for_each(|waiting| tell(waiting, Together::Failed(status.clone()))),
    }
}
