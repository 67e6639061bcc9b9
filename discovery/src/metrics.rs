//! The metrics of this crate: names, units and meaning.

use std::time::Duration;

use holdfast_types::GroupError;

/// Gauge: the generation in which the instance holds its assignment; −1 without one.
pub const GENERATION: &str = "holdfast_group_generation";
/// Gauge: members of the group, as the last assignment says.
pub const MEMBERS: &str = "holdfast_group_members";
/// Counter: generations in which the instance was assigned.
pub const REBALANCES: &str = "holdfast_group_rebalances_total";
/// Histogram, seconds: from the first question to join until the assignment.
pub const JOIN_DURATION: &str = "holdfast_group_join_duration_seconds";
/// Counter: times that the membership was lost.
pub const LOSSES: &str = "holdfast_group_losses_total";
/// Gauge: 1 while the group cannot be reached or does not let the instance in.
pub const WAITING: &str = "holdfast_group_waiting";
/// Counter: searches for the group coordinator.
pub const COORDINATOR_SEARCHES: &str = "holdfast_group_coordinator_searches_total";
/// Counter: members removed because their process is known to be dead.
pub const MEMBERS_REMOVED: &str = "holdfast_group_members_removed_total";
/// Histogram, seconds: from a heartbeat to its answer.
pub const HEARTBEAT_LATENCY: &str = "holdfast_group_heartbeat_latency_seconds";
/// Histogram, seconds: from an offset commit to its answer.
pub const COMMIT_LATENCY: &str = "holdfast_group_commit_latency_seconds";
/// Counter by `reason`: offset commits that were refused or unanswered.
pub const COMMIT_FAILURES: &str = "holdfast_group_commit_failures_total";

/// Registers names, units and descriptions with the recorder; once per process.
pub fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_gauge!(GENERATION, "Generation in which the instance holds its assignment; -1 without one");
    describe_gauge!(MEMBERS, "Members of the group, as the last assignment says");
    describe_counter!(REBALANCES, "Generations in which the instance was assigned");
    describe_histogram!(JOIN_DURATION, Unit::Seconds, "From the first JoinGroup of a rebalance until the assignment");
    describe_counter!(LOSSES, "Times that the group membership was lost");
    describe_gauge!(WAITING, "1 while the group cannot be reached or does not let the instance in");
    describe_counter!(COORDINATOR_SEARCHES, "Searches for the group coordinator");
    describe_counter!(MEMBERS_REMOVED, "Members removed because their process is known to be dead");
    describe_histogram!(HEARTBEAT_LATENCY, Unit::Seconds, "From a heartbeat to its answer");
    describe_histogram!(COMMIT_LATENCY, Unit::Seconds, "From an offset commit to its answer");
    describe_counter!(COMMIT_FAILURES, "Offset commits that were refused or unanswered, by reason");
}

pub(crate) fn assigned(generation: i32, members: usize, joined_after: Option<Duration>) {
    metrics::counter!(REBALANCES).increment(1);
    if let Some(after) = joined_after {
        metrics::histogram!(JOIN_DURATION).record(after.as_secs_f64());
    }
    metrics::gauge!(GENERATION).set(f64::from(generation));
    metrics::gauge!(MEMBERS).set(members as f64);
}

pub(crate) fn lost() {
    metrics::counter!(LOSSES).increment(1);
    metrics::gauge!(GENERATION).set(-1.0);
}

pub(crate) fn waiting(waiting: bool) {
    metrics::gauge!(WAITING).set(if waiting { 1.0 } else { 0.0 });
}

pub(crate) fn coordinator_searched() {
    metrics::counter!(COORDINATOR_SEARCHES).increment(1);
}

pub(crate) fn members_removed(count: usize) {
    metrics::counter!(MEMBERS_REMOVED).increment(count as u64);
}

pub(crate) fn heartbeat_answered(after: Duration) {
    metrics::histogram!(HEARTBEAT_LATENCY).record(after.as_secs_f64());
}

pub(crate) fn commit_answered(after: Duration, error: Option<&GroupError>) {
    metrics::histogram!(COMMIT_LATENCY).record(after.as_secs_f64());
    if let Some(error) = error {
        let reason = match error {
            GroupError::IllegalGeneration { .. } => "illegal_generation",
            GroupError::Rebalancing => "rebalancing",
            GroupError::NotAMember => "not_a_member",
            GroupError::Unavailable(_) => "unavailable",
            GroupError::TimedOut(_) => "timed_out",
            GroupError::Refused(_) => "refused",
            GroupError::Unstable(_) => "unstable",
        };
        metrics::counter!(COMMIT_FAILURES, "reason" => reason).increment(1);
    }
}
