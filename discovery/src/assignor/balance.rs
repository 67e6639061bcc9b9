//! The target: every task on one member, sticky, balanced by stateful tasks first and by all tasks then.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{
    candidates::Candidates,
    group::Group,
    load::{Loads, Ranking, Readiness, least, readiness},
};

/// The member that each task should be on once its state is there; `None` where nobody may get it.
///
/// Stateful tasks are spread first, because they cost memory and disk, and moving one costs a restore; stateless ones fill
/// up. Members carry in proportion to their threads: as far as they can run the same sub-topologies, no task could go to
/// another member that would then carry less per thread than the one that has it (with equal threads, the numbers of two
/// members differ by at most one). No more tasks move than that needs, and rather those that the taker has a copy of.
pub(super) fn balance(group: &Group<'_>) -> Vec<Option<usize>> {
    let mut plan = Plan {
        group,
        placed: vec![None; group.tasks.len()],
        held: vec![BTreeSet::new(); group.forms.len() * group.members.len()],
        loads: Loads::new(group),
    };
    for stateful in [true, false] {
        let class: Vec<usize> = (0..group.tasks.len()).filter(|&task| group.tasks[task].stateful == stateful).collect();
        plan.place(&class);
        plan.level(stateful);
    }
    plan.placed
}

struct Plan<'a> {
    group: &'a Group<'a>,
    placed: Vec<Option<usize>>,
    /// By form and member.
    held: Vec<BTreeSet<usize>>,
    /// Tasks so far. While the first class is placed these are stateful tasks only.
    loads: Loads,
}

/// Whether the giver processes the task already, and how far the taker's copy is. What else counts is the same for all tasks
/// of a form.
type Rank = (bool, Readiness);

impl Plan<'_> {
    /// How many tasks of a form the member has.
    fn of_form(&self, form: usize, member: usize) -> usize {
        self.held[self.cell(form, member)].len()
    }

    fn cell(&self, form: usize, member: usize) -> usize {
        form * self.group.members.len() + member
    }

    fn put(&mut self, task: usize, member: usize) {
        self.placed[task] = Some(member);
        self.loads.add(member);
        let cell = self.cell(self.group.tasks[task].form, member);
        self.held[cell].insert(task);
    }

    fn take(&mut self, task: usize, member: usize) {
        self.placed[task] = None;
        self.loads.remove(member);
        let cell = self.cell(self.group.tasks[task].form, member);
        self.held[cell].remove(&task);
    }

    /// Leaves each task where it is or where it was promised, gives the others to members that have caught up as far as those
    /// have room, and the rest to the least loaded.
    fn place(&mut self, class: &[usize]) {
        let group = self.group;
        let mut homeless = Vec::new();
        for &task in class {
            match group.owner(task).or(group.promised(task)).filter(|member| group.keeps(task, *member)) {
                Some(owner) => self.put(task, owner),
                None => homeless.push(task),
            }
        }
        let all = self.placed.iter().flatten().count() + homeless.len();
        homeless.retain(|&task| {
            let ready = group.runners(task).filter(|&member| {
                group.tasks[task].stateful && group.caught_up(task, member) && self.loads.has_room(member, all as u64)
            });
            // Of several that may be a little behind, the one that has least to replay: rather a standby than who has nothing.
            let found = least(group, &self.loads, ready, |member| group.lag(task, member));
            if let Some(member) = found {
                self.put(task, member);
            }
            found.is_none()
        });
        for task in homeless {
            // Load comes first here, so it is the rank of `least` that is empty, and copies are looked at by `level`.
            let (runners, form) = (group.runners(task), group.tasks[task].form);
            let found = runners.min_by(|&a, &b| {
                self.loads
                    .compare_with_one_more(a, b)
                    .then_with(|| self.of_form(form, a).cmp(&self.of_form(form, b)))
                    .then_with(|| readiness(group, task, a).cmp(&readiness(group, task, b)))
                    .then_with(|| group.process_id(a).cmp(&group.process_id(b)))
            });
            if let Some(member) = found {
                self.put(task, member);
            }
        }
    }

    /// Moves tasks of the class from loaded members to less loaded ones while that is fairer.
    fn level(&mut self, stateful: bool) {
        let (group, members) = (self.group, self.group.members.len());
        let forms: Vec<usize> = (0..group.forms.len()).filter(|&form| group.is_stateful(form) == stateful).collect();
        let mut candidates = Candidates::new(members, members * group.forms.len());
        let mut ranking = Ranking::new(group, &self.loads);
        while let Some((from, to, task)) =
            ranking.fairest_move(&self.loads, |from, to| self.best_task(&forms, &mut candidates, from, to))
        {
            self.take(task, from);
            self.put(task, to);
            ranking.moved(group, &self.loads, [from, to]);
            let form = group.tasks[task].form;
            for next in 0..members {
                candidates.offer((to, self.cell(form, next)), task, || Some(self.rank(task, to, next)));
            }
        }
    }

    /// Of what `from` has, what `to` should get: what `from` does not process yet, then what `to` has the best copy of, then
    /// one of the sub-topology that `from` has most of.
    fn best_task(&self, forms: &[usize], candidates: &mut Candidates<Rank>, from: usize, to: usize) -> Option<usize> {
        let runs = forms.iter().filter(|form| self.group.runs_form(**form, to));
        let best = runs.filter_map(|&form| {
            let held = &self.held[self.cell(form, from)];
            let all = || held.iter().map(|&task| (self.rank(task, from, to), task));
            let is_held = |task: usize| self.placed[task] == Some(from);
            let (rank, task) = candidates.best((from, self.cell(form, to)), all, is_held)?;
            let spread = (Reverse(held.len()), self.of_form(form, to));
            Some((rank, spread, task))
        });
        best.min().map(|(_, _, task)| task)
    }

    fn rank(&self, task: usize, from: usize, to: usize) -> Rank {
        (self.group.owner(task) == Some(from), readiness(self.group, task, to))
    }
}
