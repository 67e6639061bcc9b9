//! Which of its tasks a member should give to another one: kept in order, because thousands of moves ask for the best.

use std::{cmp::Reverse, collections::BinaryHeap, iter::Peekable, vec};

/// What each giver has for each taker, found when it is first asked for.
///
/// A rank never changes, but whether a task may move does, each time that one of its copies moves: who moves one offers the
/// task wherever it may move now ([`Self::offer`]), and where it may not any more, it is dropped when it comes first.
#[derive(Debug)]
pub(super) struct Candidates<R> {
    takers: usize,
    /// By giver and taker; a giver that was not asked for has no takers.
    found: Vec<Vec<Option<Found<R>>>>,
}

/// The candidates of a pair with their ranks, the first first.
#[derive(Debug)]
struct Found<R> {
    /// Those that were there at the first question.
    first: Peekable<vec::IntoIter<(R, usize)>>,
    /// Those that came since.
    offered: BinaryHeap<Reverse<(R, usize)>>,
}

impl<R: Ord + Copy> Candidates<R> {
    pub(super) fn new(givers: usize, takers: usize) -> Self {
        Self { takers, found: std::iter::repeat_with(Vec::new).take(givers).collect() }
    }

    /// The first task that may move from the giver to the taker, with its rank. The first question goes through `all`.
    pub(super) fn best<I: Iterator<Item = (R, usize)>>(
        &mut self,
        (giver, taker): (usize, usize),
        all: impl FnOnce() -> I,
        may_move: impl Fn(usize) -> bool,
    ) -> Option<(R, usize)> {
        let takers = &mut self.found[giver];
        if takers.is_empty() {
            takers.resize_with(self.takers, || None);
        }
        let Found { first, offered } = takers[taker].get_or_insert_with(|| Found::new(all()));
        while first.next_if(|(_, task)| !may_move(*task)).is_some() {}
        while offered.peek().is_some_and(|Reverse((_, task))| !may_move(*task)) {
            offered.pop();
        }
        let offered = offered.peek().map(|Reverse(candidate)| *candidate);
        first.peek().copied().into_iter().chain(offered).min()
    }

    /// Adds a task that may move now. Whoever has not been asked for will be gone through anyway.
    pub(super) fn offer(&mut self, (giver, taker): (usize, usize), task: usize, rank: impl FnOnce() -> Option<R>) {
        if let Some(Some(found)) = self.found[giver].get_mut(taker) {
            found.offered.extend(rank().map(|rank| Reverse((rank, task))));
        }
    }
}

impl<R: Ord> Found<R> {
    fn new(all: impl Iterator<Item = (R, usize)>) -> Self {
        let mut all: Vec<(R, usize)> = all.collect();
        all.sort_unstable();
        Self { first: all.into_iter().peekable(), offered: BinaryHeap::new() }
    }
}
