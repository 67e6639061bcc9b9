//! The target: every task on one member, sticky, balanced by stateful tasks first and by all tasks then.

use std::{cmp::Reverse, collections::BTreeMap};

use holdfast_types::TaskId;

use super::{Member, Task};

/// The member (as an index into `members`) that each task should be on.
///
/// Each task appears once. Stateful tasks are spread first, because they cost memory and disk, and moving one costs a
/// restore; stateless ones fill up. As far as members can run the same sub-topologies, the numbers of two members differ by
/// at most one, of stateful tasks and of all tasks. No more tasks move than that needs.
pub fn balance(members: &[Member], tasks: &[Task], owners: &BTreeMap<TaskId, usize>) -> BTreeMap<TaskId, usize> {
    let mut plan = Plan::new(members);
    for stateful in [true, false] {
        let class: Vec<&Task> = tasks.iter().filter(|task| task.spec.stateful == stateful).collect();
        plan.place(&class, owners);
        plan.level(&class);
    }
    plan.placed
}

/// Members by load; ties are broken by process id, so that every leader finds the same.
struct Plan<'a> {
    members: &'a [Member],
    placed: BTreeMap<TaskId, usize>,
    /// Tasks per member so far. While the first class is placed these are stateful tasks only.
    load: Vec<usize>,
    /// Tasks per member and sub-topology.
    of_subtopology: BTreeMap<(usize, u32), usize>,
}

impl<'a> Plan<'a> {
    fn new(members: &'a [Member]) -> Self {
        Self { members, placed: BTreeMap::new(), load: vec![0; members.len()], of_subtopology: BTreeMap::new() }
    }

    fn put(&mut self, task: TaskId, member: usize) {
        if let Some(before) = self.placed.insert(task, member) {
            self.count(task, before, |n| n.saturating_sub(1));
        }
        self.count(task, member, |n| n + 1);
    }

    fn count(&mut self, task: TaskId, member: usize, change: impl Fn(usize) -> usize) {
        if let Some(load) = self.load.get_mut(member) {
            *load = change(*load);
        }
        let same = self.of_subtopology.entry((member, task.subtopology)).or_default();
        *same = change(*same);
    }

    fn load(&self, member: usize) -> usize {
        self.load.get(member).copied().unwrap_or_default()
    }

    fn same_subtopology(&self, member: usize, task: TaskId) -> usize {
        self.of_subtopology.get(&(member, task.subtopology)).copied().unwrap_or_default()
    }

    /// Leaves each task where it is, and puts the others on the least loaded members.
    fn place(&mut self, class: &[&Task], owners: &BTreeMap<TaskId, usize>) {
        let mut homeless = Vec::new();
        for task in class {
            match owners.get(&task.spec.id) {
                Some(owner) if task.eligible.contains(owner) => self.put(task.spec.id, *owner),
                _ => homeless.push(task),
            }
        }
        for task in homeless {
            let id = task.spec.id;
            let least =
                task.eligible.iter().copied().min_by_key(|&member| {
                    (self.load(member), self.same_subtopology(member, id), self.process_id(member))
                });
            if let Some(member) = least {
                self.put(id, member);
            }
        }
    }

    fn process_id(&self, member: usize) -> Option<holdfast_types::ProcessId> {
        self.members.get(member).map(|member| member.instance.process_id)
    }

    /// Moves tasks of the class from loaded members to less loaded ones while a difference of two or more is left.
    fn level(&mut self, class: &[&Task]) {
        while let Some((task, to)) = self.best_move(class) {
            self.put(task, to);
        }
    }

    /// The move between the members that are furthest apart; of its tasks, one of the sub-topology that the giver has most of.
    /// Each move makes the sum of squared loads smaller, so the moves come to an end.
    fn best_move(&self, class: &[&Task]) -> Option<(TaskId, usize)> {
        class
            .iter()
            .flat_map(|task| task.eligible.iter().map(move |to| (task.spec.id, *to)))
            .filter_map(|(task, to)| {
                let from = *self.placed.get(&task)?;
                let gap = self.load(from).checked_sub(self.load(to)).filter(|gap| *gap >= 2)?;
                let same = (self.same_subtopology(from, task), Reverse(self.same_subtopology(to, task)));
                Some(((gap, same, Reverse(self.process_id(to)), task), task, to))
            })
            .max_by_key(|(rank, _, _)| *rank)
            .map(|(_, task, to)| (task, to))
    }
}
