//! Slots that are kept for processes that drained and will come back: a roll moves actives, and rebuilds nothing.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_types::{ProcessId, TaskId};

use super::{AssignorSettings, Reservation, group::Group};

/// The reservations that hold from now on: those of members that drain, and the earlier ones that are neither over nor
/// taken up again by a process that is back.
pub(super) fn reserve(group: &Group<'_>, earlier: &[Reservation], settings: &AssignorSettings) -> Vec<Reservation> {
    let mut kept: BTreeMap<ProcessId, Reservation> = BTreeMap::new();
    for reservation in earlier.iter().filter(|reservation| !reservation.left.is_zero()) {
        // Members tell what they remember of the same one: whoever heard of it last is right.
        let known = kept.entry(reservation.process_id).or_insert_with(|| reservation.clone());
        if reservation.left > known.left {
            known.clone_from(reservation);
        }
    }
    for member in group.members {
        let process_id = member.instance.process_id;
        let before = kept.remove(&process_id);
        if !member.draining {
            continue;
        }
        let stateful = |task: &&TaskId| group.task(**task).is_some_and(|task| group.tasks[task].stateful);
        let mut tasks: BTreeSet<TaskId> =
            member.owned.iter().chain(&member.followed).filter(stateful).copied().collect();
        // What it has released already is on its disk as well.
        tasks.extend(before.into_iter().flat_map(|before| before.tasks));
        if !tasks.is_empty() && !settings.drained_slot_retention.is_zero() {
            let tasks = tasks.into_iter().collect();
            kept.insert(process_id, Reservation { process_id, tasks, left: settings.drained_slot_retention });
        }
    }
    kept.into_values().collect()
}
