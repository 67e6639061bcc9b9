//! What a large group costs: assigning its tasks, finding a key's owner, and what its members tell each other.

mod assigning;
mod traffic;

use clap::{Args, ValueEnum};
use holdfast_discovery::assignor::{AssignorSettings, Member, Outcome};
use holdfast_types::{Endpoint, InstanceInfo, ProcessId, SubtopologySpec};
use uuid::Uuid;

use crate::{error::Result, figures::Figures};

/// What is measured of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Of {
    /// Assignments, and the way of a key to its owner.
    Assigning,
    /// The bytes that its members send.
    Traffic,
}

/// `holdfast-bench group`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct GroupFlags {
    /// What is measured
    #[arg(value_enum)]
    of: Of,
    /// Instances
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(2..=1_000))]
    members: u16,
    /// Tasks of all of them, with one standby each; a quarter of them has no state
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    tasks: u32,
}

/// Measures it.
pub(crate) fn run(flags: GroupFlags) -> Result<Figures> {
    let subtopologies = subtopologies(flags.tasks);
    match flags.of {
        Of::Assigning => assigning::run(flags.members.into(), &subtopologies),
        Of::Traffic => traffic::run(flags.members.into(), &subtopologies),
    }
}

fn settings() -> AssignorSettings {
    AssignorSettings { num_standby_replicas: 1, ..AssignorSettings::default() }
}

/// Four sub-topologies with so many tasks together; one has no state.
fn subtopologies(tasks: u32) -> Vec<SubtopologySpec> {
    let partitions = i32::try_from(tasks / 4).unwrap_or(i32::MAX);
    let spec = |id| SubtopologySpec {
        id,
        fingerprint: format!("{id:016x}"),
        source_topics: vec![format!("items-{id}").into()],
        stores: if id == 3 { Vec::new() } else { vec![format!("store-{id}").into()] },
        partitions,
    };
    (0..4).map(spec).collect()
}

/// An instance that has nothing yet, in one of three zones.
fn member(number: usize, subtopologies: &[SubtopologySpec]) -> Member {
    // As random as real ones: they are the part of a map that does not compress.
    let process_id = ProcessId(Uuid::new_v4());
    let host = format!("10.{}.{}.{}", number % 3, number / 250, number * 37 % 250);
    let instance = InstanceInfo {
        process_id,
        endpoint: Endpoint::new(host.clone(), 8080),
        peer_endpoint: Endpoint::new(host, 8081),
        threads: 4,
        tags: [("zone".to_owned(), format!("zone-{}", number % 3))].into(),
        transactional_ids: (0..4).map(|thread| format!("inventory-{process_id}-{thread}")).collect(),
    };
    Member::new(instance, subtopologies.to_vec())
}

/// Does what was assigned, and catches up with it.
fn carry_out(members: &mut [Member], outcome: Outcome) {
    for (member, tasks) in members.iter_mut().zip(outcome.tasks) {
        member.generation += 1;
        member.followed = tasks.standby.into_iter().chain(tasks.warmup).collect();
        member.lags = tasks.active.iter().chain(&member.followed).map(|task| (*task, 0)).collect();
        (member.owned, member.promised) = (tasks.active, tasks.promised);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_group_is_measured_whole() {
        for (of, figures) in [
            (Of::Assigning, &["empty_ms", "settled_ms", "died_ms", "joined_ms", "others_ms", "route_ns"][..]),
            (Of::Traffic, &["reports_kib_per_s", "questions_per_s", "rebalance_kib", "group_kib", "leader_ms"]),
        ] {
            let measured = run(GroupFlags { of, members: 3, tasks: 24 }).unwrap();
            assert!(measured.correct(), "{measured}");
            for figure in figures {
                assert!(measured.get(figure).is_some_and(|value| value >= 0.0), "{figure}: {measured}");
            }
        }
    }
}
