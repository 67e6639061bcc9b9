//! A stream thread: owns tasks, turns their input into rows, and seals them at every commit interval.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};
use holdfast_store::{MemoryBudget, TaskStore};
use holdfast_types::{Clock, GroupSession, Position, Role, TaskId, TopicPartition};
use parking_lot::Mutex;
use tracing::{debug, info, warn};

use super::{
    committer::{Committer, Outcome},
    config::{EngineConfig, OffsetReset},
    metrics,
    served::TaskView,
};
use crate::{
    errors::{DeadLetterQueue, ErrorHandlers, ErrorKind},
    kafka::{FetchConsumer, FetchError, StartOffset, Waker},
    processor::{TaskContext, TaskGraph},
    task::{ActiveTask, Input, PoisonedRecord, ResolvedSink, Seal, TaskError, TaskParts},
    topology::Topology,
};

/// A restored task, ready to process.
#[derive(Debug)]
pub(super) struct TaskStart {
    pub(super) id: TaskId,
    pub(super) store: Arc<TaskStore>,
    pub(super) view: Arc<TaskView>,
    /// Committed next offset per input, in the order of the sub-topology's sources.
    pub(super) inputs: Vec<(TopicPartition, Option<i64>)>,
    pub(super) changelogs: Arc<[Option<TopicPartition>]>,
    pub(super) sinks: Arc<[ResolvedSink]>,
    pub(super) poisoned: Vec<PoisonedRecord>,
    /// Up to where records are committed one by one, per input partition.
    pub(super) careful_until: BTreeMap<TopicPartition, i64>,
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
    /// Commit, release everything, end.
    Stop { commit: bool },
}

/// What a thread tells the supervisor.
#[derive(Debug)]
pub(super) enum ThreadEvent {
    /// These tasks go back to their last commit and are to be restored.
    Restart { thread: usize, tasks: Vec<TaskRestart>, reason: String },
    /// The member was removed from the group; the thread dropped its tasks.
    NotAMember { thread: usize },
    /// The thread ended with an error; its tasks are dropped.
    Failed { thread: usize, reason: String },
}

/// What a task's next life has to know.
#[derive(Clone, Debug)]
pub(super) struct TaskRestart {
    pub(super) id: TaskId,
    pub(super) poisoned: Vec<PoisonedRecord>,
    pub(super) careful_until: BTreeMap<TopicPartition, i64>,
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
        });
        let committer = Committer::start(&context.config, index, Arc::clone(&context.group), Arc::clone(&waker))?;
        let events = context.events.clone();
        let handlers = Arc::new(context.config.error_handlers.clone());
        let loop_state = Loop {
            index,
            dead_letter_queue: DeadLetterQueue::new(Arc::clone(&context.config.dead_letter_topic)),
            handlers,
            context,
            incoming,
            committer,
            waker: Arc::clone(&waker),
            view: Arc::clone(&view),
            tasks: BTreeMap::new(),
            in_flight: Vec::new(),
            superseded: None,
            restarts: Vec::new(),
            last_seal: Instant::now(),
            stretched: 1,
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
    /// Tasks whose part of the seal in flight is not resolved yet.
    in_flight: Vec<TaskId>,
    /// A seal whose generation ended; it goes again under the next one, for the tasks that are still here.
    superseded: Option<Seal>,
    /// Tasks to be restored once the seal in flight, of which they are a part, is resolved.
    restarts: Vec<ThreadEvent>,
    last_seal: Instant,
    /// Factor on the commit interval, while a backlog is worked off.
    stretched: u32,
    idle_since_seal: bool,
    last_report: Instant,
    stop: bool,
}

/// Records per task and turn: short enough that tasks share the thread fairly and commits are on time.
const SLICE_RECORDS: usize = 2048;
const IDLE_PARK: Duration = Duration::from_millis(50);
const REPORT_INTERVAL: Duration = Duration::from_millis(200);
/// How long a release waits for its commit before the tasks are dropped without it.
const RELEASE_DEADLINE: Duration = Duration::from_secs(8);
/// How long a given-up commit may take to notice.
const CANCEL_DEADLINE: Duration = Duration::from_secs(3);

