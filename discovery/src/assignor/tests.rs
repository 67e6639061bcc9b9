//! What the assignor promises, for any group.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_types::{Endpoint, InstanceInfo, ProcessId, StoreName, SubtopologySpec, TaskId};
use proptest::prelude::*;
use uuid::Uuid;

use super::{Member, balance, hand_over, owners, tasks};

fn spec(id: u32, stateful: bool, partitions: i32) -> SubtopologySpec {
    let stores = if stateful { vec![StoreName::from(format!("store-{id}"))] } else { Vec::new() };
    SubtopologySpec { id, fingerprint: format!("f{id}"), source_topics: vec!["items".into()], stores, partitions }
}

fn member(number: usize, subtopologies: &[SubtopologySpec]) -> Member {
    let instance = InstanceInfo {
        process_id: ProcessId(Uuid::from_u128(number as u128 + 1)),
        endpoint: Endpoint::new("h", 1),
        peer_endpoint: Endpoint::new("h", 2),
        threads: 1,
        tags: BTreeMap::new(),
        transactional_ids: Vec::new(),
    };
    Member { instance, subtopologies: subtopologies.to_vec(), owned: Vec::new(), generation: -1 }
}

/// Counts per member: stateful tasks, all tasks.
fn counts(members: &[Member], target: &BTreeMap<TaskId, usize>) -> (Vec<usize>, Vec<usize>) {
    let stateful: BTreeSet<TaskId> =
        tasks(members).iter().filter(|task| task.spec.stateful).map(|task| task.spec.id).collect();
    let mut counts = (vec![0; members.len()], vec![0; members.len()]);
    for (task, member) in target {
        counts.1[*member] += 1;
        counts.0[*member] += usize::from(stateful.contains(task));
    }
    counts
}

