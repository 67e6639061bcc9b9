//! How far behind each copy of a task is, from what members report of their copies.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use holdfast_types::TaskId;

/// What an instance has on disk, or follows, of tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Of each task with state, how far its copy is: the sum of its changelogs' offsets, as Kafka Streams' task offset sums.
    pub positions: BTreeMap<TaskId, u64>,
    /// Active tasks that still replay their changelogs.
    pub restoring: BTreeSet<TaskId>,
}

/// Lags in records, by member, from each member's copies and the tasks that it owns.
///
/// Each copy is measured against the furthest one that anybody has. No end offsets are asked for, so that a rebalance waits
/// for no broker: while the owner lives its position *is* the end, and when it died the furthest copy is the best there is.
/// An owner that does not restore has no lag, whatever the others report: members tell their positions at different times.
/// Where a whole changelog is within `acceptable` records, who has nothing of it is listed as that far behind.
pub fn lags(members: &[(&Copies, &[TaskId])], acceptable: u64) -> Vec<BTreeMap<TaskId, u64>> {
    let mut ends: BTreeMap<TaskId, u64> = BTreeMap::new();
    for (task, position) in members.iter().flat_map(|(copies, _)| &copies.positions) {
        let end = ends.entry(*task).or_default();
        *end = (*end).max(*position);
    }
    let short: Vec<(TaskId, u64)> =
        ends.iter().filter(|(_, end)| **end <= acceptable).map(|(task, end)| (*task, *end)).collect();
    let ends = &ends;
    let of = |(copies, owned): &(&Copies, &[TaskId])| {
        let owned: HashSet<&TaskId> = owned.iter().collect();
        let behind = copies.positions.iter().map(move |(task, position)| {
            let runs = owned.contains(task) && !copies.restoring.contains(task);
            let end = ends.get(task).unwrap_or(position);
            (*task, if runs { 0 } else { end.saturating_sub(*position) })
        });
        short.iter().copied().chain(behind).collect()
    };
    members.iter().map(of).collect()
}
