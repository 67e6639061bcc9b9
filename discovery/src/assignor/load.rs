//! How much each member carries, weighed by its stream threads.

use std::cmp::{Ordering, Reverse};

use super::group::Group;

/// Tasks per member.
#[derive(Debug)]
pub(super) struct Loads {
    tasks: Vec<u64>,
    weight: Vec<u64>,
}

impl Loads {
    pub(super) fn new(group: &Group<'_>) -> Self {
        let members = group.members.len();
        Self { tasks: vec![0; members], weight: (0..members).map(|member| group.weight(member)).collect() }
    }

    pub(super) fn add(&mut self, member: usize) {
        self.tasks[member] += 1;
    }

    pub(super) fn remove(&mut self, member: usize) {
        self.tasks[member] -= 1;
    }

    /// Orders members by what they carry per thread.
    pub(super) fn compare(&self, a: usize, b: usize) -> Ordering {
        (self.tasks[a] * self.weight[b]).cmp(&(self.tasks[b] * self.weight[a]))
    }

    /// Orders members by what they would carry per thread with one task more.
    pub(super) fn compare_with_one_more(&self, a: usize, b: usize) -> Ordering {
        ((self.tasks[a] + 1) * self.weight[b]).cmp(&((self.tasks[b] + 1) * self.weight[a]))
    }

    /// Whether a task less for `from` and one more for `to` is fairer: `to` stays below what `from` had. Moves that are come
    /// to an end, because each makes the sum of 1/w + 2/w + … + n/w over the members smaller.
    pub(super) fn is_fairer(&self, from: usize, to: usize) -> bool {
        self.tasks[from] * self.weight[to] > (self.tasks[to] + 1) * self.weight[from]
    }

    /// Whether the member's share of `all` tasks, rounded up, has room for one more.
    pub(super) fn has_room(&self, member: usize, all: u64) -> bool {
        let weights: u64 = self.weight.iter().sum();
        self.tasks[member] < (all * self.weight[member]).div_ceil(weights.max(1))
    }

    /// Members from the most loaded to the least; the first process id first.
    fn givers(&self, group: &Group<'_>) -> Vec<usize> {
        let mut members: Vec<usize> = (0..self.tasks.len()).collect();
        members.sort_by(|&a, &b| self.compare(b, a).then_with(|| group.process_id(a).cmp(&group.process_id(b))));
        members
    }

    /// Members from the one that would carry least with one task more; the first process id first.
    fn takers(&self, group: &Group<'_>) -> Vec<usize> {
        let mut members: Vec<usize> = (0..self.tasks.len()).collect();
        members.sort_by(|&a, &b| {
            self.compare_with_one_more(a, b).then_with(|| group.process_id(a).cmp(&group.process_id(b)))
        });
        members
    }

    /// The fairest single move that `find` knows of: asked for pairs of a giver and a taker, the furthest apart first.
    pub(super) fn fairest_move<T>(
        &self,
        group: &Group<'_>,
        mut find: impl FnMut(usize, usize) -> Option<T>,
    ) -> Option<(usize, usize, T)> {
        let takers = self.takers(group);
        for giver in self.givers(group) {
            for &taker in takers.iter().take_while(|taker| self.is_fairer(giver, **taker)) {
                if let Some(found) = find(giver, taker) {
                    return Some((giver, taker, found));
                }
            }
        }
        None
    }
}

/// The one of `members` that `rank` puts first; then the one that would carry least, then the first process id.
pub(super) fn least<R: Ord>(
    group: &Group<'_>,
    loads: &Loads,
    members: impl Iterator<Item = usize>,
    rank: impl Fn(usize) -> R,
) -> Option<usize> {
    members
        .map(|member| (rank(member), member))
        .min_by(|(rank_a, a), (rank_b, b)| {
            rank_a
                .cmp(rank_b)
                .then_with(|| loads.compare_with_one_more(*a, *b))
                .then_with(|| group.process_id(*a).cmp(&group.process_id(*b)))
        })
        .map(|(_, member)| member)
}

/// Ranks a copy: those that need no replay first, then those that need the least.
pub(super) fn readiness(group: &Group<'_>, task: usize, member: usize) -> (Reverse<bool>, u64) {
    let ready = group.caught_up(task, member);
    (Reverse(ready), if ready { 0 } else { group.lag(task, member) })
}
