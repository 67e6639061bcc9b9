//! Whether a copy may answer a request: pure decisions over role, staleness, lag and position.

use std::time::{Duration, Instant};

use holdfast_types::{Position, Role};

use super::Consistency;

/// What a copy is at the moment of a read.
#[derive(Clone, Copy, Debug)]
pub struct CopyState {
    /// Its role.
    pub role: Role,
    /// How long ago it was last known to be caught up; `None` when it never was.
    pub staleness: Option<Duration>,
    /// Records behind, where known.
    pub lag_records: Option<u64>,
}

/// What a consistency makes of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may answer now.
    Answer,
    /// It may answer once the coordinator has confirmed it after the request came in.
    Confirm,
    /// Its state is incomplete.
    Restoring,
    /// Only the active may answer this.
    NotActive,
    /// Older than allowed.
    Stale {
        /// What is allowed.
        allowed: Duration,
    },
    /// Further behind than allowed.
    Lagging {
        /// What is allowed.
        allowed: u64,
    },
}

/// Judges `copy` by `consistency`.
pub fn judge(consistency: Consistency, copy: &CopyState) -> Verdict {
    if copy.role == Role::Restoring {
        // Whatever is missing so far would look like a key that does not exist.
        return Verdict::Restoring;
    }
    match consistency {
        Consistency::Any => Verdict::Answer,
        Consistency::Strong if copy.role == Role::Active => Verdict::Confirm,
        Consistency::Strong => Verdict::NotActive,
        Consistency::Bounded { max_staleness, max_lag } => {
            if copy.staleness.is_none_or(|staleness| staleness > max_staleness) {
                return Verdict::Stale { allowed: max_staleness };
            }
            match max_lag {
                // An active holds all that was ever committed: it is never behind.
                Some(allowed) if copy.role != Role::Active && copy.lag_records.is_none_or(|lag| lag > allowed) => {
                    Verdict::Lagging { allowed }
                }
                _ => Verdict::Answer,
            }
        }
    }
}

/// Whether `position`, of a copy of `partition`, reflects what `bound` names of that partition.
///
/// As in Kafka Streams (`StoreQueryUtils.isPermitted`), entries of other partitions say nothing about this copy.
pub fn reaches(position: &Position, bound: &Position, partition: i32) -> bool {
    bound
        .iter()
        .filter(|(_, of, _)| *of == partition)
        .all(|(topic, of, offset)| position.get(topic, of).is_some_and(|at| at >= offset))
}

/// A read index: whether the coordinator has answered a heartbeat that was sent after the request came in at `arrival`.
///
/// `latest` is when the heartbeat was sent that the coordinator confirmed last.
pub fn confirmed_since(arrival: Instant, latest: Option<Instant>) -> bool {
    latest.is_some_and(|sent| sent > arrival)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn copy(role: Role, staleness_ms: u64) -> CopyState {
        CopyState { role, staleness: Some(Duration::from_millis(staleness_ms)), lag_records: Some(10) }
    }

    fn bounded(max_ms: u64, max_lag: Option<u64>) -> Consistency {
        Consistency::Bounded { max_staleness: Duration::from_millis(max_ms), max_lag }
    }

    #[test]
    fn verdicts() {
        use Role::{Active, Restoring, Standby};
        let stale = |ms| Verdict::Stale { allowed: Duration::from_millis(ms) };
        for (consistency, state, verdict) in [
            (Consistency::Any, copy(Active, 99_999), Verdict::Answer),
            (Consistency::Any, copy(Standby, 99_999), Verdict::Answer),
            (Consistency::Any, copy(Restoring, 0), Verdict::Restoring),
            (Consistency::Strong, copy(Active, 99_999), Verdict::Confirm),
            (Consistency::Strong, copy(Standby, 0), Verdict::NotActive),
            (Consistency::Strong, copy(Restoring, 0), Verdict::Restoring),
            (bounded(5000, None), copy(Active, 5000), Verdict::Answer),
            (bounded(5000, None), copy(Active, 5001), stale(5000)),
            (bounded(5000, None), copy(Standby, 5000), Verdict::Answer),
            (bounded(5000, Some(10)), copy(Standby, 0), Verdict::Answer),
            (bounded(5000, Some(9)), copy(Standby, 0), Verdict::Lagging { allowed: 9 }),
            (bounded(5000, Some(0)), copy(Active, 0), Verdict::Answer),
            (bounded(0, None), copy(Active, 1), stale(0)),
        ] {
            assert_eq!(judge(consistency, &state), verdict, "{consistency:?} {state:?}");
        }
        let unknown = CopyState { role: Active, staleness: None, lag_records: None };
        assert_eq!(judge(bounded(5000, None), &unknown), stale(5000));
        assert_eq!(judge(Consistency::Any, &unknown), Verdict::Answer);
    }

    #[test]
    fn a_strong_read_needs_a_heartbeat_sent_after_it_came_in() {
        let t0 = Instant::now();
        let at = |ms| Some(t0 + Duration::from_millis(ms));
        let arrival = t0 + Duration::from_millis(10);
        for (latest, confirmed) in [(None, false), (at(5), false), (at(10), false), (at(11), true)] {
            assert_eq!(confirmed_since(arrival, latest), confirmed);
        }
    }

    #[test]
    fn only_entries_of_the_own_partition_count() {
        let topic: Arc<str> = "items".into();
        let mut position = Position::new();
        position.advance(&topic, 1, 5);
        let mut bound = Position::new();
        bound.advance(&topic, 0, 99);
        assert!(reaches(&position, &bound, 1));
        bound.advance(&topic, 1, 5);
        assert!(reaches(&position, &bound, 1));
        bound.advance(&topic, 1, 6);
        assert!(!reaches(&position, &bound, 1));
        assert!(!reaches(&Position::new(), &bound, 1));
    }
}
