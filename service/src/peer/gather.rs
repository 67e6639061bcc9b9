//! Look-ups on their way to the same peer: those of one turn of a thread go in one question, and so does what comes while a few
//! questions are on their way.
//!
//! A question costs both instances more than the look-up in it does. Under load most look-ups share one; a caller that is alone
//! never waits for another.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_proto::holdfast::v1 as pb;
use holdfast_types::{Endpoint, StoreName};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot, task::yield_now, time::timeout};
use tonic::{Code, Status};

use super::{channels::Link, convert, token::Token};
use crate::query::{Consistency, Outcome, ReadOptions, StoreInfo};

/// Questions on their way to a peer, from which on look-ups wait for one of them to be answered.
const QUESTIONS: usize = 2;
/// Most look-ups in one question: with rows of 1 MiB, the longest that brokers take unless told otherwise, the answer is within its
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
    questions: usize,
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
    /// Nobody answered the question.
    Failed(Status),
    /// It has to be asked by itself: what is said of the whole question may not hold for each look-up in it.
    Alone,
}

/// How a look-up goes.
#[derive(Debug)]
enum Turn {
    /// By itself; the pass is dropped when the answer has come.
    Now(Option<Pass>),
    /// With others.
    Later(oneshot::Receiver<Together>),
}

/// Leave to have a question on its way. Its end lets those go who wait.
#[derive(Debug)]
struct Pass {
    link: Arc<Link>,
    token: Token,
}

/// Whether a look-up may share a question: one that waits for something at the peer would hold the others up.
pub(super) fn may_share(options: &ReadOptions) -> bool {
    options.consistency != Consistency::Strong && options.min_position.is_none()
}

/// Looks a key up at the peer, with others if there are any.
pub(super) async fn look_up(
    link: &Arc<Link>,
    token: &Token,
    store: &StoreInfo,
    key: &[u8],
    options: &ReadOptions,
) -> Together {
    let pass = match enter(link, token, store, key, options).await {
        Turn::Now(pass) => pass,
        Turn::Later(told) => {
            return told.await.unwrap_or_else(|_| Together::Failed(Status::cancelled("this instance ends")));
        }
    };
    let question = question(&store.name, vec![Bytes::copy_from_slice(key)], options);
    let answer = link.look_up(token, question).await;
    drop(pass);
    // There is an outcome for each key, and one key.
    each(answer, 1, &link.endpoint).pop().unwrap_or(Together::Alone)
}

/// A look-up that wants to go.
async fn enter(link: &Arc<Link>, token: &Token, store: &StoreInfo, key: &[u8], options: &ReadOptions) -> Turn {
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
    /// Whether one more question may be on its way, which counts from now on.
    fn take_place(&self) -> bool {
        let mut state = self.0.lock();
        let free = state.questions < QUESTIONS;
        state.questions += usize::from(free);
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

    /// The next look-ups that go together; if there are none, the place of their question is given back.
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
            state.questions -= 1;
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
    /// Puts look-ups to the peer in one question.
    async fn carry(self, together: Vec<Waiting>) {
        let now = Instant::now();
        let Some(first) = together.first() else { return };
        let left =
            together.iter().map(|waiting| waiting.until.saturating_duration_since(now)).max().unwrap_or_default();
        let options = ReadOptions { consistency: first.consistency, timeout: Some(left), ..ReadOptions::default() };
        let keys = together.iter().map(|waiting| waiting.key.clone()).collect();
        let question = question(&first.store, keys, &options);
        let answer = match timeout(left.saturating_add(GRACE), self.link.look_up(&self.token, question)).await {
            Ok(answer) => answer,
            // Each of them has its own limit, which has passed.
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        };
        let outcomes = each(answer, together.len(), &self.link.endpoint);
        for (waiting, outcome) in together.into_iter().zip(outcomes) {
            // Who has given up meanwhile does not listen.
            let _ = waiting.told.send(outcome);
        }
    }
}

fn question(store: &StoreName, keys: Vec<Bytes>, options: &ReadOptions) -> pb::PeerBatchGetRequest {
    pb::PeerBatchGetRequest { store: store.to_string(), keys, options: Some(convert::options_to(options)) }
}

/// What became of each of the look-ups of a question.
fn each(answer: Result<pb::PeerBatchGetResponse, Status>, count: usize, endpoint: &Arc<Endpoint>) -> Vec<Together> {
    let answer = match answer {
        Ok(answer) if answer.outcomes.len() == count => answer,
        // An answer that is too long together, a peer of a build that has no such stream, or an answer that makes no sense.
        Ok(_) => return (0..count).map(|_| Together::Alone).collect(),
        Err(status) if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted | Code::Unimplemented) => {
            return (0..count).map(|_| Together::Alone).collect();
        }
        Err(status) => return (0..count).map(|_| Together::Failed(status.clone())).collect(),
    };
    let generation = answer.generation;
    let outcomes = convert::outcomes_from(answer, endpoint).into_iter().map(|outcome| match outcome {
        // It may be about the question: more keys than the peer takes in one.
        Err(error) if count > 1 && !error.elsewhere_may_help() => Together::Alone,
        outcome => Together::Answered(generation, outcome),
    });
    outcomes.collect()
}
