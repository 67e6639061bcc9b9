//! A stream thread: owns tasks, turns their input into rows, and seals them at every commit interval.

mod settle;
mod turn;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use holdfast_store::{MemoryBudget, TaskStore};
use holdfast_types::{Clock, GroupSession, TaskId, TopicPartition};
use parking_lot::Mutex;

use super::{
    committer::{Committer, OpenTransactions},
    config::EngineConfig,
    metrics,
    served::TaskView,
    topics,
};
use crate::{
    errors::{DeadLetterQueue, ErrorHandlers},
    kafka::{FetchConsumer, Waker},
    task::{ActiveTask, RecordInHand, ResolvedSink, Seal},
    topology::Topology,
};

/// A restored task, ready to process.
#[derive(Debug)]
pub(super) struct TaskStart {
    pub(super) id: TaskId,
    /// The job that restored it; what the thread tells of the task later is about this life of it.
    pub(super) attempt: u64,
    /// The tenure in which it is this instance's.
    pub(super) tenure: u64,
    pub(super) store: Arc<TaskStore>,
    pub(super) view: Arc<TaskView>,
    /// Committed next offset per input, in the order of the sub-topology's sources.
    pub(super) inputs: Vec<(TopicPartition, Option<i64>)>,
    pub(super) changelogs: Arc<[Option<TopicPartition>]>,
    pub(super) sinks: Arc<[ResolvedSink]>,
}

/// What the supervisor asks of a thread.
#[derive(Debug)]
pub(super) enum ThreadCommand {
    /// Take this task.
    Add(Box<TaskStart>),
    /// Commit (if asked to), release these tasks, then say so.
    Release { tasks: Vec<TaskId>, commit: bool, done: Sender<()> },
    /// A new generation is in force: what was superseded goes again.
    NewGeneration,
    /// This input topic was deleted and created again; the old one was last seen at that time.
    InputRecreated { topic: Arc<str>, old_seen: Instant },
    /// Commit, release everything, end.
    Stop { commit: bool },
}

/// A task that a thread had, and the job that had restored it: who hears of it late may have given it out again.
pub(super) type TaskLife = (TaskId, u64);

/// What a thread tells the supervisor.
#[derive(Debug)]
pub(super) enum ThreadEvent {
    /// These tasks go back to their last commit and are to be restored.
    Restart { thread: usize, tasks: Vec<TaskLife>, reason: String },
    /// The member was removed from the group; the thread dropped its tasks.
    NotAMember { tenure: u64, tasks: Vec<TaskLife> },
    /// This instance cannot go on, and another thread could not either.
    Fatal { reason: String },
    /// The thread ended with an error; its tasks are dropped.
    Failed { thread: usize, reason: String },
}

/// What a thread shows of itself, for status and liveness.
#[derive(Debug)]
pub(super) struct ThreadView {
    pub(super) processed: AtomicU64,
    turned_ms: AtomicU64,
    started: Instant,
    pub(super) tasks: Mutex<BTreeMap<TaskId, TaskProgress>>,
    /// Whether input waits for memory or for a commit.
    pub(super) throttled: AtomicBool,
    /// The record that it is at.
    pub(super) hand: Arc<RecordInHand>,
}

/// How far a task is.
#[derive(Clone, Debug, Default)]
pub(super) struct TaskProgress {
    pub(super) committed: BTreeMap<TopicPartition, i64>,
    pub(super) lag: BTreeMap<TopicPartition, i64>,
    pub(super) stream_time_ms: i64,
}

impl ThreadView {
    fn turn(&self) {
        self.turned_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Milliseconds since the loop last turned.
    pub(super) fn idle_ms(&self) -> u64 {
        (self.started.elapsed().as_millis() as u64).saturating_sub(self.turned_ms.load(Ordering::Relaxed))
    }
}

/// What every thread shares.
#[derive(Clone)]
pub(super) struct ThreadContext {
    pub(super) config: Arc<EngineConfig>,
    pub(super) topology: Topology,
    pub(super) consumer: Arc<FetchConsumer>,
    pub(super) budget: Arc<MemoryBudget>,
    pub(super) group: Arc<dyn GroupSession>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) open_transactions: Arc<OpenTransactions>,
    pub(super) events: Sender<ThreadEvent>,
}

