//! The life of a task here: assigned, processed or followed, released, closed.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use holdfast_store::{AppliedBatch, CheckpointDelta, TaskStore, TaskStoreSpec};
use holdfast_types::{AssignedRole, Assignment, Role, TaskId, TopicPartition};
use tracing::{info, warn};

use super::Supervisor;
use crate::{
    engine::{EngineEvent, kept::offset_sum, metrics, served::TaskView, status::RestoreStatus, thread::ThreadCommand},
    task::ResolvedSink,
};

/// How long a thread may take to let go of tasks before the group is told not to wait for it: a minute in
/// ticks. Its tasks stand still either way.
const RELEASE_TICKS: u32 = 600;
const RELEASE_TICK: Duration = Duration::from_millis(100);
/// A copy that has caught up so recently has all deletions of its changelog.
const FRESH: Duration = Duration::from_secs(60);

/// A task that is assigned here.
pub(super) struct TaskRecord {
    pub(super) spec: TaskStoreSpec,
    pub(super) inputs: Vec<TopicPartition>,
    pub(super) changelogs: Arc<[Option<TopicPartition>]>,
    pub(super) sinks: Arc<[ResolvedSink]>,
    pub(super) view: Arc<TaskView>,
    pub(super) store: Option<Arc<TaskStore>>,
    /// What the group wants it to be.
    pub(super) assigned: AssignedRole,
    pub(super) phase: Phase,
    /// The latest job's number; see [`RestoreJob::attempt`](crate::engine::restorer::RestoreJob::attempt).
    pub(super) attempt: u64,
}

/// Where in its life it is.
pub(super) enum Phase {
    Restoring {
        status: Option<RestoreStatus>,
        waiting: Option<String>,
    },
    Running {
        thread: usize,
    },
    /// Its changelog is followed.
    Following(Following),
    /// Nothing is done with it: it was just assigned or released, or the membership was lost (rows can be read, nothing is
    /// processed until the next assignment).
    Suspended,
}

/// What is remembered of a task while it is followed.
#[derive(Debug, Default)]
pub(super) struct Following {
    pub(super) waiting: Option<String>,
    /// When the group was last asked to look whether it can be given more of it.
    pub(super) asked: Option<Instant>,
    /// Whether it was seen to be too far behind to take over.
    pub(super) was_behind: bool,
}

impl Supervisor {
    pub(super) fn assign(&mut self, assignment: &Assignment) {
        if self.stopping {
            return;
        }
        self.generation = assignment.generation;
        self.tenure = assignment.tenure;
        let wanted = roles(assignment);
        // First of all: what an earlier generation held up may still be committed in this one.
        for thread in &self.threads {
            thread.send(ThreadCommand::NewGeneration);
        }
        let active = |task: &TaskId| wanted.get(task) == Some(&AssignedRole::Active);
        let leaving: Vec<TaskId> = self.processed().into_iter().filter(|task| !active(task)).collect();
        self.release(&leaving, true);
        if self.generation != assignment.generation {
            // Lost meanwhile, and what follows of that is on its way.
            return;
        }
        let gone: Vec<TaskId> = self.tasks.keys().copied().filter(|task| !wanted.contains_key(task)).collect();
        for task in gone {
            self.let_go(task);
        }
        self.publish_released();
        // Somebody may wait for what was released; nobody waits for what follows here.
        self.tell(EngineEvent::Applied { tenure: self.tenure, generation: self.generation });
        // What is processed comes first.
        for role in [AssignedRole::Active, AssignedRole::Standby, AssignedRole::WarmUp] {
            for (task, _) in wanted.iter().filter(|(_, wanted)| **wanted == role) {
                self.take(*task, role);
            }
        }
        let count = |role| wanted.values().filter(|wanted| **wanted == role).count();
        info!(
            generation = self.generation,
            active = count(AssignedRole::Active),
            standby = count(AssignedRole::Standby),
            warm_up = count(AssignedRole::WarmUp),
            "assignment in force"
        );
    }

