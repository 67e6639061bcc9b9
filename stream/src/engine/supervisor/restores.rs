//! Tasks on their way to being processed: restored, opened to readers, given to a thread.

use std::sync::Arc;

use holdfast_store::TaskStore;
use holdfast_types::{AssignedRole, TaskId};

use super::{Supervisor, tasks::Phase};
use crate::engine::{
    ServedTable, kept,
    restorer::{RestoreEvent, RestoreJob},
    thread::{TaskStart, ThreadCommand},
};

impl Supervisor {
    pub(super) fn restore(&mut self, task: TaskId) {
        if let Some(job) = self.job(task, || Phase::Restoring { status: None, waiting: None }) {
            self.restorer.restore(job);
        }
    }

    /// What the restorer needs to work on a task, which is in `phase` from now on; nothing while processing is halted.
    pub(super) fn job(&mut self, task: TaskId, phase: impl FnOnce() -> Phase) -> Option<RestoreJob> {
        let record = self.tasks.get_mut(&task)?;
        if self.halted.is_some() {
            record.phase = Phase::Suspended;
            return None;
        }
        record.phase = phase();
        self.jobs += 1;
        record.attempt = self.jobs;
        Some(RestoreJob {
            task,
            attempt: record.attempt,
            spec: record.spec.clone(),
            max_age: self.prepared.retentions.of_task(task),
            changelogs: Arc::clone(&record.changelogs),
            inputs: record.inputs.clone(),
            view: Arc::clone(&record.view),
            store: record.store.clone(),
        })
    }

    pub(super) fn on_restore(&mut self, event: RestoreEvent) {
        match event {
            RestoreEvent::Opened { task, store } => {
                if let Some(record) = self.tasks.get_mut(&task) {
                    if record.view.position().is_empty() {
                        record.view.publish(kept::position(&store), Vec::new());
                    }
                    record.store = Some(store);
                    self.serve(task);
                }
            }
            RestoreEvent::Progress { task, status } => {
                if let Some(Phase::Restoring { status: shown, waiting }) = self.phase(task) {
                    *shown = Some(status);
                    *waiting = None;
                }
            }
            RestoreEvent::Waiting { task, reason } => match self.phase(task) {
                Some(Phase::Restoring { waiting, .. }) => *waiting = Some(reason),
                Some(Phase::Following(following)) => following.waiting = Some(reason),
                _ => {}
            },
            RestoreEvent::Done { task, attempt, store, offsets } => {
                // One that was given up meanwhile has offsets from before: the present one is still under way.
                if self.tasks.get(&task).is_some_and(|record| record.attempt == attempt) {
                    self.start(task, store, offsets);
                }
            }
            RestoreEvent::Failed { task, attempt, error } => {
                let present = |phase: &Phase| !matches!(phase, Phase::Suspended);
                if self.tasks.get(&task).is_some_and(|record| record.attempt == attempt && present(&record.phase)) {
                    self.fail(error.to_string());
                }
            }
        }
    }

    fn phase(&mut self, task: TaskId) -> Option<&mut Phase> {
        self.tasks.get_mut(&task).map(|record| &mut record.phase)
    }

    /// Opens a task's tables to readers. One without a changelog is empty everywhere but with the active.
    fn serve(&self, task: TaskId) {
        let Some(record) = self.tasks.get(&task) else { return };
        let Some(store) = &record.store else { return };
        let served = record.spec.stores.iter().zip(store.tables()).filter_map(|(spec, table)| {
            let complete = record.assigned == AssignedRole::Active || spec.changelog.is_some();
            let served = ServedTable::new(Arc::clone(table), task, Arc::clone(&record.view));
            complete.then(|| (spec.name.clone(), task.partition, Arc::new(served)))
        });
        self.stores.insert(served.collect());
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
            attempt: record.attempt,
            tenure: self.tenure,
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
}