/// The supervisor's handle on a thread.
#[derive(Debug)]
pub(super) struct StreamThread {
    commands: Sender<ThreadCommand>,
    waker: Arc<Waker>,
    pub(super) view: Arc<ThreadView>,
    thread: Option<JoinHandle<()>>,
}

impl StreamThread {
    pub(super) fn start(index: usize, context: ThreadContext) -> std::io::Result<Self> {
        let (commands, incoming) = unbounded();
        let waker = Arc::new(Waker::default());
        let view = Arc::new(ThreadView {
            processed: AtomicU64::new(0),
            turned_ms: AtomicU64::new(0),
            started: Instant::now(),
            tasks: Mutex::new(BTreeMap::new()),
            throttled: AtomicBool::new(false),
            hand: Arc::default(),
        });
        let committer = Committer::start(
            &context.config,
            index,
            topics::changelogs(&context.topology, &context.config).into_iter().next().map(|(_, topic)| topic),
            Arc::clone(&context.group),
            Arc::clone(&context.open_transactions),
            Arc::clone(&waker),
        )?;
        let events = context.events.clone();
        let handlers = Arc::new(context.config.error_handlers.clone());
        let loop_state = Loop {
            index,
            dead_letter_queue: DeadLetterQueue::new(
                Arc::clone(&context.config.dead_letter_topic),
                context.config.limits.of(&context.config.dead_letter_topic),
            ),
            handlers,
            context,
            incoming,
            committer,
            waker: Arc::clone(&waker),
            view: Arc::clone(&view),
            tasks: BTreeMap::new(),
            attempts: BTreeMap::new(),
            tenure: 0,
            in_flight: Vec::new(),
            superseded: None,
            begun_anew: BTreeMap::new(),
            last_seal: Instant::now(),
            stretched: 1,
            sealed_alone: false,
            idle_since_seal: true,
            last_report: Instant::now(),
            stop: false,
        };
        let thread = std::thread::Builder::new().name(format!("stream-{index}")).spawn(move || {
            let mut state = loop_state;
            state.waker.register();
            if let Err(reason) = state.run() {
                metrics::thread_failed();
                state.drop_all_tasks();
                // Ends the commit thread: nobody restores a task whose seal is still on its way.
                drop(state);
                let _ = events.send(ThreadEvent::Failed { thread: index, reason });
            }
        })?;
        Ok(Self { commands, waker, view, thread: Some(thread) })
    }

    pub(super) fn send(&self, command: ThreadCommand) {
        // A thread that is gone is noticed through `is_dead`, and its tasks are given out again.
        let _ = self.commands.send(command);
        self.waker.wake();
    }

    pub(super) fn is_dead(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the thread's end; whether it ended without a panic.
    pub(super) fn join(&mut self) -> bool {
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

struct Loop {
    index: usize,
    context: ThreadContext,
    handlers: Arc<ErrorHandlers>,
    dead_letter_queue: DeadLetterQueue,
    incoming: Receiver<ThreadCommand>,
    committer: Committer,
    waker: Arc<Waker>,
    view: Arc<ThreadView>,
    tasks: BTreeMap<TaskId, ActiveTask>,
    /// The jobs that restored them.
    attempts: BTreeMap<TaskId, u64>,
    /// The tenure in which they are this instance's: all are dropped when it ends, before one of the next is added.
    tenure: u64,
    /// The tasks of the seal in flight, one for each time that they were sealed for it.
    in_flight: Vec<TaskId>,
    /// A seal whose generation (that one) ended; it goes again under the next one, for the tasks that are still here.
    superseded: Option<(Seal, i32)>,
    /// Inputs that went on by `offset_reset`, and when.
    begun_anew: BTreeMap<TopicPartition, Instant>,
    last_seal: Instant,
    /// Factor on the commit interval, while a backlog is worked off.
    stretched: u32,
    /// Whether the last seal was that of one task that goes in steps.
    sealed_alone: bool,
    idle_since_seal: bool,
    last_report: Instant,
    stop: bool,
}
