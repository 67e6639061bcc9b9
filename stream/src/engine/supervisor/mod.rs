//! The supervisor: which task is in which state on which thread, and what follows when something fails.

mod housekeeping;
mod topic_changes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use holdfast_store::{AppliedBatch, ChangelogSpec, CheckpointDelta, StoreSpec, TaskStore, TaskStoreSpec};
use holdfast_types::{Assignment, GroupSession, Role, TaskId, TopicPartition};
use tracing::{error, info, warn};

use self::housekeeping::Purger;
use super::{
    EngineEvent, EngineState, EngineStatus, OnFatalError, Prepared, ServedStores, ServedTable, StartError,
    committer::OpenTransactions,
    restorer::{RestoreContext, RestoreEvent, RestoreJob, Restorer},
    served::TaskView,
    status::RestoreStatus,
    thread::{StreamThread, TaskStart, ThreadCommand, ThreadContext, ThreadEvent},
    topic_watch::{TopicEvent, TopicWatch},
    topics::changelog_topic,
};
use crate::{
    kafka::{FetchConsumer, Isolation, admin::TopicAdmin},
    task::{ResolvedSink, Watcher},
};

/// What the engine's owner asks.
#[derive(Debug)]
pub(super) enum Command {
    Assign(Assignment),
    Lost,
    Shutdown { done: Option<Sender<()>> },
}

/// A task that is assigned here.
struct TaskRecord {
    spec: TaskStoreSpec,
    inputs: Vec<TopicPartition>,
    changelogs: Arc<[Option<TopicPartition>]>,
    sinks: Arc<[ResolvedSink]>,
    view: Arc<TaskView>,
    store: Option<Arc<TaskStore>>,
    phase: Phase,
    /// The latest restore's number; see [`RestoreJob::attempt`].
    attempt: u64,
}

enum Phase {
    Restoring {
        status: Option<RestoreStatus>,
        waiting: Option<String>,
    },
    Running {
        thread: usize,
    },
    /// The membership was lost: rows can be read, nothing is processed until the next assignment.
    Suspended,
}

pub(super) struct Supervisor {
    prepared: Prepared,
    events: Sender<EngineEvent>,
    status: Arc<ArcSwap<EngineStatus>>,
    stores: Arc<ServedStores>,
    restorer: Restorer,
    restore_events: Receiver<RestoreEvent>,
    thread_context: ThreadContext,
    thread_events: Receiver<ThreadEvent>,
    threads: Vec<StreamThread>,
    watchers: Vec<Watcher>,
    tasks: BTreeMap<TaskId, TaskRecord>,
    purger: Purger,
    /// Only held: it ends with the supervisor.
    _topic_watch: TopicWatch,
    topic_events: Receiver<TopicEvent>,
    generation: i32,
    failed: Option<String>,
    /// Why nothing is processed any more, although the process goes on answering.
    halted: Option<String>,
    stopping: bool,
    failures: Vec<Instant>,
    /// Restores begun so far, of all tasks.
    restores: u64,
    last_purge: Instant,
    last_cleanup: Instant,
}

const TICK: Duration = Duration::from_millis(100);
/// More thread failures than this within the window end the process: replacing goes on only while it helps.
const MAX_FAILURES: usize = 5;
const FAILURE_WINDOW: Duration = Duration::from_secs(60);
const RELEASE_DEADLINE: Duration = Duration::from_secs(15);

