//! The processing side of an instance: state directory, engine and membership, and the view that the router has of them.

mod engine;
mod farewell;
mod view;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use holdfast_discovery::{
    GroupConfig, GroupEvent, GroupMember,
    assignor::{AssignorSettings, Copies},
};
use holdfast_store::{DirectoryError, MemoryBudget, StateDirectory, StoreKind};
use holdfast_stream::{
    engine::{Engine, EngineConfig, EngineEvent, TaskStatus},
    topology::Topology,
};
use holdfast_types::{AssignedRole, Assignment, Clock, Endpoint, InstanceInfo, SystemClock, TaskId};
use parking_lot::{Condvar, Mutex};
use tokio::{runtime::Handle, sync::watch};
use tracing::{error, info, warn};

use crate::{
    config::{ProcessingGuarantee, Settings},
    peer::Inbox,
    query::{Cluster, StoreInfo},
};

/// Why processing cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ProcessingError {
    /// The state directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// State directory, engine and membership of this instance.
pub struct Processing {
    directory: Arc<StateDirectory>,
    budget: Arc<MemoryBudget>,
    topology: Topology,
    config: EngineConfig,
    group: GroupSettings,
    cluster: ArcSwap<Cluster>,
    engine: OnceLock<Engine>,
    member: OnceLock<GroupMember>,
    /// Who wants to know of the members of each generation.
    peers: OnceLock<Inbox>,
    /// What the instance waits for, in words; nothing when all is well.
    waiting: ArcSwapOption<String>,
    stop: AtomicBool,
    fatal: watch::Sender<Option<Arc<str>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    applied: Mutex<Applied>,
    applied_changed: Condvar,
}

/// What only the group needs.
struct GroupSettings {
    instance: InstanceInfo,
    session_timeout: Duration,
    heartbeat_interval: Duration,
    rebalance_timeout: Duration,
    fence: bool,
    assignor: AssignorSettings,
}

/// How often the group's next rebalance is told how far the copies here are.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// What each assignment left to be processed here, by tenure and generation, until it is carried out.
type KeptTasks = BTreeMap<(u64, i32), Vec<TaskId>>;

/// The latest assignment that is carried out.
#[derive(Debug, Default)]
struct Applied {
    generation: i32,
    /// Whether this member processes nothing in it.
    idle: bool,
}

impl fmt::Debug for Processing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processing").field("directory", &self.directory.path()).finish_non_exhaustive()
    }
}

impl Processing {
    /// Opens the state directory; nothing is asked of the network yet. `public` and `peer` are the advertised listeners.
    pub fn open(
        settings: &Settings,
        topology: Topology,
        public: Endpoint,
        peer: Endpoint,
    ) -> Result<Arc<Self>, ProcessingError> {
        let directory = StateDirectory::open(&settings.state_dir, &settings.application_id)?;
        let budget = MemoryBudget::with_max_replay(settings.memory_limit_bytes, settings.max_replay);
        let config = engine::config(settings, &topology, &directory);
        // Ids of earlier settings may still have a transaction open.
        let transactional_ids = directory.note_transactional_ids(&config.transactional_ids())?;
        let fence = settings.processing_guarantee == ProcessingGuarantee::ExactlyOnce;
        let group = GroupSettings {
            instance: InstanceInfo {
                process_id: directory.process_id(),
                endpoint: public.clone(),
                peer_endpoint: peer,
                threads: settings.num_stream_threads,
                tags: settings.tags.clone(),
                transactional_ids: if fence { transactional_ids } else { Vec::new() },
            },
            session_timeout: settings.session_timeout,
            heartbeat_interval: settings.heartbeat_interval,
            rebalance_timeout: settings.rebalance_timeout,
            fence,
            assignor: AssignorSettings {
                num_standby_replicas: settings.num_standby_replicas as usize,
                max_warmup_replicas: settings.max_warmup_replicas as usize,
                acceptable_recovery_lag: settings.acceptable_recovery_lag,
                probing_rebalance_interval: settings.probing_rebalance_interval,
                rack_aware_assignment_tags: settings.rack_aware_assignment_tags.clone(),
                drained_slot_retention: settings.drained_slot_retention,
            },
        };
        let stores = topology.stores().iter().filter(|store| store.queryable).map(|store| StoreInfo {
            name: store.name.clone(),
            persistent: store.kind == StoreKind::Persistent,
            key: Arc::clone(&store.key),
            value: Arc::clone(&store.value),
            subtopology: store.subtopology,
            partitions: 0,
            inputs: Vec::new(),
        });
        Ok(Arc::new(Self {
            cluster: ArcSwap::from_pointee(Cluster::new(public, stores.collect())),
            directory,
            budget,
            topology,
            config,
            group,
            engine: OnceLock::new(),
            member: OnceLock::new(),
            peers: OnceLock::new(),
            waiting: ArcSwapOption::from_pointee("the cluster to answer".to_owned()),
            stop: AtomicBool::new(false),
            fatal: watch::Sender::new(None),
            threads: Mutex::new(Vec::new()),
            applied: Mutex::default(),
            applied_changed: Condvar::new(),
        }))
    }

