//! A group that carries out what it is assigned, generation by generation, with copies that catch up.

use super::*;
use crate::assignor::{AssignorSettings, assign};

/// Members, and what they did since.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) members: Vec<Member>,
    pub(super) settings: AssignorSettings,
    /// Tasks that went from one member to another.
    pub(super) moved: Vec<TaskId>,
    generation: i32,
}

impl World {
    pub(super) fn new(members: Vec<Member>, settings: AssignorSettings) -> Self {
        let generation = members.iter().map(|member| member.generation).max().unwrap_or(0).max(0);
        Self { members, settings, moved: Vec::new(), generation }
    }

    /// One generation: what is assigned is done, what is not is released, and what is followed catches up.
    pub(super) fn round(&mut self) -> Outcome {
        let outcome = assign(&self.members, &[], &self.settings);
        self.generation += 1;
        let before: BTreeMap<TaskId, usize> = self
            .members
            .iter()
            .enumerate()
            .flat_map(|(index, member)| member.owned.iter().map(move |task| (*task, index)))
            .collect();
        self.moved.extend(outcome.withheld());
        for (task, owner) in owners(&outcome) {
            assert!(before.get(&task).is_none_or(|before| *before == owner), "{task} was not released");
        }
        for (member, tasks) in self.members.iter_mut().zip(&outcome.tasks) {
            member.owned.clone_from(&tasks.active);
            member.generation = self.generation;
            member.promised.clone_from(&tasks.promised);
            member.followed = tasks.standby.iter().chain(&tasks.warmup).copied().collect();
            // A copy that is kept no longer is not deleted at once, but falls behind.
            member.lags.values_mut().for_each(|lag| *lag += 100_000);
            member.lags.extend(tasks.active.iter().chain(&member.followed).map(|task| (*task, 0)));
        }
        outcome
    }

    /// Runs until nothing more is to be done; gives the number of generations that it took.
    pub(super) fn settle(&mut self) -> usize {
        let tasks: usize =
            self.members[0].subtopologies.iter().map(|spec| spec.partitions.unsigned_abs() as usize).sum();
        // At two warm-ups at a time, of active tasks and of standbys, each task moving at most once as either.
        let bound = 6 + 2 * tasks * (1 + self.settings.num_standby_replicas);
        for round in 1..=bound {
            let before: Vec<_> =
                self.members.iter().map(|member| (member.owned.clone(), member.followed.clone())).collect();
            let outcome = self.round();
            let after: Vec<_> =
                self.members.iter().map(|member| (member.owned.clone(), member.followed.clone())).collect();
            let done = !outcome.follow_up || !outcome.reserved.is_empty();
            if outcome.withheld().is_empty() && done && before == after {
                return round;
            }
        }
        panic!("not settled after {bound} generations");
    }
}
