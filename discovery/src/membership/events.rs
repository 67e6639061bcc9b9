//! Events on their way to the instance: in order, merged where they are not read in time, never many.

use std::collections::VecDeque;

use crate::GroupEvent;

/// What has not been read yet. Merging bounds it: at most one event of each kind stays.
#[derive(Debug, Default)]
pub(super) struct Outbox(VecDeque<GroupEvent>);

impl Outbox {
    /// Adds an event and drops what it makes meaningless.
    pub(super) fn push(&mut self, event: GroupEvent) {
        self.0.retain(|earlier| match (&event, earlier) {
            // A later generation replaces an earlier one, and a loss takes all of it away.
            (GroupEvent::Assigned(_) | GroupEvent::Lost { .. }, GroupEvent::Assigned(_)) => false,
            (GroupEvent::Lost { .. }, GroupEvent::Lost { .. }) => false,
            (
                GroupEvent::Waiting { .. } | GroupEvent::Recovered,
                GroupEvent::Waiting { .. } | GroupEvent::Recovered,
            ) => false,
            _ => true,
        });
        self.0.push_back(event);
    }

    pub(super) fn pop(&mut self) -> Option<GroupEvent> {
        self.0.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_types::Assignment;

    use super::*;

    fn assigned(generation: i32) -> GroupEvent {
        GroupEvent::Assigned(Assignment {
            generation,
            tenure: 0,
            active: vec![],
            standby: vec![],
            warmup: vec![],
            members: vec![],
        })
    }

    fn lost() -> GroupEvent {
        GroupEvent::Lost { reason: "removed".to_owned() }
    }

    fn waiting() -> GroupEvent {
        GroupEvent::Waiting { reason: "away".to_owned() }
    }

    #[test]
    fn unread_events_are_merged_in_order() {
        for (pushed, read) in [
            (vec![assigned(1), assigned(2)], vec![assigned(2)]),
            (vec![assigned(1), lost(), assigned(2)], vec![lost(), assigned(2)]),
            (vec![assigned(1), lost()], vec![lost()]),
            (vec![waiting(), assigned(1), GroupEvent::Recovered], vec![assigned(1), GroupEvent::Recovered]),
            (vec![lost(), waiting(), lost()], vec![waiting(), lost()]),
        ] {
            let mut outbox = Outbox::default();
            pushed.into_iter().for_each(|event| outbox.push(event));
            assert_eq!(std::iter::from_fn(|| outbox.pop()).collect::<Vec<_>>(), read);
        }
    }
}
