//! Copies that the group wants nowhere here any more. Where a task moves to an instance that has to replay something first, the
//! copy that was left is the only complete one for a while: it is followed and read on until the task's owner answers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_types::{Role, TaskId};
use tracing::debug;

use super::{
    Supervisor,
    tasks::{Phase, TaskRecord},
};
use crate::engine::{EngineStatus, ReleasedCopy, kept::offset_sum};

/// Longest time that such a copy is kept open: an owner that restores for longer has lost its state.
const LONGEST: Duration = Duration::from_secs(60);
/// Time from when this instance hears that another one is active until all others have heard of it, too.
const HEARD_BY_ALL: Duration = Duration::from_secs(1);

/// A copy that is not assigned here any more.
pub(super) struct Released {
    pub(super) record: TaskRecord,
    at: Instant,
    /// Whether it is of any use to readers.
    is_readable: bool,
}

impl Released {
    fn show(&self, id: TaskId) -> ReleasedCopy {
        ReleasedCopy {
            id,
            stores: self.record.spec.stores.iter().map(|store| store.name.clone()).collect(),
            is_answered_elsewhere: self.record.view.active_elsewhere_since().is_some(),
        }
    }

    fn may_be_closed(&self, now: Instant) -> bool {
        !self.is_readable || may_be_closed(now, self.at, self.record.view.active_elsewhere_since())
    }
}

/// Whether nobody misses a copy that was released at `released`, if another instance has been active since `active_elsewhere`.
fn may_be_closed(now: Instant, released: Instant, active_elsewhere: Option<Instant>) -> bool {
    let passed = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
    passed(released, LONGEST) || active_elsewhere.is_some_and(|since| passed(since.max(released), HEARD_BY_ALL))
}

impl Supervisor {
    /// A task is not assigned here any more. A complete copy is followed until somebody else answers.
    pub(super) fn let_go(&mut self, task: TaskId) {
        let Some(record) = self.tasks.get(&task) else { return };
        let is_readable = record.store.is_some()
            && !record.spec.stores.is_empty()
            && record.view.role() == Role::Standby
            && record.view.caught_up_at().is_some();
        if !is_readable {
            self.restorer.cancel(task);
            self.stores.remove_task(task);
        } else if !matches!(record.phase, Phase::Following(_)) {
            self.follow(task);
        }
        let Some(mut record) = self.tasks.remove(&task) else { return };
        if !is_readable {
            record.phase = Phase::Suspended;
        }
        // What was told before may be about a time before this instance's own.
        record.view.set_active_elsewhere(false);
        self.released.insert(task, Released { record, at: Instant::now(), is_readable });
    }

    /// What [`EngineStatus::released`] tells.
    pub(super) fn released_copies(&self) -> Vec<ReleasedCopy> {
        let readable = self.released.iter().filter(|(_, released)| released.is_readable);
        readable.map(|(task, released)| released.show(*task)).collect()
    }

    /// Shows what was released before an assignment is carried out as a whole.
    pub(super) fn publish_released(&self) {
        let mut status = EngineStatus::clone(&self.status.load());
        status.tasks.retain(|task| !self.released.contains_key(&task.id));
        status.released = self.released_copies();
        self.status.store(Arc::new(status));
    }

    /// Closes a copy that nobody needs here any more, if there is one. One at a time: the others are still there if they are wanted
    /// again.
    pub(super) fn close_one(&mut self) {
        if !self.closer.has_room() {
            return;
        }
        let now = Instant::now();
        let over = self.released.iter().find(|(_, released)| released.may_be_closed(now)).map(|(task, _)| *task);
        if let Some(task) = over {
            self.close_released(task);
        } else if self.generation >= 0
            && let Some((task, store)) = self.prepared.kept.pop_first()
        {
            // Of an earlier life, and not assigned here.
            self.left.insert(task, offset_sum(&store));
            self.closer.close(task, store);
        }
    }

    /// Closes all that no assignment has a use for.
    pub(super) fn close_all(&mut self) {
        for (task, store) in std::mem::take(&mut self.prepared.kept) {
            self.closer.close(task, store);
        }
        while let Some((task, _)) = self.released.first_key_value() {
            self.close_released(*task);
        }
    }

    fn close_released(&mut self, task: TaskId) {
        let Some(Released { record, at, .. }) = self.released.remove(&task) else { return };
        self.restorer.cancel(task);
        self.stores.remove_task(task);
        self.close_record(task, record);
        debug!(%task, after_ms = at.elapsed().as_millis() as u64, "a copy that is not assigned here any more is closed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_closed_when_all_have_heard_of_the_tasks_owner_or_after_a_minute() {
        let released = Instant::now();
        let at = |ms| released + Duration::from_millis(ms);
        for (now, active_elsewhere, closed) in [
            (0, None, false),
            (59_999, None, false),
            (60_000, None, true),
            (1_000, Some(0), true),
            (1_299, Some(300), false),
            (1_300, Some(300), true),
        ] {
            assert_eq!(
                may_be_closed(at(now), released, active_elsewhere.map(at)),
                closed,
                "{now} {active_elsewhere:?}"
            );
        }
    }
}