impl Supervisor {
    pub(super) fn new(
        prepared: Prepared,
        group: Arc<dyn GroupSession>,
        events: Sender<EngineEvent>,
    ) -> Result<Self, StartError> {
        let config = &prepared.config;
        let open_transactions = Arc::new(OpenTransactions::new(config.num_stream_threads.max(1)));
        let (restore_sender, restore_events) = unbounded();
        let restorer = Restorer::start(
            RestoreContext {
                config: Arc::clone(config),
                directory: Arc::clone(&prepared.directory),
                budget: Arc::clone(&prepared.budget),
                group: Arc::clone(&group),
                clock: Arc::clone(&prepared.clock),
                open_transactions: Arc::clone(&open_transactions),
            },
            restore_sender,
        )
        .map_err(StartError::Settings)?;
        let partitions: usize = prepared
            .subtopologies
            .iter()
            .map(|subtopology| usize::try_from(subtopology.partitions).unwrap_or(1) * subtopology.source_topics.len())
            .sum();
        let queue_bytes = prepared.budget.fetch_limit_bytes() / partitions.max(1) as u64;
        let consumer =
            FetchConsumer::new(&config.connection, &config.application_id, Isolation::ReadCommitted, queue_bytes)
                .map_err(|error| StartError::Settings(error.into()))?;
        let (thread_sender, thread_events) = unbounded();
        let thread_context = ThreadContext {
            config: Arc::clone(config),
            topology: prepared.topology.clone(),
            consumer: Arc::new(consumer),
            budget: Arc::clone(&prepared.budget),
            group,
            clock: Arc::clone(&prepared.clock),
            open_transactions,
            events: thread_sender,
        };
        let threads = (0..config.num_stream_threads.max(1))
            .map(|index| StreamThread::start(index, thread_context.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let purger = Purger::start(&prepared)?;
        let (topic_sender, topic_events) = unbounded();
        let admin = TopicAdmin::new(&config.connection).map_err(|error| StartError::Settings(error.into()))?;
        let topic_watch = TopicWatch::start(admin, prepared.topics.clone(), topic_sender)?;
        let status =
            EngineStatus { state: EngineState::Joining, generation: -1, tasks: Vec::new(), threads: Vec::new() };
        Ok(Self {
            prepared,
            events,
            status: Arc::new(ArcSwap::from_pointee(status)),
            stores: Arc::new(ServedStores::new()),
            restorer,
            restore_events,
            thread_context,
            thread_events,
            watchers: threads.iter().map(|_| Watcher::default()).collect(),
            threads,
            tasks: BTreeMap::new(),
            purger,
            _topic_watch: topic_watch,
            topic_events,
            generation: -1,
            failed: None,
            halted: None,
            stopping: false,
            failures: Vec::new(),
            restores: 0,
            last_purge: Instant::now(),
            last_cleanup: Instant::now(),
        })
    }

    pub(super) fn status(&self) -> &Arc<ArcSwap<EngineStatus>> {
        &self.status
    }

    pub(super) fn stores(&self) -> &Arc<ServedStores> {
        &self.stores
    }

    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let (restore_events, thread_events) = (self.restore_events.clone(), self.thread_events.clone());
            let topic_events = self.topic_events.clone();
            select! {
                recv(commands) -> command => match command {
                    Ok(Command::Assign(assignment)) => self.assign(&assignment),
                    Ok(Command::Lost) => self.suspend(),
                    Ok(Command::Shutdown { done }) => {
                        self.shutdown(done.is_some());
                        // Every thread is joined and every handle closed before anybody may end the process: what libraries
                        // tear down at its exit must not be in use.
                        drop(self);
                        if let Some(done) = done {
                            let _ = done.send(());
                        }
                        return;
                    }
                    Err(_) => {
                        self.shutdown(false);
                        return;
                    }
                },
                recv(restore_events) -> event => if let Ok(event) = event {
                    self.on_restore(event);
                },
                recv(thread_events) -> event => if let Ok(event) = event {
                    self.on_thread(event);
                },
                recv(topic_events) -> event => if let Ok(event) = event {
                    self.on_topic(event);
                },
                default(TICK) => {}
            }
            self.look_after_threads();
            self.look_for_slow_records();
            self.purge_repartitions();
            self.clean_up();
            self.publish();
        }
    }

    fn tell(&self, event: EngineEvent) {
        // Whoever started the engine may have stopped listening; its drop ends this thread.
        let _ = self.events.send(event);
    }