impl Loop {
    fn run(&mut self) -> Result<(), String> {
        while !self.stop {
            self.view.turn();
            self.take_commands()?;
            self.take_outcome()?;
            if self.index == 0 {
                self.context.consumer.serve();
            }
            let processed = self.process()?;
            self.commit_if_due()?;
            self.report();
            if processed == 0 && !self.stop {
                self.idle_since_seal = true;
                std::thread::park_timeout(self.until_due());
            }
        }
        Ok(())
    }

    fn take_commands(&mut self) -> Result<(), String> {
        loop {
            match self.incoming.try_recv() {
                Ok(ThreadCommand::Add(start)) => self.add(*start)?,
                Ok(ThreadCommand::Release { tasks, commit, done }) => {
                    if commit {
                        self.commit_now(RELEASE_DEADLINE)?;
                    } else {
                        self.settle_in_flight(RELEASE_DEADLINE)?;
                    }
                    for task in tasks {
                        self.drop_task(task);
                    }
                    let _ = done.send(());
                }
                Ok(ThreadCommand::NewGeneration) => self.send_superseded(),
                Ok(ThreadCommand::Stop { commit }) => {
                    if commit {
                        self.commit_now(RELEASE_DEADLINE)?;
                    }
                    self.drop_all_tasks();
                    self.stop = true;
                    return Ok(());
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    self.stop = true;
                    return Ok(());
                }
            }
        }
    }

    fn add(&mut self, start: TaskStart) -> Result<(), String> {
        let id = start.id;
        self.drop_task(id);
        let Some(subtopology) = self.context.topology.subtopologies().iter().find(|sub| sub.id == id.subtopology)
        else {
            return Err(format!("task {id}: the topology has no such sub-topology"));
        };
        let tables: Vec<_> = (0..subtopology.stores.len()).map(|index| Arc::clone(start.store.table(index))).collect();
        let mut context = TaskContext::new(id, Arc::clone(&self.context.clock));
        context.stream_time_ms = start.store.checkpoint().stream_time_ms;
        let mut position = Position::new();
        let mut inputs = Vec::new();
        for (source, (partition, committed)) in start.inputs.into_iter().enumerate() {
            let (offset, next) = match (committed, self.context.config.offset_reset) {
                (Some(offset), _) => (StartOffset::At(offset), offset),
                (None, OffsetReset::Earliest) => (StartOffset::Beginning, 0),
                (None, OffsetReset::Latest) => (StartOffset::End, 0),
                (None, OffsetReset::None) => {
                    return Err(format!("{partition} has no committed offset, and offset_reset is none"));
                }
            };
            if let Some(committed) = committed
                && committed > 0
            {
                position.advance(&partition.topic, partition.partition, committed - 1);
            }
            let careful = start.careful_until.get(&partition).copied().unwrap_or(0);
            let queue = self.context.consumer.assign(&partition, offset, &self.waker);
            let queue = queue.map_err(|error| format!("task {id}: {error}"))?;
            inputs.push(Input::new(source, queue, next, careful));
        }
        start.view.publish(position.clone());
        start.view.set_role(Role::Active);
        start.view.set_lag(0);
        let graph = TaskGraph::build(&self.context.topology, id.subtopology, &tables);
        let graph = graph.map_err(|error| format!("task {id}: {error}"))?;
        let task = ActiveTask::new(TaskParts {
            store: start.store,
            view: start.view,
            inputs,
            graph,
            context,
            changelogs: start.changelogs,
            sinks: start.sinks,
            handlers: Arc::clone(&self.handlers),
            dead_letter_queue: self.dead_letter_queue.clone(),
            poisoned: start.poisoned,
            position,
        });
        self.view.tasks.lock().insert(id, progress(&task, &self.context.consumer));
        self.tasks.insert(id, task);
        self.committer.prepare();
        debug!(task = %id, thread = self.index, "task processes");
        Ok(())
    }