    /// Makes a task what it is wanted to be, with what there is of it.
    fn take(&mut self, task: TaskId, role: AssignedRole) {
        if !self.tasks.contains_key(&task) {
            let Some(record) = self.record(task) else {
                warn!(%task, "assigned a task that this topology does not have; ignored");
                return;
            };
            self.tasks.insert(task, record);
        }
        let Some(record) = self.tasks.get_mut(&task) else { return };
        if role == AssignedRole::WarmUp && record.assigned != role {
            metrics::warms_up();
        }
        record.assigned = role;
        match (role, &record.phase) {
            (AssignedRole::Active, Phase::Running { .. } | Phase::Restoring { .. }) => {}
            (AssignedRole::Active, phase) => {
                if matches!(phase, Phase::Following(_)) {
                    metrics::promoted();
                    let lag = u64::try_from(record.view.lag_records()).ok();
                    info!(%task, lag, "the copy here takes the task over");
                }
                self.restore(task);
            }
            (_, Phase::Following(_)) => self.follow_on(task),
            (..) => self.follow(task),
        }
    }

    fn record(&mut self, task: TaskId) -> Option<TaskRecord> {
        if let Some(released) = self.released.remove(&task) {
            return Some(released.record);
        }
        let spec = self.prepared.store_spec(task)?;
        let topology = &self.prepared.topology;
        let application_id = &self.prepared.config.application_id;
        let subtopology = topology.subtopologies().iter().find(|subtopology| subtopology.id == task.subtopology)?;
        let inputs = subtopology
            .sources
            .iter()
            .map(|source| TopicPartition::new(source.topic.resolve(application_id), task.partition))
            .collect();
        let sinks =
            subtopology.sinks.iter().map(|sink| ResolvedSink { topic: sink.topic.resolve(application_id) }).collect();
        let changelogs = spec.stores.iter().map(|store| Some(store.changelog.as_ref()?.partition.clone())).collect();
        self.left.remove(&task);
        Some(TaskRecord {
            spec,
            inputs,
            changelogs,
            sinks,
            view: Arc::new(TaskView::new(Role::Restoring)),
            store: self.prepared.kept.remove(&task),
            assigned: AssignedRole::Standby,
            phase: Phase::Suspended,
            attempt: 0,
        })
    }

    /// Tasks that are assigned here as active, whatever they do now.
    pub(super) fn processed(&self) -> Vec<TaskId> {
        let active = self.tasks.iter().filter(|(_, record)| record.assigned == AssignedRole::Active);
        active.map(|(task, _)| *task).collect()
    }

