//! What the assignor promises: the named rules one by one, then for any group.

mod properties;
mod rules;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use holdfast_types::{Endpoint, InstanceInfo, ProcessId, StoreName, SubtopologySpec, TaskId};
use uuid::Uuid;

use super::{Member, Outcome};

fn spec(id: u32, stateful: bool, partitions: i32) -> SubtopologySpec {
    let stores = if stateful { vec![StoreName::from(format!("store-{id}"))] } else { Vec::new() };
    let source_topics = vec![format!("items-{id}").into()];
    SubtopologySpec { id, fingerprint: format!("f{id}"), source_topics, stores, partitions }
}

fn process_id(number: usize) -> ProcessId {
    ProcessId(Uuid::from_u128(number as u128 + 1))
}

fn member(number: usize, subtopologies: &[SubtopologySpec]) -> Member {
    let instance = InstanceInfo {
        process_id: process_id(number),
        endpoint: Endpoint::new("h", 1),
        peer_endpoint: Endpoint::new("h", 2),
        threads: 1,
        tags: BTreeMap::new(),
        transactional_ids: Vec::new(),
    };
    Member::new(instance, subtopologies.to_vec())
}

fn members(count: usize, subtopologies: &[SubtopologySpec]) -> Vec<Member> {
    (0..count).map(|number| member(number, subtopologies)).collect()
}

fn tasks(text: &str) -> Vec<TaskId> {
    text.split_whitespace().map(|task| task.parse().unwrap()).collect()
}

/// A member that owns tasks since generation 4.
fn owning(mut member: Member, owned: &str) -> Member {
    (member.owned, member.generation) = (tasks(owned), 4);
    member
}

/// A member that follows tasks, this far behind.
fn following(mut member: Member, followed: &str, lag: u64) -> Member {
    member.followed = tasks(followed);
    member.lags.extend(member.followed.iter().map(|task| (*task, lag)));
    member
}

fn in_zone(mut member: Member, zone: &str) -> Member {
    member.instance.tags = [("zone".to_owned(), zone.to_owned())].into();
    member
}

/// Who processes each task, by index.
fn owners(outcome: &Outcome) -> BTreeMap<TaskId, usize> {
    let mut owners = BTreeMap::new();
    for (index, tasks) in outcome.tasks.iter().enumerate() {
        for task in &tasks.active {
            assert_eq!(owners.insert(*task, index), None, "{task} is active twice");
        }
    }
    owners
}

/// Who follows each task as standby, by index.
fn standbys(outcome: &Outcome) -> BTreeMap<TaskId, BTreeSet<usize>> {
    let mut standbys: BTreeMap<TaskId, BTreeSet<usize>> = BTreeMap::new();
    for (index, tasks) in outcome.tasks.iter().enumerate() {
        for task in &tasks.standby {
            assert!(standbys.entry(*task).or_default().insert(index), "{task} has two standbys on one member");
        }
    }
    standbys
}

fn spread(counts: impl IntoIterator<Item = usize> + Clone) -> usize {
    counts.clone().into_iter().max().unwrap_or(0) - counts.into_iter().min().unwrap_or(0)
}
