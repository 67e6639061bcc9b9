//! The supervisor: which task is in which state on which thread, and what follows when something fails.

mod closer;
mod following;
mod housekeeping;
mod released;
mod restores;
mod tasks;
mod threads;
mod topic_changes;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, select, unbounded};
use holdfast_types::{Assignment, GroupSession, TaskId};
use tracing::{error, info};

use self::{
    closer::Closer,
    housekeeping::Purger,
    released::Released,
    tasks::{Phase, TaskRecord},
};
use super::{
    EngineEvent, EngineState, EngineStatus, Prepared, ServedStores, StartError,
    committer::OpenTransactions,
    restorer::{RestoreContext, RestoreEvent, Restorer},
    thread::{StreamThread, ThreadCommand, ThreadContext, ThreadEvent},
    topic_watch::{TopicEvent, TopicWatch},
};
use crate::{
    kafka::{FetchConsumer, Reads, admin::TopicAdmin},
    task::Watcher,
};

/// What the engine's owner asks.
#[derive(Debug)]
pub(super) enum Command {
    Assign(Assignment),
    Lost,
    Release { done: Sender<()> },
    Shutdown { done: Option<Sender<()>> },
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
    /// Copies that are wanted nowhere here any more, and still read.
    released: BTreeMap<TaskId, Released>,
    /// How far the copies are that were closed here, and whose directories are still there.
    left: BTreeMap<TaskId, u64>,
    purger: Purger,
    closer: Closer,
    /// Only held: it ends with the supervisor.
    _topic_watch: TopicWatch,
    topic_events: Receiver<TopicEvent>,
    generation: i32,
    /// Of the last assignment.
    tenure: u64,
    /// The membership was given up, because a thread does not let go of its tasks.
    surrendered: bool,
    failed: Option<String>,
    /// Why nothing is processed any more, although the process goes on answering.
    halted: Option<String>,
    stopping: bool,
    failures: Vec<Instant>,
    /// Jobs given to the restorer so far, of all tasks.
    jobs: u64,
    last_purge: Instant,
    last_cleanup: Instant,
}

const TICK: Duration = Duration::from_millis(100);

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
                follow_queue_bytes: follow_queue_bytes(&prepared),
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
        let consumer = FetchConsumer::new(&config.connection, &config.application_id, Reads::Committed, queue_bytes)
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
        let closer = Closer::start()?;
        let (topic_sender, topic_events) = unbounded();
        let admin = TopicAdmin::new(&config.connection).map_err(|error| StartError::Settings(error.into()))?;
        let topic_watch = TopicWatch::start(admin, prepared.topics.clone(), topic_sender)?;
        let status = EngineStatus::of(EngineState::Joining, -1);
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
            released: BTreeMap::new(),
            left: BTreeMap::new(),
            purger,
            closer,
            _topic_watch: topic_watch,
            topic_events,
            generation: -1,
            tenure: 0,
            surrendered: false,
            failed: None,
            halted: None,
            stopping: false,
            failures: Vec::new(),
            jobs: 0,
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
                    Ok(Command::Release { done }) => {
                        self.stopping = true;
                        let processed = self.processed();
                        self.release(&processed, true);
                        let _ = done.send(());
                    }
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
            self.close_one();
            self.publish();
            // The positions that it leads others to look at are published.
            self.look_for_caught_up();
        }
    }

    fn tell(&self, event: EngineEvent) {
        // Whoever started the engine may have stopped listening; its drop ends this thread.
        let _ = self.events.send(event);
    }

    fn fail(&mut self, reason: String) {
        error!(error = reason, "fatal: this instance cannot go on");
        self.tell(EngineEvent::Fatal { reason: reason.as_str().into() });
        self.failed = Some(reason);
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
        self.close_all();
        self.publish();
        info!("engine stopped");
    }
}

/// What may be fetched ahead of each changelog that is followed. An instance follows what it does not process: what is fetched
/// for both together stays near the share that fetching has.
fn follow_queue_bytes(prepared: &Prepared) -> u64 {
    let partitions: usize = prepared
        .subtopologies
        .iter()
        .map(|spec| usize::try_from(spec.partitions).unwrap_or(1) * spec.stores.len())
        .sum();
    prepared.budget.fetch_limit_bytes() / 2 / partitions.max(1) as u64
}