    /// Makes threads and the restorer let go of tasks; their records stay. It takes as long as the threads do: while one has a
    /// task, nobody else may, here or elsewhere.
    pub(super) fn release(&mut self, tasks: &[TaskId], commit: bool) {
        // Until it let go of them, this member was the one to ask.
        let confirmed = self.thread_context.group.last_confirmed().filter(|confirmed| confirmed.tenure == self.tenure);
        // Said before a thread lets go, too: the copy is no active from then on, and readers ask for its age.
        for record in tasks.iter().filter_map(|task| self.tasks.get(task)) {
            if let (Phase::Running { .. }, Some(confirmed)) = (&record.phase, confirmed)
                && let Some(at) = record.view.active_as_of(confirmed)
            {
                record.view.caught_up(at);
            }
        }
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
                waits.push((index, wait));
            }
        }
        self.await_releases(waits);
        for task in tasks {
            let Some(record) = self.tasks.get_mut(task) else { continue };
            match record.phase {
                Phase::Restoring { .. } | Phase::Following(_) => self.restorer.cancel(*task),
                Phase::Running { .. } if confirmed.is_none() => record.view.lose_track(),
                Phase::Running { .. } | Phase::Suspended => {}
            }
            record.phase = Phase::Suspended;
        }
    }

    /// Waits until each thread has let go, or has ended, and its commits with it. Past the deadline the membership is given up:
    /// the group need not wait, and whatever the thread commits later is refused.
    fn await_releases(&mut self, waits: Vec<(usize, Receiver<()>)>) {
        // In which membership the group waits, and for how many ticks: a process that stands still meanwhile takes no time.
        let mut waited = None::<(u64, u32)>;
        for (index, wait) in waits {
            loop {
                match wait.recv_timeout(RELEASE_TICK) {
                    Ok(()) => break,
                    Err(RecvTimeoutError::Disconnected) => match self.threads.get(index) {
                        // It ends with an error, and joins its commit thread first.
                        Some(thread) if !thread.is_dead() => std::thread::park_timeout(RELEASE_TICK),
                        _ => break,
                    },
                    Err(RecvTimeoutError::Timeout) => {}
                }
                let present = self.thread_context.group.metadata().map(|group| group.tenure);
                if present != Some(self.tenure) {
                    // What follows of the loss waits behind this, and others may process these tasks already.
                    self.generation = -1;
                    self.freeze(&self.processed());
                }
                self.look_for_slow_records();
                self.publish();
                waited = present.map(|present| match waited {
                    Some((tenure, ticks)) if tenure == present => (tenure, ticks + 1),
                    _ => (present, 0),
                });
                if let Some((tenure, _)) = waited.filter(|(_, ticks)| *ticks >= RELEASE_TICKS) {
                    self.surrender(index, tenure);
                }
            }
        }
    }

    fn surrender(&mut self, index: usize, tenure: u64) {
        if self.surrendered || self.stopping || self.halted.is_some() {
            return;
        }
        self.surrendered = true;
        let reason =
            format!("stream thread {index} has not let go of its tasks for {:?}", RELEASE_TICK * RELEASE_TICKS);
        warn!(reason, "the tasks are given up without a commit: others process them from their last one");
        self.tell(EngineEvent::Surrender { tenure, reason: reason.into() });
    }

    /// The membership is lost. Copies are followed all the same: nobody has to be a member for that.
    pub(super) fn suspend(&mut self) {
        let processed = self.processed();
        warn!(tasks = processed.len(), "membership lost: processing stops, rows up to the last commit stay readable");
        self.freeze(&processed);
        self.generation = -1;
        self.publish();
        self.release(&processed, false);
        if std::mem::take(&mut self.surrendered) {
            self.tell(EngineEvent::Resumed);
        }
    }

    /// What may have another owner is no active copy, from now on and not only when its thread has let go of it.
    pub(super) fn freeze(&self, tasks: &[TaskId]) {
        for record in tasks.iter().filter_map(|task| self.tasks.get(task)) {
            if record.view.role() == Role::Active {
                record.view.lose_track();
                record.view.set_role(Role::Standby);
            }
        }
    }

    /// Closes a task's copy; its directory stays.
    pub(super) fn close(&mut self, task: TaskId) {
        self.stores.remove_task(task);
        if let Some(record) = self.tasks.remove(&task) {
            self.close_record(task, record);
        }
    }

    pub(super) fn close_record(&mut self, task: TaskId, record: TaskRecord) {
        let Some(store) = record.store else { return };
        let caught_up = || record.view.caught_up_at().is_some_and(|at| at.elapsed() < FRESH);
        if record.view.role() != Role::Restoring && (record.assigned == AssignedRole::Active || caught_up()) {
            // It has followed its changelog until now, even if nothing came: its tombstones are all applied.
            let checkpoint =
                CheckpointDelta { applied_at_ms: Some(self.prepared.clock.now_ms()), ..CheckpointDelta::default() };
            let rows = vec![Vec::new(); record.spec.stores.len()];
            if let Err(error) = store.apply(AppliedBatch { rows, checkpoint }) {
                warn!(%task, %error, "a store took no last time stamp");
            }
        }
        self.left.insert(task, offset_sum(&store));
        self.closer.close(task, store);
    }
}

/// What each task is to be here.
fn roles(assignment: &Assignment) -> BTreeMap<TaskId, AssignedRole> {
    let of = |tasks: &[TaskId], role: AssignedRole| tasks.iter().map(|task| (*task, role)).collect::<Vec<_>>();
    // The last one counts, where a task stands in several lists.
    [
        of(&assignment.warmup, AssignedRole::WarmUp),
        of(&assignment.standby, AssignedRole::Standby),
        of(&assignment.active, AssignedRole::Active),
    ]
    .concat()
    .into_iter()
    .collect()
}
