//! Stream threads as the supervisor sees them: what they tell, and what follows when one fails.

use std::time::{Duration, Instant};

use holdfast_types::TaskId;
use tracing::{error, warn};

use super::{Phase, Supervisor, tasks::TaskRecord};
use crate::engine::{
    EngineEvent, OnFatalError,
    thread::{StreamThread, TaskLife, ThreadEvent},
};

/// More thread failures than this within the window end the process: replacing goes on only while it helps.
const MAX_FAILURES: usize = 5;
const FAILURE_WINDOW: Duration = Duration::from_secs(60);

impl Supervisor {
    pub(super) fn on_thread(&mut self, event: ThreadEvent) {
        match event {
            ThreadEvent::Restart { thread, tasks, reason } => {
                warn!(
                    thread,
                    tasks = tasks.len(),
                    reason,
                    "a producer is lost: its tasks go back to their last commit"
                );
                for life in tasks {
                    if self.running(life).is_some() {
                        self.restore(life.0);
                    }
                }
            }
            ThreadEvent::NotAMember { tenure, tasks } => {
                for life in tasks {
                    if let Some(record) = self.running(life) {
                        record.phase = Phase::Suspended;
                    }
                }
                // The member may have noticed by itself, and what follows of that is on its way.
                if self.thread_context.group.metadata().is_some_and(|group| group.tenure == tenure) {
                    self.tell(EngineEvent::RejoinNeeded {
                        reason: "the group coordinator does not know this member any more".into(),
                    });
                }
            }
            ThreadEvent::Fatal { reason } => self.fail(reason),
            ThreadEvent::Failed { thread, reason } => self.thread_failed(thread, reason),
        }
    }

    /// The task's record, while a thread processes that very life of it.
    fn running(&mut self, (task, attempt): TaskLife) -> Option<&mut TaskRecord> {
        let record = self.tasks.get_mut(&task)?;
        (record.attempt == attempt && matches!(record.phase, Phase::Running { .. })).then_some(record)
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

    pub(super) fn look_after_threads(&mut self) {
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
}
