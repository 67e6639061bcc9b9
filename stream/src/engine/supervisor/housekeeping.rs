//! What the supervisor does now and then: purging, cleaning up, and showing how everything stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Sender, bounded};
use holdfast_types::{AssignedRole, TaskId, TopicPartition};
use tracing::{info, warn};

use super::{Phase, Supervisor};
use crate::{
    engine::{
        EngineEvent, EngineState, EngineStatus, Prepared, StartError, TaskStatus, ThreadStatus,
        kept::offset_sum,
        metrics::{self, TaskCounts},
        status::text_keys,
    },
    kafka::admin::TopicAdmin,
};

const CLEANUP_INTERVAL: Duration = Duration::from_secs(60);
/// Short, because a stop waits for it.
const PURGE_DEADLINE: Duration = Duration::from_secs(3);

impl Supervisor {
    /// Repartition records that are committed are of no use to anybody.
    pub(super) fn purge_repartitions(&mut self) {
        if self.last_purge.elapsed() < self.prepared.config.repartition_purge_interval {
            return;
        }
        self.last_purge = Instant::now();
        let internal: BTreeSet<Arc<str>> = self
            .prepared
            .topology
            .subtopologies()
            .iter()
            .flat_map(|subtopology| &subtopology.sources)
            .filter(|source| source.repartition.is_some())
            .map(|source| source.topic.resolve(&self.prepared.config.application_id))
            .collect();
        let mut consumed = Vec::new();
        for thread in &self.threads {
            for progress in thread.view.tasks.lock().values() {
                let committed = progress
                    .committed
                    .iter()
                    .filter(|(partition, offset)| internal.contains(&partition.topic) && **offset > 0);
                consumed.extend(committed.map(|(partition, offset)| (partition.clone(), *offset)));
            }
        }
        if !consumed.is_empty() {
            self.purger.purge(consumed);
        }
    }

    pub(super) fn clean_up(&mut self) {
        if self.last_cleanup.elapsed() < CLEANUP_INTERVAL || self.generation < 0 {
            return;
        }
        self.last_cleanup = Instant::now();
        let keep: BTreeSet<TaskId> =
            self.tasks.keys().chain(self.released.keys()).chain(self.prepared.kept.keys()).copied().collect();
        let delay = self.prepared.config.state_cleanup_delay;
        match self.prepared.directory.remove_unassigned(&keep, delay, &*self.prepared.clock) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => {
                self.left.retain(|task, _| !removed.contains(task));
                info!(?removed, "state of tasks that are not assigned here any more is removed");
            }
            Err(error) => warn!(%error, "state of unassigned tasks could not be removed"),
        }
    }

    /// Says which record a thread has had in hand for long: a closure that does not come back is seen from outside only.
    pub(super) fn look_for_slow_records(&mut self) {
        let now = Instant::now();
        for (index, (thread, watcher)) in self.threads.iter().zip(&mut self.watchers).enumerate() {
            if let Some((partition, offset, took)) = watcher.look(&thread.view.hand, now) {
                warn!(
                    thread = index,
                    record = %format_args!("{partition} offset {offset}"),
                    for_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                    "a record is being processed for long; the other tasks of its thread wait, look-ups and heartbeats go on"
                );
            }
        }
    }

    pub(super) fn publish(&self) {
        let mut progress = BTreeMap::new();
        for (index, thread) in self.threads.iter().enumerate() {
            progress.extend(thread.view.tasks.lock().iter().map(|(task, shown)| (*task, (index, shown.clone()))));
        }
        let tasks: Vec<TaskStatus> = self
            .tasks
            .iter()
            .map(|(id, record)| {
                let shown = progress.get(id).map(|(_, shown)| shown.clone()).unwrap_or_default();
                let (thread, restore, waiting_for) = match &record.phase {
                    Phase::Running { thread } => (Some(*thread), None, None),
                    Phase::Restoring { status, waiting } => (None, status.clone(), waiting.clone()),
                    Phase::Following(following) => (None, None, following.waiting.clone()),
                    Phase::Suspended => {
                        let halted = self.halted.as_ref().map(|_| "an operator: processing is halted".to_owned());
                        (None, None, Some(halted.unwrap_or_else(|| "the group's next assignment".to_owned())))
                    }
                };
                let followed = record.assigned != AssignedRole::Active;
                let staleness = record.view.caught_up_at().filter(|_| followed).map(|at| at.elapsed());
                TaskStatus {
                    id: *id,
                    role: record.view.role(),
                    assigned: record.assigned,
                    thread,
                    stores: record.spec.stores.iter().map(|store| store.name.clone()).collect(),
                    committed: text_keys(&shown.committed),
                    lag_records: text_keys(&shown.lag),
                    changelog_lag: u64::try_from(record.view.lag_records()).ok().filter(|_| followed),
                    staleness_ms: staleness.map(|staleness| u64::try_from(staleness.as_millis()).unwrap_or(u64::MAX)),
                    stream_time_ms: shown.stream_time_ms,
                    restore,
                    waiting_for,
                }
            })
            .collect();
        let mut counts = TaskCounts::default();
        for record in self.tasks.values() {
            match (record.assigned, &record.phase) {
                (AssignedRole::Active, Phase::Running { .. }) => counts.active += 1,
                (AssignedRole::Active, _) => counts.restoring += 1,
                (AssignedRole::Standby, _) => counts.standby += 1,
                (AssignedRole::WarmUp, _) => counts.warm_up += 1,
            }
        }
        metrics::tasks(counts);
        let state = match (&self.failed, &self.halted) {
            (Some(reason), _) => EngineState::Failed(reason.clone()),
            (None, _) if self.stopping => EngineState::Stopping,
            (None, Some(reason)) => EngineState::Halted(reason.clone()),
            (None, None) if self.generation < 0 => EngineState::Joining,
            (None, None) if counts.restoring > 0 => EngineState::Restoring,
            (None, None) => EngineState::Running,
        };
        let threads = self.threads.iter().enumerate().map(|(index, thread)| ThreadStatus {
            index,
            alive: !thread.is_dead(),
            idle_ms: thread.view.idle_ms(),
            tasks: thread.view.tasks.lock().keys().copied().collect(),
            processed_records: thread.view.processed.load(Ordering::Relaxed),
        });
        let status = EngineStatus {
            state,
            generation: self.generation,
            tasks,
            threads: threads.collect(),
            positions: self.positions(),
            released: self.released_copies(),
        };
        let answered = status.unanswered() < self.status.load().unanswered();
        self.status.store(Arc::new(status));
        if answered {
            self.tell(EngineEvent::Answered);
        }
    }
}

