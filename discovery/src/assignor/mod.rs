//! Who processes which task: pure functions of plain data, run by the group's leader.
//!
//! [`balance`] finds the target: sticky and balanced. [`hand_over`] turns it into what may be given out now: a task that
//! another member may still be processing is withheld until that member has joined without it (Kafka Streams' cooperative
//! hand-over, KIP-429).

mod balance;
mod hand_over;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use balance::balance;
pub use hand_over::{HandOver, hand_over};
use holdfast_types::{InstanceInfo, SubtopologySpec, TaskId, TaskSpec};

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is. Members are told apart by their process ids, which survive a restart.
    pub instance: InstanceInfo,
    /// What it can run.
    pub subtopologies: Vec<SubtopologySpec>,
    /// What it may be processing now.
    pub owned: Vec<TaskId>,
    /// The generation in which it got that.
    pub generation: i32,
}

/// Tasks of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberTasks {
    /// Tasks that it processes.
    pub active: Vec<TaskId>,
    /// Tasks that it follows.
    pub standby: Vec<TaskId>,
}

/// A task, and which members (as indices) can run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The task.
    pub spec: TaskSpec,
    /// Which members have its sub-topology, in ascending order; never empty.
    pub eligible: Vec<usize>,
}

/// One form of a sub-topology, and the members that have it.
type Having<'a> = (&'a SubtopologySpec, Vec<usize>);

/// The tasks of all sub-topologies that the members know.
///
/// Where members disagree about a sub-topology (a rolling upgrade), the form that most of them have counts, and the members
/// that have another form get none of its tasks; among equally many, the form with the greater fingerprint.
pub fn tasks(members: &[Member]) -> Vec<Task> {
    let mut forms: BTreeMap<u32, BTreeMap<(&str, i32), Having<'_>>> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        for spec in &member.subtopologies {
            let form = (spec.fingerprint.as_str(), spec.partitions);
            let (_, having) = forms.entry(spec.id).or_default().entry(form).or_insert_with(|| (spec, Vec::new()));
            if having.last() != Some(&index) {
                having.push(index);
            }
        }
    }
    let chosen = forms.into_values().filter_map(|forms| forms.into_values().max_by_key(|(_, having)| having.len()));
    chosen
        .flat_map(|(spec, eligible)| spec.tasks().map(move |spec| Task { spec, eligible: eligible.clone() }))
        .collect()
}

/// Who may be processing each task, as the members claim it. Of two that claim the same, the one with the later generation
/// is right: the other's claim is from before it was removed.
pub fn owners(members: &[Member]) -> BTreeMap<TaskId, usize> {
    let mut owners: BTreeMap<TaskId, usize> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        for task in &member.owned {
            let owner = owners.entry(*task).or_insert(index);
            if members.get(*owner).is_some_and(|other| other.generation < member.generation) {
                *owner = index;
            }
        }
    }
    owners
}
