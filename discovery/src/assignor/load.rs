//! How much each member carries, weighed by its stream threads.

use std::cmp::{Ordering, Reverse};

use super::group::Group;

/// Tasks per member.
#[derive(Debug)]
pub(super) struct Loads {
    tasks: Vec<u64>,
    weight: Vec<u64>,
    /// The sum of `weight`.
    all_weights: u64,
}

impl Loads {
    pub(super) fn new(group: &Group<'_>) -> Self {
        let weight: Vec<u64> = (0..group.members.len()).map(|member| group.weight(member)).collect();
        Self { tasks: vec![0; weight.len()], all_weights: weight.iter().sum(), weight }
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
        self.tasks[member] < (all * self.weight[member]).div_ceil(self.all_weights.max(1))
    }
}

/// The members in the two orders in which moves are looked for, kept up while tasks move.
#[derive(Debug)]
pub(super) struct Ranking {
    /// From the most loaded to the least; the first process id first.
    givers: Vec<usize>,
    /// From the one that would carry least with one task more; the first process id first.
    takers: Vec<usize>,
}

impl Ranking {
    pub(super) fn new(group: &Group<'_>, loads: &Loads) -> Self {
        let mut ranking = Self { givers: Vec::new(), takers: Vec::new() };
        (0..group.members.len()).for_each(|member| ranking.enter(group, loads, member));
        ranking
    }

    fn enter(&mut self, group: &Group<'_>, loads: &Loads, member: usize) {
        let id = |member: usize| (group.process_id(member), member);
        let gives_before =
            |&other: &usize| loads.compare(member, other).then_with(|| id(other).cmp(&id(member))).is_lt();
        self.givers.insert(self.givers.partition_point(gives_before), member);
        let takes_before = |&other: &usize| {
            loads.compare_with_one_more(other, member).then_with(|| id(other).cmp(&id(member))).is_lt()
        };
        self.takers.insert(self.takers.partition_point(takes_before), member);
    }

    /// To be told when members carry more or less than before.
    pub(super) fn moved(&mut self, group: &Group<'_>, loads: &Loads, changed: [usize; 2]) {
        self.givers.retain(|member| !changed.contains(member));
        self.takers.retain(|member| !changed.contains(member));
        changed.into_iter().for_each(|member| self.enter(group, loads, member));
    }

    /// The fairest single move that `find` knows of: asked for pairs of a giver and a taker, the furthest apart first.
    pub(super) fn fairest_move<T>(
        &self,
        loads: &Loads,
        mut find: impl FnMut(usize, usize) -> Option<T>,
    ) -> Option<(usize, usize, T)> {
        for &giver in &self.givers {
            for &taker in self.takers.iter().take_while(|taker| loads.is_fairer(giver, **taker)) {
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
pub(super) type Readiness = (Reverse<bool>, u64);

pub(super) fn readiness(group: &Group<'_>, task: usize, member: usize) -> Readiness {
    let ready = group.caught_up(task, member);
    (Reverse(ready), if ready { 0 } else { group.lag(task, member) })
}