    /// A slice of each task's input.
    fn process(&mut self) -> Result<usize, String> {
        if self.over_budget() {
            self.view.throttled.store(true, Ordering::Relaxed);
            if !self.in_flight.is_empty() || self.superseded.is_some() {
                return Ok(0);
            }
        } else {
            self.view.throttled.store(false, Ordering::Relaxed);
        }
        let mut total = 0;
        let mut errors = Vec::new();
        for task in self.tasks.values_mut() {
            // While records are sealed one by one, the next one waits for the outcome of the one before.
            if task.is_careful() && self.in_flight.contains(&task.id) {
                continue;
            }
            match task.process(SLICE_RECORDS) {
                Ok(processed) => total += processed,
                Err(error) => errors.push(error),
            }
        }
        self.view.processed.fetch_add(total as u64, Ordering::Relaxed);
        for error in errors {
            self.task_failed(error)?;
        }
        Ok(total)
    }

    fn over_budget(&mut self) -> bool {
        let dirty: usize = self.tasks.values_mut().map(ActiveTask::dirty_bytes).sum();
        dirty as u64 > self.dirty_share()
    }

    fn dirty_share(&self) -> u64 {
        self.context.budget.dirty_limit_bytes() / (2 * self.context.config.num_stream_threads.max(1) as u64)
    }

    fn interval(&self) -> Duration {
        (self.context.config.commit_interval * self.stretched)
            .min(self.context.config.commit_interval_max.max(self.context.config.commit_interval))
    }

    fn until_due(&self) -> Duration {
        self.interval().saturating_sub(self.last_seal.elapsed()).clamp(Duration::from_millis(1), IDLE_PARK)
    }

    fn commit_if_due(&mut self) -> Result<(), String> {
        if !self.in_flight.is_empty() || self.superseded.is_some() {
            return Ok(());
        }
        let careful = self.tasks.values().any(|task| task.is_careful() && task.has_unsealed());
        if !careful && self.last_seal.elapsed() < self.interval() && !self.over_budget() {
            return Ok(());
        }
        self.stretched = if self.idle_since_seal { 1 } else { (self.stretched * 2).min(64) };
        self.idle_since_seal = false;
        self.seal()
    }

    fn seal(&mut self) -> Result<(), String> {
        self.last_seal = Instant::now();
        let mut seal = Seal::default();
        let mut errors = Vec::new();
        for task in self.tasks.values_mut() {
            if !task.has_unsealed() {
                continue;
            }
            match task.seal() {
                Ok(part) if part.is_empty() => {}
                Ok(part) => seal.tasks.push(part),
                Err(error) => errors.push(error),
            }
        }
        for error in errors {
            self.task_failed(error)?;
        }
        if !seal.tasks.is_empty() {
            self.send(seal)?;
        }
        Ok(())
    }

    fn send(&mut self, seal: Seal) -> Result<(), String> {
        self.in_flight = seal.task_ids();
        if self.committer.send(seal) { Ok(()) } else { Err("the commit thread is gone".to_owned()) }
    }

    fn send_superseded(&mut self) {
        if let Some(mut seal) = self.superseded.take() {
            seal.tasks.retain(|part| self.tasks.contains_key(&part.task));
            if seal.tasks.is_empty() {
                self.in_flight.clear();
            } else if self.send(seal).is_err() {
                warn!(thread = self.index, "the commit thread is gone");
            }
        }
    }

    fn take_outcome(&mut self) -> Result<(), String> {
        if self.in_flight.is_empty() || self.superseded.is_some() {
            return Ok(());
        }
        match self.committer.try_outcome() {
            Some(outcome) => {
                self.settle(outcome)?;
                self.send_restarts();
                Ok(())
            }
            None if self.committer.is_dead() => Err("the commit thread is gone".to_owned()),
            None => Ok(()),
        }
    }

