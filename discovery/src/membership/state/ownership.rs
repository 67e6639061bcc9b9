//! What this member may be processing: what it claims when it joins, so that nobody else gets it.

use std::collections::BTreeSet;

use holdfast_types::TaskId;

/// The claim.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    claimed: BTreeSet<TaskId>,
    /// The last assignment since the membership was last lost.
    latest: Option<(i32, Vec<TaskId>)>,
}

impl Ownership {
    /// A generation gave `active` to this member. What it had before stays claimed until it is acknowledged as released.
    pub(super) fn assigned(&mut self, generation: i32, active: &[TaskId]) {
        self.claimed.extend(active);
        self.latest = Some((generation, active.to_vec()));
    }

    /// The instance processes only `kept`, of all that it was assigned up to `generation`. Answers whether that releases
    /// anything.
    pub(super) fn acknowledge(&mut self, generation: i32, kept: &[TaskId]) -> bool {
        let mut still: BTreeSet<TaskId> = kept.iter().filter(|task| self.claimed.contains(task)).copied().collect();
        // An assignment that came after the one that is acknowledged may be starting right now.
        if let Some((latest, active)) = &self.latest
            && *latest != generation
        {
            still.extend(active);
        }
        let released = still.len() < self.claimed.len();
        self.claimed = still;
        released
    }

    /// Everything is lost. Answers whether there was an assignment to lose.
    pub(super) fn forget(&mut self) -> bool {
        self.claimed.clear();
        self.latest.take().is_some()
    }

    /// The claim, in order.
    pub(super) fn claimed(&self) -> Vec<TaskId> {
        self.claimed.iter().copied().collect()
    }

    /// The generation of the claim; −1 without one.
    pub(super) fn generation(&self) -> i32 {
        self.latest.as_ref().map_or(-1, |(generation, _)| *generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(text: &str) -> Vec<TaskId> {
        text.split_whitespace().map(|task| task.parse().unwrap()).collect()
    }

    #[test]
    fn a_claim_ends_when_the_release_is_acknowledged() {
        let mut ownership = Ownership::default();
        assert_eq!(ownership.generation(), -1);
        ownership.assigned(1, &tasks("0_0 0_1 0_2"));
        assert!(!ownership.acknowledge(1, &tasks("0_0 0_1 0_2")));
        ownership.assigned(2, &tasks("0_0"));
        assert_eq!(ownership.claimed(), tasks("0_0 0_1 0_2"));
        assert!(ownership.acknowledge(2, &tasks("0_0")));
        assert_eq!(ownership.claimed(), tasks("0_0"));
        assert!(!ownership.acknowledge(2, &tasks("0_0")));
    }

    #[test]
    fn a_late_acknowledgement_releases_nothing_of_the_latest_assignment() {
        let mut ownership = Ownership::default();
        ownership.assigned(1, &tasks("0_0 0_1"));
        ownership.assigned(2, &tasks("0_1 0_2"));
        assert!(ownership.acknowledge(1, &tasks("0_1")));
        assert_eq!(ownership.claimed(), tasks("0_1 0_2"));
    }

    #[test]
    fn a_loss_ends_all_claims_and_later_acknowledgements_bring_none_back() {
        let mut ownership = Ownership::default();
        ownership.assigned(1, &tasks("0_0"));
        assert!(ownership.forget());
        assert!(!ownership.forget());
        assert!(!ownership.acknowledge(1, &tasks("0_0")));
        assert_eq!(ownership.claimed(), []);
    }
}
