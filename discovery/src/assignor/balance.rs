//! The target: every task on one member, sticky, balanced by stateful tasks first and by all tasks then.

use std::cmp::Reverse;

use super::{
    group::Group,
    load::{Loads, least, readiness},
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
        held: vec![Vec::new(); group.members.len()],
        loads: Loads::new(group),
        of_form: vec![0; group.forms.len() * group.members.len()],
    };
    for stateful in [true, false] {
        let class: Vec<usize> = (0..group.tasks.len()).filter(|&task| group.tasks[task].stateful == stateful).collect();
        plan.place(&class);
        plan.level();
    }
    plan.placed
}

struct Plan<'a> {
    group: &'a Group<'a>,
    placed: Vec<Option<usize>>,
    /// By member, the tasks of the class at hand.
    held: Vec<Vec<usize>>,
    /// Tasks so far. While the first class is placed these are stateful tasks only.
    loads: Loads,
    /// Tasks by form and member.
    of_form: Vec<u32>,
}

impl Plan<'_> {
    fn same_form(&self, task: usize, member: usize) -> u32 {
        self.of_form[self.form_cell(task, member)]
    }

    fn form_cell(&self, task: usize, member: usize) -> usize {
        self.group.tasks[task].form * self.group.members.len() + member
    }

    fn put(&mut self, task: usize, member: usize) {
        self.placed[task] = Some(member);
        self.held[member].push(task);
        self.loads.add(member);
        let cell = self.form_cell(task, member);
        self.of_form[cell] += 1;
    }

    fn take(&mut self, task: usize, member: usize) {
        self.placed[task] = None;
        self.held[member].retain(|held| *held != task);
        self.loads.remove(member);
        let cell = self.form_cell(task, member);
        self.of_form[cell] -= 1;
    }

    /// Leaves each task where it is or where it was promised, gives the others to members that have caught up as far as those have room, and the rest
    /// to the least loaded.
    fn place(&mut self, class: &[usize]) {
        let group = self.group;
        self.held.iter_mut().for_each(Vec::clear);
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
            let runners = group.runners(task);
            let found = runners.min_by(|&a, &b| {
                self.loads
                    .compare_with_one_more(a, b)
                    .then_with(|| self.same_form(task, a).cmp(&self.same_form(task, b)))
                    .then_with(|| readiness(group, task, a).cmp(&readiness(group, task, b)))
                    .then_with(|| group.process_id(a).cmp(&group.process_id(b)))
            });
            if let Some(member) = found {
                self.put(task, member);
            }
        }
    }

    /// Moves tasks of the class from loaded members to less loaded ones while that is fairer.
    fn level(&mut self) {
        while let Some((from, to, task)) = self.loads.fairest_move(self.group, |from, to| self.best_task(from, to)) {
            self.take(task, from);
            self.put(task, to);
        }
    }

    /// Of what `from` has, what `to` should get: what `from` does not process yet, then what `to` has the best copy of, then
    /// one of the sub-topology that `from` has most of.
    fn best_task(&self, from: usize, to: usize) -> Option<usize> {
        let candidates = self.held[from].iter().copied().filter(|&task| self.group.runs(task, to));
        candidates.min_by_key(|&task| {
            let settled = self.group.owner(task) == Some(from);
            let spread = (Reverse(self.same_form(task, from)), self.same_form(task, to));
            (settled, readiness(self.group, task, to), spread, task)
        })
    }
}
