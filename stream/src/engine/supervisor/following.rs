//! Tasks that are followed here, and when the group is asked to give out more of them.

use std::time::{Duration, Instant};

use holdfast_types::{AssignedRole, Role, TaskId};

use super::{
    Supervisor,
    tasks::{Following, Phase, TaskRecord},
};
use crate::engine::EngineEvent;

/// Time before the group is asked again for a warm-up that has caught up: the leader may have found that it had not, because
/// other members told their positions a moment later.
const ASK_AGAIN: Duration = Duration::from_secs(5);

impl Supervisor {
    pub(super) fn follow(&mut self, task: TaskId) {
        if let Some(job) = self.job(task, || Phase::Following(Following::default())) {
            self.restorer.follow(job);
        }
    }

    /// Asks for a rebalance when a warm-up has caught up: it gets what it warms up for. So it is when standbys that were behind
    /// have caught up, all of them: one may be where a task should go.
    pub(super) fn look_for_caught_up(&mut self) {
        let acceptable = self.acceptable_lag();
        let now = Instant::now();
        let mut reason = None;
        let (mut behind, mut caught_up) = (false, Vec::new());
        for (task, record) in &mut self.tasks {
            let (near, lag) = (record.has_caught_up(acceptable), record.view.lag_records());
            let Phase::Following(following) = &mut record.phase else { continue };
            following.was_behind |= lag > acceptable;
            match record.assigned {
                _ if !near => behind |= record.assigned == AssignedRole::Standby,
                AssignedRole::WarmUp if following.asked.is_none_or(|at| now - at > ASK_AGAIN) => {
                    following.asked = Some(now);
                    reason = Some(format!("the copy of task {task} has caught up"));
                }
                AssignedRole::Standby if following.was_behind && following.asked.is_none() => caught_up.push(*task),
                _ => {}
            }
        }
        if !behind && !caught_up.is_empty() {
            reason = Some(format!("the standbys of {} tasks have caught up", caught_up.len()));
            for task in caught_up {
                self.asked(task, now);
            }
        }
        if let Some(reason) = reason
            && self.generation >= 0
            && !self.stopping
        {
            self.tell(EngineEvent::CaughtUp { reason: reason.into() });
        }
    }

    /// A copy that is followed is assigned again. A warm-up that has caught up already gets its task as soon as the present
    /// owner lets go of it: a rebalance would only hold that up.
    pub(super) fn follow_on(&mut self, task: TaskId) {
        let acceptable = self.acceptable_lag();
        let Some(record) = self.tasks.get_mut(&task) else { return };
        let near = record.has_caught_up(acceptable);
        if let Phase::Following(following) = &mut record.phase
            && record.assigned == AssignedRole::WarmUp
            && near
        {
            following.asked.get_or_insert_with(Instant::now);
        }
    }

    fn acceptable_lag(&self) -> i64 {
        i64::try_from(self.prepared.config.acceptable_recovery_lag).unwrap_or(i64::MAX)
    }

    fn asked(&mut self, task: TaskId, now: Instant) {
        if let Some(TaskRecord { phase: Phase::Following(following), .. }) = self.tasks.get_mut(&task) {
            following.asked = Some(now);
        }
    }
}

impl TaskRecord {
    /// Whether the copy could take over without replaying much.
    fn has_caught_up(&self, acceptable: i64) -> bool {
        self.view.role() != Role::Restoring && (0..=acceptable).contains(&self.view.lag_records())
    }
}