impl Supervisor {
    /// How far every copy is that is on this instance's disk.
    fn positions(&self) -> BTreeMap<TaskId, u64> {
        let released = self.released.iter().map(|(task, released)| (task, &released.record));
        let open = self.tasks.iter().chain(released);
        let open = open.filter_map(|(task, record)| Some((*task, record.store.as_ref()?)));
        let kept = self.prepared.kept.iter().map(|(task, store)| (*task, store));
        let mut positions = self.left.clone();
        positions.extend(kept.chain(open).map(|(task, store)| (task, offset_sum(store))));
        positions
    }
}

/// The thread that deletes consumed repartition records: the call waits for brokers, which nobody else should.
#[derive(Debug)]
pub(super) struct Purger {
    purges: Option<Sender<Vec<(TopicPartition, i64)>>>,
    thread: Option<JoinHandle<()>>,
}

impl Purger {
    pub(super) fn start(prepared: &Prepared) -> Result<Self, StartError> {
        let (purges, incoming) = bounded::<Vec<(TopicPartition, i64)>>(1);
        let admin = TopicAdmin::new(&prepared.config.connection).map_err(|error| StartError::Settings(error.into()))?;
        let thread = std::thread::Builder::new().name("purge".to_owned()).spawn(move || {
            while let Ok(consumed) = incoming.recv() {
                if let Err(error) = admin.delete_records(&consumed, PURGE_DEADLINE) {
                    warn!(%error, "consumed repartition records could not be deleted; tried again later");
                }
            }
        })?;
        Ok(Self { purges: Some(purges), thread: Some(thread) })
    }

    fn purge(&self, consumed: Vec<(TopicPartition, i64)>) {
        if let Some(purges) = &self.purges {
            // One purge under way is enough.
            let _ = purges.try_send(consumed);
        }
    }
}

impl Drop for Purger {
    fn drop(&mut self) {
        self.purges = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the purge thread panicked");
        }
    }
}
