//! What this member tells of its copies of tasks, and what it remembers of others'.

use std::time::{Duration, Instant};

use holdfast_types::TaskId;

use crate::{
    assignor::{Copies, Reservation},
    membership::userdata::ReservationData,
};

/// How long a hand-over is expected to take at most: the last commit of whoever releases.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Beside what it owns.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// As the instance last reported.
    pub(super) copies: Copies,
    /// Standbys and warm-ups of the last assignment.
    followed: Vec<TaskId>,
    /// Tasks that the last assignment promised.
    promised: Vec<TaskId>,
    /// Until when a hand-over is under way somewhere in the group.
    handing_over: Option<Instant>,
    /// Slots that the last assignment keeps for drained processes, and until when.
    reserved: Vec<(Reservation, Instant)>,
}

impl Following {
    /// `began` is when the generation did: what is left of reservations counts from there, so that none is over later than the
    /// leader expects, who asks for a rebalance then.
    pub(super) fn assigned(
        &mut self,
        now: Instant,
        began: Instant,
        followed: Vec<TaskId>,
        promised: Vec<TaskId>,
        handing_over: bool,
        reserved: Vec<ReservationData>,
    ) {
        self.handing_over = handing_over.then(|| now + HAND_OVER);
        (self.followed, self.promised) = (followed, promised);
        let until = |data: ReservationData| {
            let reservation = Reservation::from(data);
            // Nothing is kept for longer than a day, whatever the bytes say.
            let until = began + reservation.left.min(Duration::from_secs(86_400));
            (reservation, until)
        };
        self.reserved = reserved.into_iter().map(until).collect();
    }

    /// The assignment is lost. Copies on disk stay, and so do other processes' slots.
    pub(super) fn forget(&mut self) {
        self.followed.clear();
        self.promised.clear();
        self.handing_over = None;
    }

    /// Whether tasks are on their way from one member to another: the rebalance that gives them out comes soon.
    pub(super) fn is_handing_over(&self, now: Instant) -> bool {
        self.handing_over_until(now).is_some()
    }

    /// When that is taken for failed.
    pub(super) fn handing_over_until(&self, now: Instant) -> Option<Instant> {
        self.handing_over.filter(|until| now < *until)
    }

    pub(super) fn followed(&self) -> Vec<TaskId> {
        self.followed.clone()
    }

    pub(super) fn promised(&self) -> Vec<TaskId> {
        self.promised.clone()
    }

    /// What is left of the reservations.
    pub(super) fn reserved(&self, now: Instant) -> Vec<ReservationData> {
        let left = |(reservation, until): &(Reservation, Instant)| {
            let left = until.checked_duration_since(now).filter(|left| !left.is_zero())?;
            Some(ReservationData::from(Reservation { left, ..reservation.clone() }))
        };
        self.reserved.iter().filter_map(left).collect()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_types::ProcessId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn reservations_run_out() {
        let (mut following, now) = (Following::default(), Instant::now());
        let process_id = ProcessId(Uuid::from_u128(1));
        let data = ReservationData { process_id, tasks: vec![TaskId::new(0, 1)], left_ms: 300_000 };
        following.assigned(now, now, vec![], vec![], false, vec![data.clone()]);
        let left = following.reserved(now + Duration::from_secs(100));
        assert_eq!(left, [ReservationData { left_ms: 200_000, ..data }]);
        assert_eq!(following.reserved(now + Duration::from_secs(300)), []);
    }

    #[test]
    fn a_hand_over_is_expected_to_end() {
        let (mut following, now) = (Following::default(), Instant::now());
        assert!(!following.is_handing_over(now));
        following.assigned(now, now, vec![], vec![], true, vec![]);
        assert!(following.is_handing_over(now));
        assert!(!following.is_handing_over(now + HAND_OVER));
        following.forget();
        assert!(!following.is_handing_over(now));
    }
}
