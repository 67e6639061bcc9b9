//! The names of the service's own metrics, their units and help: one table. The crates below keep theirs beside their code.

use metrics::Unit;

/// Requests answered.
pub const REQUESTS: &str = "holdfast_requests_total";
/// Time from the request's head to the answer's head.
pub const REQUEST_DURATION: &str = "holdfast_request_duration_seconds";
/// Requests in progress.
pub const REQUESTS_IN_FLIGHT: &str = "holdfast_requests_in_flight";
/// Requests refused at a bound.
pub const REQUESTS_REFUSED: &str = "holdfast_requests_refused_total";
/// Open connections of the public listener.
pub const CONNECTIONS: &str = "holdfast_connections";
/// 1 when the instance is ready.
pub const READY: &str = "holdfast_ready";
/// Time left of a restore, estimated.
pub const RESTORE_ETA: &str = "holdfast_restore_eta_seconds";
/// Time since the group coordinator last confirmed this member.
pub const CONFIRMED_AGE: &str = "holdfast_group_confirmed_age_seconds";
/// Questions put to other instances.
pub const FORWARDS: &str = "holdfast_forwards_total";
/// Time from a question to another instance to its answer.
pub const FORWARD_DURATION: &str = "holdfast_forward_duration_seconds";
/// Further calls because an instance refused or was slow.
pub const FORWARD_RETRIES: &str = "holdfast_forward_retries_total";
/// Further calls because `hedge_after_ms` had passed.
pub const FORWARD_HEDGES: &str = "holdfast_forward_hedges_total";
/// Questions that other instances put here.
pub const PEER_QUESTIONS: &str = "holdfast_peer_questions_total";
/// Other members that answer.
pub const PEERS_ALIVE: &str = "holdfast_peers_alive";
/// Other members.
pub const PEERS: &str = "holdfast_peers";
/// Members evicted by this instance.
pub const EVICTIONS: &str = "holdfast_evictions_total";
/// Version of the build, as a label.
pub const BUILD_INFO: &str = "holdfast_build_info";

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// Every metric of the service: name, kind, unit, help.
pub const METRICS: &[(&str, Kind, Unit, &str)] = &[
    (REQUESTS, Kind::Counter, Unit::Count, "Requests answered, by protocol, route and code"),
    (REQUEST_DURATION, Kind::Histogram, Unit::Seconds, "Time from a request's head to its answer's head"),
    (REQUESTS_IN_FLIGHT, Kind::Gauge, Unit::Count, "Requests in progress, by protocol"),
    (REQUESTS_REFUSED, Kind::Counter, Unit::Count, "Requests refused at the bound on concurrent requests, by protocol"),
    (CONNECTIONS, Kind::Gauge, Unit::Count, "Open connections of the public listener"),
    (READY, Kind::Gauge, Unit::Count, "1 when the instance can answer and process, else 0"),
    (RESTORE_ETA, Kind::Gauge, Unit::Seconds, "Estimated time left of a restore, by task"),
    (CONFIRMED_AGE, Kind::Gauge, Unit::Seconds, "Time since the group coordinator last confirmed this member"),
    (FORWARDS, Kind::Counter, Unit::Count, "Questions put to other instances, by kind and outcome"),
    (
        FORWARD_DURATION,
        Kind::Histogram,
        Unit::Seconds,
        "Time from a question to another instance to its answer, by kind",
    ),
    (FORWARD_RETRIES, Kind::Counter, Unit::Count, "Further replicas asked because one refused or was slow"),
    (FORWARD_HEDGES, Kind::Counter, Unit::Count, "Further replicas asked because hedge_after_ms had passed"),
    (PEER_QUESTIONS, Kind::Counter, Unit::Count, "Questions that other instances put to this one, by kind"),
    (PEERS_ALIVE, Kind::Gauge, Unit::Count, "Other members of the group that answer this instance"),
    (PEERS, Kind::Gauge, Unit::Count, "Other members of the group"),
    (
        EVICTIONS,
        Kind::Counter,
        Unit::Count,
        "Members evicted by this instance because their process was gone, by outcome",
    ),
    (BUILD_INFO, Kind::Gauge, Unit::Count, "Always 1; the version is a label"),
];

/// Gives the recorder every metric's unit and help.
pub fn describe() {
    for (name, kind, unit, help) in METRICS {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *unit, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *unit, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, *unit, *help),
        }
    }
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_end_in_their_unit() {
        let mut names: Vec<_> = METRICS.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
        for (name, kind, unit, help) in METRICS {
            assert!(name.starts_with("holdfast_"), "{name}");
            assert!(!help.is_empty(), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert_eq!(name.ends_with("_seconds"), *unit == Unit::Seconds, "{name}");
        }
    }
}
