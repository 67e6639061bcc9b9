//! Bringing tasks up to their changelogs' ends, and keeping copies of other instances' tasks there: one thread for all.
//!
//! The order is that of decision 5: predecessors are fenced before the group gives the task out; committed offsets are read
//! with `require_stable`; then the changelog's high watermark; then the changelog is read, committed transactions only,
//! until its end is reached (the end as the broker tells it: a last record's offset + 1 never gets past control records).

mod changelog;
mod follow;
mod handed;
mod moved;
mod observed;
mod pause;
mod thread;

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use crossbeam_channel::{Sender, unbounded};
use holdfast_store::{MemoryBudget, OpenError, StateDirectory, StoreError, TaskStore, TaskStoreSpec};
use holdfast_types::{Clock, GroupError, GroupSession, TaskId, TopicPartition};
use tracing::warn;

use self::thread::RestoreThread;
use super::{committer::OpenTransactions, config::EngineConfig, served::TaskView, status::RestoreStatus};
use crate::kafka::{FetchConsumer, FetchError, Reads, Waker};

/// A task to open, and to restore or to follow.
#[derive(Debug)]
pub(super) struct RestoreJob {
    pub(super) task: TaskId,
    /// Which job of this task it is: what an earlier one tells late is not about this one.
    pub(super) attempt: u64,
    pub(super) spec: TaskStoreSpec,
    /// A directory that has not followed its changelogs for longer lacks deletions that they have forgotten.
    pub(super) max_age: Duration,
    /// Changelog partition per store.
    pub(super) changelogs: Arc<[Option<TopicPartition>]>,
    /// Input partitions, whose committed offsets are wanted.
    pub(super) inputs: Vec<TopicPartition>,
    pub(super) view: Arc<TaskView>,
    /// The store, where it is open already.
    pub(super) store: Option<Arc<TaskStore>>,
}

/// What became of a job.
#[derive(Debug)]
pub(super) enum RestoreEvent {
    /// The store is open: its committed rows can be read, as of its checkpoint.
    Opened { task: TaskId, store: Arc<TaskStore> },
    /// Some way on.
    Progress { task: TaskId, status: RestoreStatus },
    /// Waiting for something outside.
    Waiting { task: TaskId, reason: String },
    /// At the end of the changelogs.
    Done { task: TaskId, attempt: u64, store: Arc<TaskStore>, offsets: Vec<Option<i64>> },
    /// It cannot be restored.
    Failed { task: TaskId, attempt: u64, error: RestoreError },
}

/// Why a task cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Its directory cannot be used.
    #[error("task {task}: {source}")]
    Open {
        /// The task.
        task: TaskId,
        /// What is wrong with the directory, and the way out.
        source: OpenError,
    },
    /// Rows cannot be written.
    #[error("task {task}: {source}")]
    Store {
        /// The task.
        task: TaskId,
        /// Why.
        source: StoreError,
    },
    /// The changelog cannot be read.
    #[error("task {task}: {source}")]
    Fetch {
        /// The task.
        task: TaskId,
        /// Why.
        source: FetchError,
    },
    /// The broker refuses to tell the committed offsets.
    #[error("task {task}: {source}")]
    Group {
        /// The task.
        task: TaskId,
        /// Why.
        source: GroupError,
    },
}

enum Command {
    Restore(Box<RestoreJob>),
    Follow(Box<RestoreJob>),
    Cancel(TaskId),
}

/// The handle on the restore thread.
#[derive(Debug)]
pub(super) struct Restorer {
    commands: Option<Sender<Command>>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

/// What restoring needs of the process.
#[derive(Clone)]
pub(super) struct RestoreContext {
    pub(super) config: Arc<EngineConfig>,
    pub(super) directory: Arc<StateDirectory>,
    pub(super) budget: Arc<MemoryBudget>,
    pub(super) group: Arc<dyn GroupSession>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) open_transactions: Arc<OpenTransactions>,
    /// Bound of what is fetched ahead of each changelog that is followed.
    pub(super) follow_queue_bytes: u64,
}

impl Restorer {
    pub(super) fn start(
        context: RestoreContext,
        events: Sender<RestoreEvent>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let settings = &context.config.connection;
        let group_id = &context.config.application_id;
        let queue_bytes = context.budget.fetch_limit_bytes() / 4;
        let consumer = FetchConsumer::new(settings, group_id, Reads::CommittedToTheEnd, queue_bytes)?;
        let ends = FetchConsumer::new(settings, group_id, Reads::Uncommitted, 1 << 20)?;
        let (commands, incoming) = unbounded();
        let waker = Arc::new(Waker::default());
        let mut thread = RestoreThread::new(context, consumer, ends, events, Arc::clone(&waker));
        let thread = std::thread::Builder::new().name("restore".to_owned()).spawn(move || thread.run(&incoming))?;
        Ok(Self { commands: Some(commands), waker, thread: Some(thread) })
    }

    pub(super) fn restore(&self, job: RestoreJob) {
        self.send(Command::Restore(Box::new(job)));
    }

    /// Follows the task until another job for it comes, or a cancellation. What was done with it before ends.
    pub(super) fn follow(&self, job: RestoreJob) {
        self.send(Command::Follow(Box::new(job)));
    }

    pub(super) fn cancel(&self, task: TaskId) {
        self.send(Command::Cancel(task));
    }

    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // A thread that is gone is noticed through `is_dead`.
            let _ = commands.send(command);
            self.waker.wake();
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Restorer {
    fn drop(&mut self) {
        self.commands = None;
        self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the restore thread panicked");
        }
    }
}