    fn assign(&mut self, assignment: &Assignment) {
        self.generation = assignment.generation;
        let wanted: BTreeSet<TaskId> = assignment.active.iter().copied().collect();
        let gone: Vec<TaskId> = self.tasks.keys().copied().filter(|task| !wanted.contains(task)).collect();
        self.release(&gone, true);
        for task in &gone {
            self.close(*task);
        }
        for thread in &self.threads {
            thread.send(ThreadCommand::NewGeneration);
        }
        for task in wanted {
            match self.tasks.get(&task).map(|record| &record.phase) {
                Some(Phase::Running { .. } | Phase::Restoring { .. }) => {}
                Some(Phase::Suspended) => self.restore(task),
                None => match self.record(task) {
                    Some(record) => {
                        self.tasks.insert(task, record);
                        self.restore(task);
                    }
                    None => warn!(%task, "assigned a task that this topology does not have; ignored"),
                },
            }
        }
        info!(generation = self.generation, tasks = self.tasks.len(), "assignment in force");
        self.tell(EngineEvent::Applied { generation: self.generation });
    }

    fn record(&self, task: TaskId) -> Option<TaskRecord> {
        let topology = &self.prepared.topology;
        let application_id = &self.prepared.config.application_id;
        let subtopology = topology.subtopologies().iter().find(|subtopology| subtopology.id == task.subtopology)?;
        let mut stores = Vec::new();
        for store in subtopology.stores.iter().filter_map(|&index| topology.stores().get(index)) {
            let changelog = store.changelog.then(|| {
                let topic = changelog_topic(application_id, &store.name);
                let topic_id = self.prepared.topics.get(&topic).and_then(|topic| topic.id);
                ChangelogSpec { partition: TopicPartition::new(topic, task.partition), topic_id }
            });
            stores.push(StoreSpec { name: store.name.clone(), kind: store.kind, changelog });
        }
        let changelogs =
            stores.iter().map(|store| store.changelog.as_ref().map(|changelog| changelog.partition.clone())).collect();
        Some(TaskRecord {
            spec: TaskStoreSpec { task, fingerprint: subtopology.fingerprint.clone(), stores },
            inputs: subtopology
                .sources
                .iter()
                .map(|source| TopicPartition::new(source.topic.resolve(application_id), task.partition))
                .collect(),
            changelogs,
            sinks: subtopology
                .sinks
                .iter()
                .map(|sink| ResolvedSink { topic: sink.topic.resolve(application_id) })
                .collect(),
            view: Arc::new(TaskView::new(Role::Restoring)),
            store: None,
            phase: Phase::Restoring { status: None, waiting: None },
            attempt: 0,
        })
    }

    fn restore(&mut self, task: TaskId) {
        let Some(record) = self.tasks.get_mut(&task) else { return };
        if self.halted.is_some() {
            record.phase = Phase::Suspended;
            return;
        }
        record.phase = Phase::Restoring { status: None, waiting: None };
        self.restores += 1;
        record.attempt = self.restores;
        self.restorer.restore(RestoreJob {
            task,
            attempt: record.attempt,
            spec: record.spec.clone(),
            max_age: self.prepared.retentions.of_task(task),
            changelogs: Arc::clone(&record.changelogs),
            inputs: record.inputs.clone(),
            view: Arc::clone(&record.view),
            store: record.store.clone(),
        });
    }

    fn on_restore(&mut self, event: RestoreEvent) {
        match event {
            RestoreEvent::Opened { task, store } => {
                let Some(record) = self.tasks.get_mut(&task) else { return };
                record.store = Some(Arc::clone(&store));
                let tables = record.spec.stores.iter().enumerate().map(|(index, spec)| {
                    let served = ServedTable::new(Arc::clone(store.table(index)), task, Arc::clone(&record.view));
                    (spec.name.clone(), task.partition, Arc::new(served))
                });
                self.stores.insert(tables.collect());
            }
            RestoreEvent::Progress { task, status } => {
                if let Some(TaskRecord { phase: Phase::Restoring { status: shown, waiting }, .. }) =
                    self.tasks.get_mut(&task)
                {
                    *shown = Some(status);
                    *waiting = None;
                }
            }
            RestoreEvent::Waiting { task, reason } => {
                if let Some(TaskRecord { phase: Phase::Restoring { waiting, .. }, .. }) = self.tasks.get_mut(&task) {
                    *waiting = Some(reason);
                }
            }
            RestoreEvent::Done { task, attempt, store, offsets } => {
                // One that was given up meanwhile has offsets from before: the present one is still under way.
                if self.tasks.get(&task).is_some_and(|record| record.attempt == attempt) {
                    self.start(task, store, offsets);
                }
            }
            RestoreEvent::Failed { task, attempt, error } => {
                if self.tasks.get(&task).is_some_and(|record| record.attempt == attempt) {
                    self.fail(error.to_string());
                }
            }
        }
    }