    /// The process's memory budget, for metrics.
    pub fn budget(&self) -> &Arc<MemoryBudget> {
        &self.budget
    }

    /// This instance, as the others get to know it.
    pub(crate) fn instance(&self) -> &InstanceInfo {
        &self.group.instance
    }

    /// Whether what a process left open has to be fenced.
    pub(crate) fn fences(&self) -> bool {
        self.group.fence
    }

    /// Tells `peers` of the members of each generation, from now on.
    pub(crate) fn tell(&self, peers: Inbox) {
        // Set once, before the start.
        let _ = self.peers.set(peers);
    }

    /// Says why the process should end, if it should.
    pub fn fatal(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.fatal.subscribe()
    }

    /// Starts processing on threads of its own: waits for the cluster, makes topics, joins the group. What goes wrong for good
    /// comes through [`Processing::fatal`].
    pub fn start(self: &Arc<Self>, runtime: Handle) -> Result<(), ProcessingError> {
        let this = Arc::clone(self);
        self.spawn("start", move || {
            if let Err(reason) = this.run(&runtime)
                && !this.stop.load(Ordering::Acquire)
            {
                this.fail(reason);
            }
        })
    }

    fn spawn(self: &Arc<Self>, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), ProcessingError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        self.threads.lock().push(thread);
        Ok(())
    }

    fn run(self: &Arc<Self>, runtime: &Handle) -> Result<(), String> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut prepared = Engine::prepare(
            self.topology.clone(),
            self.config.clone(),
            Arc::clone(&self.directory),
            Arc::clone(&self.budget),
            clock,
            &self.stop,
        )
        .map_err(|error| error.to_string())?;
        let subtopologies = prepared.subtopologies().to_vec();
        self.cluster.rcu(|cluster| Cluster::clone(cluster).with_subtopologies(&subtopologies));

        let mut group = GroupConfig::new(
            &self.config.connection.bootstrap_servers,
            &*self.config.application_id,
            self.group.instance.clone(),
            subtopologies,
        );
        group.kafka = self.config.connection.properties.clone();
        group.session_timeout = self.group.session_timeout;
        group.heartbeat_interval = self.group.heartbeat_interval;
        group.rebalance_timeout = self.group.rebalance_timeout;
        group.fence_on_start = self.group.fence;
        group.written_topics = prepared.written_topics();
        group.follows_tasks = true;
        group.assignor = self.group.assignor.clone();
        let kept = Copies { positions: prepared.open_kept(), ..Copies::default() };
        self.waiting.store(None);
        let (member, mut group_events) =
            GroupMember::start(group, runtime.clone()).map_err(|error| error.to_string())?;
        // It has to find the coordinator before it joins, and tells this when it does.
        member.report(kept);
        let (engine, engine_events) = prepared.start(Arc::new(member.clone())).map_err(|error| error.to_string())?;
        // Set once, by this thread.
        let _ = self.member.set(member.clone());
        let _ = self.engine.set(engine);

        let kept: Arc<Mutex<KeptTasks>> = Arc::default();
        let (this, applied) = (Arc::clone(self), Arc::clone(&kept));
        self.spawn("engine-events", move || {
            let mut reported = Copies::default();
            loop {
                let event = match engine_events.recv_timeout(REPORT_INTERVAL) {
                    Ok(event) => Some(event),
                    Err(error) if error.is_timeout() => None,
                    Err(_) => break,
                };
                this.report(&member, &mut reported);
                match event {
                    Some(EngineEvent::Applied { tenure, generation }) => {
                        this.acknowledge(&member, (tenure, generation), &applied);
                    }
                    Some(EngineEvent::Surrender { tenure, reason }) => member.surrender(tenure, &reason),
                    Some(EngineEvent::Resumed) => member.resume(),
                    Some(EngineEvent::Answered) => {
                        // Under the lock: whoever looks now is woken.
                        let _applied = this.applied.lock();
                        this.applied_changed.notify_all();
                    }
                    Some(EngineEvent::RejoinNeeded { reason }) => member.rejoin(&reason),
                    Some(EngineEvent::CaughtUp { reason }) => member.caught_up(&reason),
                    Some(EngineEvent::Fatal { reason }) => this.fail(reason.to_string()),
                    None => {}
                }
            }
        })
        .map_err(|error| error.to_string())?;

        while let Some(event) = group_events.blocking_recv() {
            self.on_group(event, &kept);
        }
        Ok(())
    }

    /// Tells the group how far the copies here are, where that has changed.
    fn report(&self, member: &GroupMember, reported: &mut Copies) {
        let Some(engine) = self.engine.get() else { return };
        let status = engine.status();
        let restoring = |task: &&TaskStatus| task.assigned == AssignedRole::Active && task.thread.is_none();
        let copies = Copies {
            positions: status.positions.clone(),
            restoring: status.tasks.iter().filter(restoring).map(|task| task.id).collect(),
        };
        // What was found on the disk counts until the engine has shown itself.
        if !status.threads.is_empty() && copies != *reported {
            member.report(copies.clone());
            *reported = copies;
        }
    }

    /// An assignment is carried out: others may have what was released.
    fn acknowledge(&self, member: &GroupMember, of: (u64, i32), kept: &Mutex<KeptTasks>) {
        let (tenure, generation) = of;
        let mut kept = kept.lock();
        let tasks = kept.remove(&of);
        kept.retain(|known, _| *known > of);
        drop(kept);
        let Some(tasks) = tasks else { return };
        member.acknowledge(tenure, generation, &tasks);
        *self.applied.lock() = Applied { generation, idle: tasks.is_empty() };
        self.applied_changed.notify_all();
    }

    fn on_group(&self, event: GroupEvent, kept: &Mutex<KeptTasks>) {
        match event {
            GroupEvent::Assigned(assignment) => {
                self.waiting.store(None);
                kept.lock().insert((assignment.tenure, assignment.generation), assignment.active.clone());
                self.show(&assignment);
                if let Some(engine) = self.engine.get() {
                    engine.assign(assignment);
                }
            }
            GroupEvent::Lost { reason } => {
                warn!(reason, "membership lost; joining again");
                if let Some(engine) = self.engine.get() {
                    engine.lost();
                }
            }
            GroupEvent::Waiting { reason } => {
                warn!(reason, "the group cannot be reached, or refuses this instance; trying again until it works");
                self.waiting.store(Some(Arc::new(reason)));
            }
            GroupEvent::Recovered => {
                info!("the group can be reached again");
                self.waiting.store(None);
            }
        }
    }

    fn show(&self, assignment: &Assignment) {
        self.cluster.rcu(|cluster| Cluster::clone(cluster).with_assignment(assignment));
        if let Some(peers) = self.peers.get() {
            let members = assignment.members.iter().map(|member| Arc::new(member.instance.clone()));
            peers.members(assignment.generation, members.collect());
        }
    }

    fn fail(&self, reason: String) {
        error!(reason, "processing cannot go on");
        self.fatal.send_replace(Some(reason.into()));
    }

    /// Whether the group has ever told this instance what is its own.
    pub fn has_joined(&self) -> bool {
        self.cluster.load().generation >= 0
    }
}