    fn settle(&mut self, outcome: Outcome) -> Result<(), String> {
        let in_flight = std::mem::take(&mut self.in_flight);
        match outcome {
            Outcome::Committed { took, records } => {
                metrics::committed(took, records as u64);
                let share = self.context.budget.dirty_limit_bytes() / (2 * self.tasks.len().max(1) as u64);
                for id in in_flight {
                    if let Some(task) = self.tasks.get_mut(&id) {
                        task.committed();
                        if task.cached_bytes() as u64 > share {
                            task.evict(share as usize / 2);
                        }
                    }
                }
                self.view.turn();
                Ok(())
            }
            Outcome::Superseded(seal) => {
                metrics::commit_failed("superseded");
                info!(thread = self.index, "the generation ended before a commit: it goes again under the next one");
                self.in_flight = in_flight;
                self.superseded = Some(seal);
                if self.generation_moved() {
                    self.send_superseded();
                }
                Ok(())
            }
            Outcome::NotAMember => {
                metrics::commit_failed("not_a_member");
                self.drop_all_tasks();
                let _ = self.context.events.send(ThreadEvent::NotAMember { thread: self.index });
                Ok(())
            }
            Outcome::TooLarge { task, what, seal } => {
                metrics::commit_failed("too_large");
                let error = match self.tasks.get(&task) {
                    Some(active) => {
                        active.refused(ErrorKind::Production, "holdfast.RecordTooLargeError".to_owned(), what)
                    }
                    None => TaskError::RollBack { task, poison: None, reason: what },
                };
                self.task_failed(error)?;
                // The other tasks' parts are sound.
                let mut seal = seal;
                seal.tasks.retain(|part| self.tasks.contains_key(&part.task));
                if seal.tasks.is_empty() { Ok(()) } else { self.send(seal) }
            }
            Outcome::ProducerLost { reason } => {
                metrics::commit_failed("producer_lost");
                let tasks = self.tasks.values().map(|task| restart_of(task, None)).collect();
                self.drop_all_tasks();
                let _ = self.context.events.send(ThreadEvent::Restart { thread: self.index, tasks, reason });
                Ok(())
            }
            Outcome::Store { task, error } => Err(format!("task {task}: {error}")),
            Outcome::Refused { reason } => Err(reason),
        }
    }

    fn send_restarts(&mut self) {
        if self.in_flight.is_empty() && self.superseded.is_none() {
            for restart in self.restarts.drain(..) {
                // The supervisor outlives its threads, except while everything stops.
                let _ = self.context.events.send(restart);
            }
        }
    }

    fn generation_moved(&self) -> bool {
        // The assignment of the next generation may have come before the outcome did.
        self.context.group.metadata().is_some() && self.incoming.is_empty()
    }

    /// What follows an error of one task.
    fn task_failed(&mut self, error: TaskError) -> Result<(), String> {
        match error {
            TaskError::RollBack { task, poison, reason } => {
                metrics::rolled_back(if poison.is_some() { "poisoned_record" } else { "uncommittable" });
                let Some(active) = self.tasks.get(&task) else { return Ok(()) };
                let restart = restart_of(active, poison.map(|poison| *poison));
                self.drop_task(task);
                self.restarts.push(ThreadEvent::Restart { thread: self.index, tasks: vec![restart], reason });
                self.send_restarts();
                Ok(())
            }
            TaskError::Fetch { task, source: FetchError::OffsetOutOfRange { partition, message } } => {
                self.out_of_range(task, &partition, &message)
            }
            error => Err(error.to_string()),
        }
    }

    /// The offset to read is not in the log any more (retention) or not yet (the topic was recreated).
    fn out_of_range(&mut self, task: TaskId, partition: &TopicPartition, message: &str) -> Result<(), String> {
        let start = match self.context.config.offset_reset {
            OffsetReset::Earliest => StartOffset::Beginning,
            OffsetReset::Latest => StartOffset::End,
            OffsetReset::None => return Err(format!("{partition}: {message}; offset_reset is none")),
        };
        warn!(%task, %partition, message, ?start, "records were deleted before they were read; going on by offset_reset");
        let Some(active) = self.tasks.get_mut(&task) else { return Ok(()) };
        let Some(input) = active.inputs.iter_mut().find(|input| input.queue.partition() == partition) else {
            return Ok(());
        };
        let reassigned = self
            .context
            .consumer
            .unassign(partition)
            .and_then(|()| self.context.consumer.assign(partition, start, &self.waker));
        input.queue = reassigned.map_err(|error| error.to_string())?;
        input.next = 0;
        input.sealed = 0;
        Ok(())
    }