    /// Gives a restored task to the thread with the fewest.
    fn start(&mut self, task: TaskId, store: Arc<TaskStore>, offsets: Vec<Option<i64>>) {
        let mut load = vec![0_usize; self.threads.len()];
        for record in self.tasks.values() {
            if let Phase::Running { thread } = record.phase
                && let Some(load) = load.get_mut(thread)
            {
                *load += 1;
            }
        }
        let thread = load.iter().enumerate().min_by_key(|(_, load)| **load).map_or(0, |(thread, _)| thread);
        let Some(record) = self.tasks.get_mut(&task) else { return };
        if !matches!(record.phase, Phase::Restoring { .. }) {
            return;
        }
        record.store = Some(Arc::clone(&store));
        record.phase = Phase::Running { thread };
        let start = TaskStart {
            id: task,
            store,
            view: Arc::clone(&record.view),
            inputs: record.inputs.iter().cloned().zip(offsets).collect(),
            changelogs: Arc::clone(&record.changelogs),
            sinks: Arc::clone(&record.sinks),
        };
        if let Some(thread) = self.threads.get(thread) {
            thread.send(ThreadCommand::Add(Box::new(start)));
        }
    }

    fn on_thread(&mut self, event: ThreadEvent) {
        match event {
            ThreadEvent::Restart { thread, tasks, reason } => {
                warn!(
                    thread,
                    tasks = tasks.len(),
                    reason,
                    "a producer is lost: its tasks go back to their last commit"
                );
                for task in tasks {
                    let phase = self.tasks.get(&task).map(|record| &record.phase);
                    if matches!(phase, Some(Phase::Running { thread: owner }) if *owner == thread) {
                        self.restore(task);
                    }
                }
            }
            ThreadEvent::NotAMember { thread } => {
                for record in self.tasks.values_mut() {
                    if matches!(record.phase, Phase::Running { thread: owner } if owner == thread) {
                        record.phase = Phase::Suspended;
                    }
                }
                self.tell(EngineEvent::RejoinNeeded {
                    reason: "the group coordinator does not know this member any more".into(),
                });
            }
            ThreadEvent::Fatal { reason } => self.fail(reason),
            ThreadEvent::Failed { thread, reason } => self.thread_failed(thread, reason),
        }
    }