fn spread(counts: &[usize]) -> usize {
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

fn target_of(members: &[Member]) -> BTreeMap<TaskId, usize> {
    balance(members, &tasks(members), &owners(members))
}

/// Runs the group until nothing is withheld, as members that release and join again do; gives the rounds it took.
fn settle(members: &mut [Member]) -> usize {
    for round in 1..=3 {
        let target = target_of(members);
        let outcome = hand_over(members.len(), &target, &owners(members));
        for (member, tasks) in members.iter_mut().zip(&outcome.tasks) {
            member.owned = tasks.active.clone();
            member.generation = i32::try_from(round).unwrap();
        }
        if outcome.withheld.is_empty() {
            return round;
        }
    }
    panic!("tasks are withheld for ever");
}

/// Members with anything owned, each task by one of them at most.
fn groups() -> impl Strategy<Value = Vec<Member>> {
    let specs = prop::collection::vec((any::<bool>(), 0..9_i32), 1..5).prop_map(|all| {
        all.into_iter().zip(0..).map(|((stateful, partitions), id)| spec(id, stateful, partitions)).collect::<Vec<_>>()
    });
    (specs, 1..6_usize).prop_flat_map(|(specs, size)| {
        let ids: Vec<TaskId> = specs.iter().flat_map(SubtopologySpec::tasks).map(|task| task.id).collect();
        prop::collection::vec(0..=size, ids.len()).prop_map(move |owners| {
            let mut members: Vec<Member> = (0..size).map(|number| member(number, &specs)).collect();
            for (task, owner) in ids.iter().zip(owners) {
                if let Some(member) = members.get_mut(owner) {
                    member.owned.push(*task);
                    member.generation = 4;
                }
            }
            members
        })
    })
}

proptest! {
    #[test]
    fn every_task_is_placed_once_and_balanced(members in groups()) {
        let target = target_of(&members);
        let all: BTreeSet<TaskId> = tasks(&members).iter().map(|task| task.spec.id).collect();
        prop_assert_eq!(target.keys().copied().collect::<BTreeSet<_>>(), all);
        let (stateful, total) = counts(&members, &target);
        prop_assert!(spread(&stateful) <= 1, "stateful {stateful:?}");
        prop_assert!(spread(&total) <= 1, "all {total:?}");
    }

    /// Of the stateful tasks, none moves that did not have to: each member keeps all it owns up to its share.
    #[test]
    fn movement_is_minimal(members in groups()) {
        let target = target_of(&members);
        let stateful: Vec<TaskId> =
            tasks(&members).iter().filter(|task| task.spec.stateful).map(|task| task.spec.id).collect();
        let owners = owners(&members);
        let moved = stateful.iter().filter(|task| owners.get(task).is_some_and(|owner| target[*task] != *owner)).count();

        let mut owned = vec![0_usize; members.len()];
        for task in &stateful {
            if let Some(owner) = owners.get(task) {
                owned[*owner] += 1;
            }
        }
        // The cheapest balanced outcome: the members that own most get the larger shares.
        owned.sort_unstable_by(|a, b| b.cmp(a));
        let (share, larger) = (stateful.len() / members.len(), stateful.len() % members.len());
        let least: usize = owned
            .iter()
            .enumerate()
            .map(|(rank, owned)| owned.saturating_sub(share + usize::from(rank < larger)))
            .sum();
        prop_assert_eq!(moved, least);
    }

    #[test]
    fn a_balanced_group_stays_as_it_is(mut members in groups()) {
        settle(&mut members);
        let before = members.clone();
        prop_assert_eq!(settle(&mut members), 1);
        for (now, before) in members.iter().zip(&before) {
            prop_assert_eq!(&now.owned, &before.owned);
        }
    }

    /// Whatever is going on, a task that a member owns is given to nobody else, and two rounds are enough.
    #[test]
    fn no_task_has_two_owners(mut members in groups()) {
        let owners = owners(&members);
        let outcome = hand_over(members.len(), &target_of(&members), &owners);
        for (index, tasks) in outcome.tasks.iter().enumerate() {
            for task in &tasks.active {
                prop_assert!(owners.get(task).is_none_or(|owner| *owner == index));
            }
        }
        prop_assert!(settle(&mut members) <= 2);
    }

    #[test]
    fn every_leader_finds_the_same(members in groups()) {
        let named = |members: &[Member]| -> BTreeMap<TaskId, ProcessId> {
            target_of(members).into_iter().map(|(task, index)| (task, members[index].instance.process_id)).collect()
        };
        let mut reversed = members.clone();
        reversed.reverse();
        prop_assert_eq!(named(&members), named(&reversed));
    }
}

#[test]
fn one_member_gets_everything() {
    let members = [member(0, &[spec(0, true, 6), spec(1, false, 3)])];
    let outcome = hand_over(1, &target_of(&members), &owners(&members));
    assert_eq!(outcome.tasks[0].active.len(), 9);
    assert!(outcome.withheld.is_empty());
}

#[test]
fn subtopologies_are_spread_too() {
    let members: Vec<Member> = (0..2).map(|number| member(number, &[spec(0, true, 4), spec(1, true, 4)])).collect();
    let target = target_of(&members);
    for subtopology in [0, 1] {
        let on_first = target.iter().filter(|(task, on)| task.subtopology == subtopology && **on == 0).count();
        assert_eq!(on_first, 2);
    }
}

#[test]
fn the_later_generation_owns() {
    let mut members: Vec<Member> = (0..2).map(|number| member(number, &[spec(0, true, 1)])).collect();
    for (member, generation) in members.iter_mut().zip([3, 5]) {
        member.owned = vec![TaskId::new(0, 0)];
        member.generation = generation;
    }
    assert_eq!(owners(&members)[&TaskId::new(0, 0)], 1);
}

#[test]
fn a_subtopology_goes_only_to_members_that_have_it() {
    let old = spec(0, true, 4);
    let new = SubtopologySpec { fingerprint: "changed".to_owned(), ..old.clone() };
    let members = [
        member(0, std::slice::from_ref(&old)),
        member(1, std::slice::from_ref(&old)),
        member(2, &[new, spec(1, true, 2)]),
    ];
    let target = target_of(&members);
    assert_eq!(target.len(), 6);
    for (task, on) in target {
        assert_eq!(task.subtopology == 1, on == 2, "{task}");
    }
}
