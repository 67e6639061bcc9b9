//! The copies beside the homes: on other members, in other racks and zones where tags say so, sticky and balanced.

use std::collections::BTreeSet;

use super::{
    AssignorSettings, Reservation,
    candidates::Candidates,
    group::Group,
    load::{Loads, Ranking, Readiness, least, readiness},
    warm_up::{Plan, WarmUp},
};

/// Adds the standbys to a plan, and the warm-ups for those that should be elsewhere.
///
/// A copy that has not caught up replaces none that has: that one stays a standby while the other warms up. A copy that
/// replaces nothing starts as a standby at once.
pub(super) fn standbys(
    group: &Group<'_>,
    target: &[Option<usize>],
    reserved: &[Reservation],
    settings: &AssignorSettings,
    plan: &mut Plan,
) {
    if settings.num_standby_replicas == 0 {
        return;
    }
    let mut desired = Desired::new(group, target, &plan.homes);
    let wanted = wanted(group, reserved, settings.num_standby_replicas);
    for (task, &wanted) in wanted.iter().enumerate() {
        desired.place(task, wanted);
    }
    // Whoever is awaited will be the least loaded.
    if reserved.is_empty() {
        desired.level();
    }
    for (task, members) in desired.placed.into_iter().enumerate() {
        let (standbys, warm_ups) = keep_ready(group, task, plan.homes[task], members);
        plan.standbys[task] = standbys;
        let warm_ups = warm_ups.into_iter().map(|member| WarmUp { task, member, as_standby: true });
        plan.warm_ups.extend(warm_ups);
    }
}

/// How many standbys each task needs beside the slots that are reserved.
fn wanted(group: &Group<'_>, reserved: &[Reservation], replicas: usize) -> Vec<usize> {
    let mut wanted: Vec<usize> = group.tasks.iter().map(|task| if task.stateful { replicas } else { 0 }).collect();
    let kept = reserved.iter().filter(|reservation| {
        // A member that drains gives its slots up only when it leaves, but gets nothing any more.
        group.members.iter().all(|member| member.draining || member.instance.process_id != reservation.process_id)
    });
    for task in kept.flat_map(|reservation| &reservation.tasks).filter_map(|task| group.task(*task)) {
        wanted[task] = wanted[task].saturating_sub(1);
    }
    wanted
}

/// Where the standbys should be once all have caught up.
struct Desired<'a> {
    group: &'a Group<'a>,
    target: &'a [Option<usize>],
    homes: &'a [Option<usize>],
    /// By task.
    placed: Vec<Vec<usize>>,
    /// By member, the tasks of which it is a standby.
    held: Vec<BTreeSet<usize>>,
    /// Stateful tasks, active (as they will be) and standby.
    loads: Loads,
}

/// Whether a copy is not ready, is not followed, and will be the active one; then how far it is.
type Rank = (bool, bool, bool, Readiness);

impl<'a> Desired<'a> {
    fn new(group: &'a Group<'a>, target: &'a [Option<usize>], homes: &'a [Option<usize>]) -> Self {
        let mut loads = Loads::new(group);
        let stateful = target.iter().zip(&group.tasks).filter(|(_, task)| task.stateful);
        stateful.filter_map(|(target, _)| *target).for_each(|member| loads.add(member));
        let (placed, held) = (vec![Vec::new(); group.tasks.len()], vec![BTreeSet::new(); group.members.len()]);
        Self { group, target, homes, placed, held, loads }
    }

    fn may_hold(&self, task: usize, member: usize) -> bool {
        self.group.may_follow(task, member) && self.homes[task] != Some(member) && !self.placed[task].contains(&member)
    }

    /// How many of the task's other copies are near the member.
    fn crowding(&self, task: usize, member: usize, without: Option<usize>) -> u64 {
        let standbys = self.placed[task].iter().copied().filter(|standby| Some(*standby) != without);
        self.group.crowding(member, standbys.chain(self.homes[task]))
    }

    /// Of two copies that are equally safe, one that is ready is better, and one that is followed already; then not the one
    /// that will be the active.
    fn rank(&self, task: usize, member: usize) -> Rank {
        let group = self.group;
        let (ready, follows) = (group.caught_up(task, member), group.follows(task, member));
        (!ready, !follows, self.target[task] == Some(member), readiness(group, task, member))
    }

    fn place(&mut self, task: usize, wanted: usize) {
        for _ in 0..wanted {
            let group = self.group;
            let candidates = (0..group.members.len()).filter(|&member| self.may_hold(task, member));
            let found = least(group, &self.loads, candidates, |member| {
                (self.crowding(task, member, None), self.rank(task, member))
            });
            let Some(member) = found else { return };
            self.placed[task].push(member);
            self.held[member].insert(task);
            self.loads.add(member);
        }
    }

    /// Moves standbys to less loaded members while that is fairer and as safe.
    fn level(&mut self) {
        let (group, members) = (self.group, self.group.members.len());
        let mut candidates = Candidates::new(members, members);
        let mut ranking = Ranking::new(group, &self.loads);
        while let Some((from, to, task)) =
            ranking.fairest_move(&self.loads, |from, to| self.best_task(&mut candidates, from, to))
        {
            self.placed[task].retain(|standby| *standby != from);
            self.placed[task].push(to);
            self.held[from].remove(&task);
            self.held[to].insert(task);
            self.loads.remove(from);
            self.loads.add(to);
            ranking.moved(group, &self.loads, [from, to]);
            // The task's other standbys may be as safe elsewhere now.
            for &holder in &self.placed[task] {
                for next in 0..members {
                    let rank = || self.may_move(task, holder, next).then(|| self.rank(task, next));
                    candidates.offer((holder, next), task, rank);
                }
            }
        }
    }

    fn best_task(&self, candidates: &mut Candidates<Rank>, from: usize, to: usize) -> Option<usize> {
        let may_move = |task: usize| self.may_move(task, from, to);
        let all = || self.held[from].iter().filter(|task| may_move(**task)).map(|&task| (self.rank(task, to), task));
        candidates.best((from, to), all, may_move).map(|(_, task)| task)
    }

    /// Whether a standby of the task may go from one member to the other, and is as safe there.
    fn may_move(&self, task: usize, from: usize, to: usize) -> bool {
        self.placed[task].contains(&from)
            && self.may_hold(task, to)
            && self.target[task] != Some(to)
            && self.crowding(task, to, Some(from)) <= self.crowding(task, from, Some(from))
    }
}

/// From where the standbys should be to where they are now, and which of them warm up.
fn keep_ready(group: &Group<'_>, task: usize, home: Option<usize>, desired: Vec<usize>) -> (Vec<usize>, Vec<usize>) {
    let (mut standbys, behind): (Vec<_>, Vec<_>) =
        desired.iter().copied().partition(|&member| group.caught_up(task, member));
    let mut spare: Vec<usize> = (0..group.members.len())
        .filter(|&member| {
            group.follows(task, member)
                && group.caught_up(task, member)
                && group.may_follow(task, member)
                && home != Some(member)
                && !desired.contains(&member)
        })
        .collect();
    // Whatever order the members came in.
    spare.sort_by_key(|member| group.process_id(*member));
    let (mut spare, mut warm_ups) = (spare.into_iter(), Vec::new());
    for member in behind {
        match spare.next() {
            Some(ready) => {
                standbys.push(ready);
                warm_ups.push(member);
            }
            None => standbys.push(member),
        }
    }
    (standbys, warm_ups)
}