    fn thread_failed(&mut self, index: usize, reason: String) {
        let now = Instant::now();
        self.failures.retain(|at| now.duration_since(*at) < FAILURE_WINDOW);
        self.failures.push(now);
        let replace =
            self.prepared.config.on_fatal_error == OnFatalError::Replace && self.failures.len() <= MAX_FAILURES;
        if !replace || self.stopping {
            self.fail(reason);
            return;
        }
        error!(
            thread = index,
            error = reason,
            "a stream thread failed; a new one takes its tasks from their last commit"
        );
        let Some(slot) = self.threads.get_mut(index) else { return };
        slot.join();
        match StreamThread::start(index, self.thread_context.clone()) {
            Ok(thread) => *slot = thread,
            Err(error) => {
                self.fail(format!("{reason}; and a new stream thread could not be started: {error}"));
                return;
            }
        }
        let orphans: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, record)| matches!(record.phase, Phase::Running { thread } if thread == index))
            .map(|(task, _)| *task)
            .collect();
        for task in orphans {
            self.restore(task);
        }
    }

    fn fail(&mut self, reason: String) {
        error!(error = reason, "fatal: this instance cannot go on");
        self.tell(EngineEvent::Fatal { reason: reason.as_str().into() });
        self.failed = Some(reason);
    }

    fn look_after_threads(&mut self) {
        let dead: Vec<usize> = (0..self.threads.len())
            .filter(|&index| self.threads.get(index).is_some_and(StreamThread::is_dead))
            .collect();
        for index in dead {
            // An error that it told of comes as an event; without one it panicked.
            if self.failed.is_none() && self.thread_events.is_empty() {
                self.thread_failed(
                    index,
                    format!("stream thread {index} panicked; this is a bug, please report it with the log"),
                );
            }
        }
        if self.restorer.is_dead() && self.failed.is_none() && !self.stopping {
            self.fail("the restore thread panicked; this is a bug, please report it with the log".to_owned());
        }
    }

    /// Makes threads and the restorer let go of tasks; their records stay.
    fn release(&mut self, tasks: &[TaskId], commit: bool) {
        let mut waits = Vec::new();
        for (index, thread) in self.threads.iter().enumerate() {
            let owned: Vec<TaskId> = tasks
                .iter()
                .copied()
                .filter(|task| {
                    self.tasks
                        .get(task)
                        .is_some_and(|record| matches!(record.phase, Phase::Running { thread } if thread == index))
                })
                .collect();
            if !owned.is_empty() {
                let (done, wait) = bounded(1);
                thread.send(ThreadCommand::Release { tasks: owned, commit, done });
                waits.push(wait);
            }
        }
        let until = Instant::now() + RELEASE_DEADLINE;
        for wait in waits {
            if wait.recv_timeout(until.saturating_duration_since(Instant::now())).is_err() {
                warn!("a stream thread did not release its tasks in time");
            }
        }
        for task in tasks {
            if let Some(record) = self.tasks.get_mut(task) {
                if matches!(record.phase, Phase::Restoring { .. }) {
                    self.restorer.cancel(*task);
                }
                record.phase = Phase::Suspended;
            }
        }
    }

    fn suspend(&mut self) {
        let all: Vec<TaskId> = self.tasks.keys().copied().collect();
        warn!(tasks = all.len(), "membership lost: processing stops, rows up to the last commit stay readable");
        self.freeze(&all);
        self.generation = -1;
        self.publish();
        self.release(&all, false);
    }

    /// What may have another owner is no active copy, from now on and not only when its thread has let go of it.
    fn freeze(&self, tasks: &[TaskId]) {
        for record in tasks.iter().filter_map(|task| self.tasks.get(task)) {
            if record.view.role() == Role::Active {
                record.view.set_role(Role::Standby);
            }
        }
    }

    fn close(&mut self, task: TaskId) {
        self.stores.remove_task(task);
        if let Some(record) = self.tasks.remove(&task)
            && let Some(store) = record.store
        {
            if record.view.role() != Role::Restoring {
                // It has followed its changelog until now, even if nothing came: its tombstones are all applied.
                let checkpoint =
                    CheckpointDelta { applied_at_ms: Some(self.prepared.clock.now_ms()), ..CheckpointDelta::default() };
                let rows = vec![Vec::new(); record.spec.stores.len()];
                if let Err(error) = store.apply(AppliedBatch { rows, checkpoint }) {
                    warn!(%task, %error, "a store took no last time stamp");
                }
            }
            if let Err(error) = store.close() {
                warn!(%task, %error, "a store could not be closed cleanly; it replays its changelog on the next start");
            }
        }
    }

    fn shutdown(&mut self, commit: bool) {
        self.stopping = true;
        self.publish();
        for thread in &self.threads {
            thread.send(ThreadCommand::Stop { commit });
        }
        for thread in &mut self.threads {
            thread.join();
        }
        for task in self.tasks.keys().copied().collect::<Vec<_>>() {
            self.restorer.cancel(task);
            self.close(task);
        }
        self.publish();
        info!("engine stopped");
    }
}
