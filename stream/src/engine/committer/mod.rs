//! The journey of a seal: produced, acknowledged, committed, made visible. One thread beside each stream thread, which
//! goes on processing meanwhile.

mod journey;
mod letter_topic;
mod lost;
mod open_transactions;
mod producer;
mod records;
mod stop;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use holdfast_store::StoreError;
use holdfast_types::{GroupSession, TaskId, TransactionEnd};
use tracing::warn;

use self::lost::Progress;
pub(super) use self::open_transactions::OpenTransactions;
use self::{journey::Journey, letter_topic::LetterTopic};
use super::config::EngineConfig;
use crate::{kafka::Waker, task::Seal};

/// How often a thread that has nothing to commit looks whether its connections broke.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How a seal's journey ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Committed and visible.
    Committed {
        /// From the seal's arrival here until its rows were visible.
        took: Duration,
        /// Records produced.
        records: usize,
    },
    /// This member was removed from the group; nothing of the seal was committed.
    NotAMember,
    /// The generation is over; nothing was committed. Once the next one retains these tasks, the same seal goes again.
    Superseded {
        /// What was to be committed.
        seal: Seal,
        /// The generation that is over.
        generation: i32,
    },
    /// A topic refuses a record for what it is (its size, its time stamp): nothing was committed.
    RecordRefused {
        /// Whose record it was.
        task: TaskId,
        /// What it was, and why it is refused.
        what: String,
        /// Whether it was a dead letter.
        dead_letter: bool,
        /// The seal, for the tasks that are not at fault.
        seal: Seal,
    },
    /// The producer is of no use any more and whether the seal was committed is not known: a new producer, and every task of
    /// the thread restored.
    ProducerLost {
        /// Why.
        reason: String,
    },
    /// The rows are committed, but the store cannot take them.
    Store {
        /// The task whose store failed.
        task: TaskId,
        /// Why.
        error: StoreError,
    },
    /// The broker refuses for good (authorisation, say).
    Refused {
        /// Why.
        reason: String,
    },
}

/// The handle that a stream thread has on its committer.
#[derive(Debug)]
pub(super) struct Committer {
    seals: Option<Sender<Work>>,
    outcomes: Receiver<Outcome>,
    cancel: Arc<AtomicBool>,
    closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Work {
    /// Get the producer ready, so that the first commit need not wait for it.
    Prepare,
    Commit(Seal),
}

impl Committer {
    /// Starts the thread, which makes the producer when it is first wanted: by then the group has fenced what an earlier
    /// process left open under the same transactional id.
    pub(super) fn start(
        config: &Arc<EngineConfig>,
        thread_index: usize,
        changelog: Option<String>,
        group: Arc<dyn GroupSession>,
        open_transactions: Arc<OpenTransactions>,
        waker: Arc<Waker>,
    ) -> std::io::Result<Self> {
        let (seals, incoming) = bounded::<Work>(4);
        let (results, outcomes) = bounded(1);
        let cancel = Arc::new(AtomicBool::new(false));
        let closed = Arc::new(AtomicBool::new(false));
        let journey = Journey {
            config: Arc::clone(config),
            thread: thread_index,
            open_transactions,
            transactional_id: config.transactional_id(thread_index),
            changelog,
            group,
            cancel: Arc::clone(&cancel),
            closed: Arc::clone(&closed),
            producer: None,
            told_waiting: false,
            written: Vec::new(),
            generation: -1,
            progress: Progress::default(),
            committed: BTreeMap::new(),
            offsets_end: TransactionEnd::Committed,
            lost: None,
            letters: LetterTopic::default(),
        };
        let thread = std::thread::Builder::new().name(format!("commit-{thread_index}")).spawn(move || {
            let mut journey = journey;
            if journey.open_transactions.may_be_open(thread_index) {
                // The thread before this one left it so.
                journey.renew_producer();
            }
            loop {
                let seal = match incoming.recv_timeout(LOOK_EVERY) {
                    Ok(Work::Commit(seal)) => seal,
                    Ok(Work::Prepare) => {
                        journey.look_after(true, || !incoming.is_empty());
                        continue;
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        journey.look_after(false, || !incoming.is_empty());
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                let outcome = journey.run(seal);
                let lost = matches!(outcome, Outcome::ProducerLost { .. } | Outcome::Refused { .. });
                if lost {
                    journey.open_transactions.left_open(thread_index);
                }
                let gone = results.send(outcome).is_err();
                waker.wake();
                if gone {
                    break;
                }
                if lost {
                    // A new handle fences the old one and ends its transaction; nobody restores before that.
                    journey.renew_producer();
                }
            }
        })?;
        Ok(Self { seals: Some(seals), outcomes, cancel, closed, thread: Some(thread) })
    }

    /// Sends a seal on its way. The caller has none in flight.
    pub(super) fn send(&self, seal: Seal) -> bool {
        // What was cancelled has ended: its outcome was waited for.
        self.cancel.store(false, Ordering::Release);
        self.seals.as_ref().is_some_and(|seals| seals.send(Work::Commit(seal)).is_ok())
    }

    /// Gets the producer ready.
    pub(super) fn prepare(&self) {
        // One is enough, and a seal does the same: there is always room for the next seal, so that nobody waits to send it.
        if let Some(seals) = self.seals.as_ref().filter(|seals| seals.is_empty()) {
            let _ = seals.try_send(Work::Prepare);
        }
    }

    /// The outcome of the seal in flight, if it has ended.
    pub(super) fn try_outcome(&self) -> Option<Outcome> {
        self.outcomes.try_recv().ok()
    }

    /// Waits for the outcome of the seal in flight.
    pub(super) fn wait_outcome(&self, deadline: Duration) -> Option<Outcome> {
        self.outcomes.recv_timeout(deadline).ok()
    }

    /// Whether the committer's thread has ended (it panicked: a bug).
    pub(super) fn is_dead(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Gives up on the seal in flight at the next step.
    pub(super) fn cancel(&self) {
        self.cancel.store(true, Ordering::Release);
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        self.seals = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("a commit thread panicked");
        }
    }
}