    /// Seals and waits until everything is committed, or the deadline has passed.
    fn commit_now(&mut self, deadline: Duration) -> Result<(), String> {
        let until = Instant::now() + deadline;
        self.settle_in_flight(deadline)?;
        if self.superseded.is_none() {
            self.seal()?;
            self.settle_in_flight(until.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }

    /// Waits until the seal in flight, if there is one, is committed; past the deadline it is given up.
    fn settle_in_flight(&mut self, deadline: Duration) -> Result<(), String> {
        let mut left = deadline;
        while !self.in_flight.is_empty() && self.superseded.is_none() {
            self.view.turn();
            match self.committer.wait_outcome(left) {
                Some(outcome) => self.settle(outcome)?,
                None if self.committer.is_dead() => return Err("the commit thread is gone".to_owned()),
                None => {
                    warn!(thread = self.index, "a commit did not end in time; what it holds is processed again");
                    self.committer.cancel();
                    left = CANCEL_DEADLINE;
                }
            }
        }
        self.send_restarts();
        Ok(())
    }

    fn drop_task(&mut self, id: TaskId) {
        let Some(task) = self.tasks.remove(&id) else { return };
        task.view.set_role(Role::Restoring);
        let partitions: Vec<_> = task.inputs.iter().map(|input| input.queue.partition().clone()).collect();
        drop(task);
        for partition in partitions {
            if let Err(error) = self.context.consumer.unassign(&partition) {
                warn!(%partition, %error, "an input could not be released");
            }
        }
        self.view.tasks.lock().remove(&id);
    }

    fn drop_all_tasks(&mut self) {
        let ids: Vec<_> = self.tasks.keys().copied().collect();
        for id in ids {
            self.drop_task(id);
        }
        self.superseded = None;
    }

    fn report(&mut self) {
        if self.last_report.elapsed() < REPORT_INTERVAL {
            return;
        }
        self.last_report = Instant::now();
        let mut shown = self.view.tasks.lock();
        for (id, task) in &self.tasks {
            shown.insert(*id, progress(task, &self.context.consumer));
        }
        drop(shown);
        let dirty = self.tasks.values_mut().map(ActiveTask::dirty_bytes).sum();
        let cached = self.tasks.values_mut().map(ActiveTask::cached_bytes).sum();
        metrics::thread_memory(self.index, dirty, cached);
    }
}

fn progress(task: &ActiveTask, consumer: &FetchConsumer) -> TaskProgress {
    let mut progress =
        TaskProgress { stream_time_ms: task.store.checkpoint().stream_time_ms, ..TaskProgress::default() };
    for input in &task.inputs {
        let partition = input.queue.partition();
        progress.committed.insert(partition.clone(), input.sealed);
        if let Some(end) = consumer.cached_end(partition) {
            let lag = (end - input.sealed).max(0);
            metrics::lag(task.id, &partition.to_string(), lag);
            progress.lag.insert(partition.clone(), lag);
        }
    }
    progress
}

fn restart_of(task: &ActiveTask, poison: Option<PoisonedRecord>) -> TaskRestart {
    let mut poisoned = task.poisoned();
    let found = poison.is_some();
    poisoned.extend(poison);
    // Without a culprit, the interval is gone through again one record at a time.
    let careful_until = task
        .inputs
        .iter()
        .map(|input| {
            (
                input.queue.partition().clone(),
                if found { input.careful_until } else { input.next.max(input.careful_until) },
            )
        })
        .collect();
    TaskRestart { id: task.id, poisoned, careful_until }
}
