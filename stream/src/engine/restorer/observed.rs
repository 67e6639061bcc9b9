//! How far a followed changelog is known to go, and since when the copy has all of it: pure.

use std::{collections::VecDeque, time::Instant};

/// Ends that are remembered until they are reached.
const PENDING: usize = 8;

/// What the brokers told of a changelog's end, held against how far the copy is.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// When the broker was asked and what it told, where the copy is not there yet; oldest first.
    pending: VecDeque<(Instant, i64)>,
    end: Option<i64>,
    caught_up_at: Option<Instant>,
}

impl Observed {
    /// A broker that was asked at `asked_at` tells that records end at `end`, committed or not: a row may be committed, and be
    /// answered by its active, before the marker is written that moves the last stable offset past it.
    pub(super) fn observe(&mut self, asked_at: Instant, end: i64) {
        if self.pending.len() == PENDING {
            // Those that are reached first stay, and the newest, by which the lag is measured.
            self.pending.pop_back();
        }
        self.pending.push_back((asked_at, end));
        self.end = Some(end);
    }

    /// The copy has all records before `next`.
    pub(super) fn reach(&mut self, next: i64) {
        while let Some((asked_at, _)) = self.pending.pop_front_if(|(_, end)| *end <= next) {
            self.caught_up_at = Some(asked_at);
        }
    }

    /// Offsets between `next` and the end as last told.
    pub(super) fn lag(&self, next: i64) -> Option<u64> {
        self.end.map(|end| u64::try_from(end - next).unwrap_or(0))
    }

    /// When the broker was asked last about an end that is reached: no record committed before is missing.
    pub(super) fn caught_up_at(&self) -> Option<Instant> {
        self.caught_up_at
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn times() -> impl Fn(u64) -> Instant {
        let start = Instant::now();
        move |ms| start + Duration::from_millis(ms)
    }

    #[test]
    fn caught_up_is_as_old_as_the_question_whose_end_is_reached() {
        let (at, mut observed) = (times(), Observed::default());
        observed.reach(1_000);
        assert_eq!((observed.caught_up_at(), observed.lag(0)), (None, None), "nobody has told where the end is");
        observed.observe(at(0), 10);
        observed.reach(9);
        assert_eq!((observed.caught_up_at(), observed.lag(9)), (None, Some(1)));
        observed.observe(at(500), 20);
        observed.reach(10);
        assert_eq!((observed.caught_up_at(), observed.lag(10)), (Some(at(0)), Some(10)));
        observed.reach(25);
        assert_eq!((observed.caught_up_at(), observed.lag(25)), (Some(at(500)), Some(0)));
        // No answer comes any more: the age grows, whatever the lag was.
        observed.reach(25);
        assert_eq!(observed.caught_up_at(), Some(at(500)));
    }

    #[test]
    fn a_copy_that_falls_behind_for_long_remembers_little_and_still_catches_up() {
        let (at, mut observed) = (times(), Observed::default());
        for asked in 0..1_000 {
            observed.observe(at(asked), 10 * (asked as i64 + 1));
        }
        assert_eq!(observed.pending.len(), PENDING);
        observed.reach(10);
        assert_eq!(observed.caught_up_at(), Some(at(0)));
        assert_eq!(observed.lag(10), Some(9_990));
        observed.reach(10_000);
        assert_eq!(observed.caught_up_at(), Some(at(999)));
    }
}
