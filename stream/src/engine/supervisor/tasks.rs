//! The life of a task here: assigned, restored, given to a thread, released, closed.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::bounded;
use holdfast_store::{AppliedBatch, ChangelogSpec, CheckpointDelta, StoreSpec, TaskStore, TaskStoreSpec};
use holdfast_types::{Assignment, Role, TaskId, TopicPartition};
use tracing::{info, warn};

use super::Supervisor;
use crate::{
    engine::{
        EngineEvent, ServedTable,
        restorer::{RestoreEvent, RestoreJob},
        served::TaskView,
        status::RestoreStatus,
        thread::{TaskStart, ThreadCommand},
        topics::changelog_topic,
    },
    task::ResolvedSink,
};

const RELEASE_DEADLINE: Duration = Duration::from_secs(15);

/// A task that is assigned here.
pub(super) struct TaskRecord {
    pub(super) spec: TaskStoreSpec,
    pub(super) inputs: Vec<TopicPartition>,
    changelogs: Arc<[Option<TopicPartition>]>,
    sinks: Arc<[ResolvedSink]>,
    pub(super) view: Arc<TaskView>,
    store: Option<Arc<TaskStore>>,
    pub(super) phase: Phase,
    /// The latest restore's number; see [`RestoreJob::attempt`].
    attempt: u64,
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
    /// The membership was lost: rows can be read, nothing is processed until the next assignment.
    Suspended,
}

impl Supervisor {
    pub(super) fn assign(&mut self, assignment: &Assignment) {
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

    pub(super) fn restore(&mut self, task: TaskId) {
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

    pub(super) fn on_restore(&mut self, event: RestoreEvent) {
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

    /// Makes threads and the restorer let go of tasks; their records stay.
    pub(super) fn release(&mut self, tasks: &[TaskId], commit: bool) {
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

    pub(super) fn suspend(&mut self) {
        let all: Vec<TaskId> = self.tasks.keys().copied().collect();
        warn!(tasks = all.len(), "membership lost: processing stops, rows up to the last commit stay readable");
        self.freeze(&all);
        self.generation = -1;
        self.publish();
        self.release(&all, false);
    }

    /// What may have another owner is no active copy, from now on and not only when its thread has let go of it.
    pub(super) fn freeze(&self, tasks: &[TaskId]) {
        for record in tasks.iter().filter_map(|task| self.tasks.get(task)) {
            if record.view.role() == Role::Active {
                record.view.set_role(Role::Standby);
            }
        }
    }

    pub(super) fn close(&mut self, task: TaskId) {
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
}
