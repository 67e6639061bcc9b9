//! The engine: stream threads over tasks, what they commit, and what it tells about itself.
//!
//! ```text
//!             assignment                 restored tasks
//! service ───► supervisor ──► restorer ──► supervisor ──► stream thread ──seal──► committer ──rows──► TaskStore
//!                  ▲           │ standbys: rows ──► TaskStore │  ▲──────outcome──────┘
//!                  └───────────┴── restarts, failures ────────┘
//! ```
//!
//! Who owns what: the supervisor owns the tasks' records and stores, a stream thread the graphs of its tasks, a committer the
//! producer, the restorer the restore consumer. They talk over channels and share nothing that is locked for long.

mod committer;
mod config;
mod kept;
pub(crate) mod metrics;
mod offset_metadata;
mod permissions;
mod restorer;
mod retention;
mod served;
mod status;
mod supervisor;
mod thread;
mod topic_watch;
mod topics;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use holdfast_store::{MemoryBudget, StateDirectory, TaskStore};
use holdfast_types::{Assignment, Clock, GroupSession, SubtopologySpec, TaskId};

pub use config::{EngineConfig, OffsetReset, OnFatalError, ProcessingGuarantee};
pub use metrics::describe as describe_metrics;
pub use restorer::RestoreError;
pub(crate) use served::TaskView;
pub use served::{ServedStores, ServedTable};
pub use status::{EngineEvent, EngineState, EngineStatus, ReleasedCopy, RestoreStatus, TaskStatus, ThreadStatus};
pub use topics::PrepareError;

use self::{
    retention::Retentions,
    supervisor::{Command, Supervisor},
    topic_watch::WatchedTopic,
};
use crate::{kafka::admin::TopicAdmin, topology::Topology};

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// librdkafka refused a setting.
    #[error("librdkafka refuses the settings: {0}; see the [kafka] table")]
    Settings(Box<dyn std::error::Error + Send + Sync>),
}

/// An engine whose topics are in place, ready to join the group.
#[derive(Debug)]
pub struct Prepared {
    topology: Topology,
    config: Arc<EngineConfig>,
    directory: Arc<StateDirectory>,
    budget: Arc<MemoryBudget>,
    clock: Arc<dyn Clock>,
    subtopologies: Vec<SubtopologySpec>,
    retentions: Retentions,
    topics: BTreeMap<String, WatchedTopic>,
    /// Stores of an earlier life that no task uses yet.
    kept: BTreeMap<TaskId, Arc<TaskStore>>,
}

/// The running engine. Dropping it stops it without a last commit; see [`Engine::shutdown`].
#[derive(Debug)]
pub struct Engine {
    commands: Sender<Command>,
    status: Arc<ArcSwap<EngineStatus>>,
    stores: Arc<ServedStores>,
    supervisor: Option<JoinHandle<()>>,
}

impl Engine {
    /// Waits for the cluster, saying so once, and makes sure that every topic exists with the right shape. Blocks; `stop`
    /// ends the wait.
    pub fn prepare(
        topology: Topology,
        mut config: EngineConfig,
        directory: Arc<StateDirectory>,
        budget: Arc<MemoryBudget>,
        clock: Arc<dyn Clock>,
        stop: &AtomicBool,
    ) -> Result<Prepared, PrepareError> {
        let admin = TopicAdmin::new(&config.connection)?;
        let (subtopologies, topics) = topics::ensure(&admin, &topology, &config, &|| stop.load(Ordering::Acquire))?;
        topics::learn_limits(&admin, &topology, &mut config);
        let retentions = Retentions::read(&admin, &topics::changelogs(&topology, &config));
        Ok(Prepared {
            topology,
            config: Arc::new(config),
            directory,
            budget,
            clock,
            subtopologies,
            retentions,
            topics,
            kept: BTreeMap::new(),
        })
    }

    /// Carries out an assignment: what is not processed here any more is committed and released, what is new is restored and
    /// started, copies are followed or closed. [`EngineEvent::Applied`] says when what had to be released is.
    pub fn assign(&self, assignment: Assignment) {
        self.send(Command::Assign(assignment));
    }

    /// The member was removed from the group: tasks stop where they are, uncommitted results are dropped, rows stay readable
    /// until the next assignment.
    pub fn lost(&self) {
        self.send(Command::Lost);
    }

    /// The state of everything, as of a moment ago.
    pub fn status(&self) -> Arc<EngineStatus> {
        self.status.load_full()
    }

    /// What readers may ask.
    pub fn stores(&self) -> &Arc<ServedStores> {
        &self.stores
    }

    /// Commits and releases every task, and takes no assignment any more: others may process them from now on. The copies stay
    /// open and readable until [`Engine::shutdown`]. Whether that was done within the deadline.
    pub fn release(&self, deadline: Duration) -> bool {
        let (done, finished) = bounded(1);
        self.send(Command::Release { done });
        finished.recv_timeout(deadline).is_ok()
    }

    /// Commits, releases every task, closes every store. Whether that was done within the deadline; what was not is
    /// processed again after the next start.
    pub fn shutdown(&self, deadline: Duration) -> bool {
        let (done, finished) = bounded(1);
        self.send(Command::Shutdown { done: Some(done) });
        finished.recv_timeout(deadline).is_ok()
    }

    fn send(&self, command: Command) {
        // A supervisor that is gone has said why in an event.
        let _ = self.commands.send(command);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.send(Command::Shutdown { done: None });
        if let Some(supervisor) = self.supervisor.take()
            && supervisor.join().is_err()
        {
            tracing::error!("the supervisor thread panicked");
        }
    }
}

impl Prepared {
    /// The sub-topologies with their task counts, for the group.
    pub fn subtopologies(&self) -> &[SubtopologySpec] {
        &self.subtopologies
    }

    /// Topics that transactions write to: outputs, repartition topics, changelogs, dead letters.
    pub fn written_topics(&self) -> BTreeSet<Arc<str>> {
        topics::written_topics(&self.topology, &self.config).into_iter().map(Arc::from).collect()
    }

    /// Starts the threads; tasks come with the first assignment.
    pub fn start(self, group: Arc<dyn GroupSession>) -> Result<(Engine, Receiver<EngineEvent>), StartError> {
        let (commands, incoming) = unbounded();
        let (events, told) = unbounded();
        let supervisor = Supervisor::new(self, group, events)?;
        let status = Arc::clone(supervisor.status());
        let stores = Arc::clone(supervisor.stores());
        let supervisor =
            std::thread::Builder::new().name("supervisor".to_owned()).spawn(move || supervisor.run(&incoming))?;
        Ok((Engine { commands, status, stores, supervisor: Some(supervisor) }, told))
    }
}
