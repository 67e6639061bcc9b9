//! The named rules, one example each.

use std::time::Duration;

use holdfast_types::SubtopologySpec;

use super::*;
use crate::assignor::{AssignorSettings, Copies, Reservation, assign, lags};

fn settings(num_standby_replicas: usize) -> AssignorSettings {
    AssignorSettings { num_standby_replicas, ..AssignorSettings::default() }
}

#[test]
fn one_member_gets_everything() {
    let outcome = assign(&members(1, &[spec(0, true, 6), spec(1, false, 3)]), &[], &settings(1));
    assert_eq!(outcome.tasks[0].active.len(), 9);
    assert_eq!((outcome.tasks[0].standby.len(), outcome.withheld().len(), outcome.follow_up), (0, 0, false));
}

#[test]
fn subtopologies_are_spread_too() {
    let outcome = assign(&members(2, &[spec(0, true, 4), spec(1, true, 4)]), &[], &settings(0));
    for subtopology in [0, 1] {
        let of = |task: &&TaskId| task.subtopology == subtopology;
        assert_eq!(outcome.tasks[0].active.iter().filter(of).count(), 2);
    }
}

#[test]
fn members_carry_by_their_threads() {
    let mut members = members(3, &[spec(0, true, 12), spec(1, false, 6)]);
    for (member, threads) in members.iter_mut().zip([1, 2, 3]) {
        member.instance.threads = threads;
    }
    let outcome = assign(&members, &[], &settings(0));
    let counts: Vec<usize> = outcome.tasks.iter().map(|tasks| tasks.active.len()).collect();
    assert_eq!(counts, [3, 6, 9]);
}

#[test]
fn the_later_generation_owns() {
    let mut members = [owning(member(0, &[spec(0, true, 1)]), "0_0"), owning(member(1, &[spec(0, true, 1)]), "0_0")];
    members[1].generation = 5;
    assert_eq!(owners(&assign(&members, &[], &settings(0))), [(TaskId::new(0, 0), 1)].into());
}

#[test]
fn a_task_moves_only_after_its_owner_joined_without_it() {
    let specs = [spec(0, false, 2)];
    let mut members = [owning(member(0, &specs), "0_0 0_1"), member(1, &specs)];
    let outcome = assign(&members, &[], &settings(0));
    assert_eq!(outcome.withheld().len(), 1);
    assert_eq!((outcome.tasks[0].active.len(), outcome.tasks[1].active.len()), (1, 0));
    members[0].owned = outcome.tasks[0].active.clone();
    let outcome = assign(&members, &[], &settings(0));
    assert_eq!(outcome.tasks[1].active, tasks("0_0"));
    assert_eq!(outcome.withheld(), []);
}

/// KIP-441: the new owner warms up first, at most two at a time, and asks for a rebalance when it has caught up.
#[test]
fn a_new_owner_warms_up_first() {
    let specs = [spec(0, true, 6)];
    let mut members = [owning(member(0, &specs), "0_0 0_1 0_2 0_3 0_4 0_5"), member(1, &specs)];
    let outcome = assign(&members, &[], &settings(0));
    assert_eq!(outcome.tasks[0].active.len(), 6);
    assert_eq!(outcome.tasks[1].warmup, tasks("0_0 0_1"));
    assert_eq!((outcome.follow_up, outcome.withheld().len()), (true, 0));

    // The same two go on as long as they have not caught up, and one moves as soon as it has.
    members[1] = following(members[1].clone(), "0_0 0_1", 10_001);
    assert_eq!(assign(&members, &[], &settings(0)).tasks[1].warmup, tasks("0_0 0_1"));
    members[1].lags.insert(TaskId::new(0, 1), 10_000);
    let outcome = assign(&members, &[], &settings(0));
    assert_eq!(outcome.withheld(), tasks("0_1"));
    // It follows on while its former owner releases it, beside two others that warm up.
    assert_eq!(outcome.tasks[1].warmup, tasks("0_0 0_1 0_2"));
    members[0].owned = outcome.tasks[0].active.clone();
    members[1].followed = outcome.tasks[1].warmup.clone();
    let outcome = assign(&members, &[], &settings(0));
    assert_eq!(outcome.tasks[1].active, tasks("0_1"));
    assert_eq!(outcome.tasks[1].warmup, tasks("0_0 0_2"));
}

#[test]
fn a_member_that_cannot_follow_gets_tasks_at_once() {
    let specs = [spec(0, true, 4)];
    let mut members = [owning(member(0, &specs), "0_0 0_1 0_2 0_3"), member(1, &specs)];
    members[1].follows = false;
    let outcome = assign(&members, &[], &settings(1));
    assert_eq!((outcome.withheld().len(), outcome.follow_up), (2, false));
    assert_eq!((outcome.tasks[1].standby.len(), outcome.tasks[1].warmup.len()), (0, 0));
}

#[test]
fn a_dead_owners_tasks_go_to_those_who_followed_them() {
    let specs = [spec(0, true, 3)];
    let members =
        [owning(member(0, &specs), "0_0"), following(owning(member(1, &specs), "0_1"), "0_2", 40), member(2, &specs)];
    let outcome = assign(&members, &[], &settings(1));
    // Not to the idle member, which warms up for its share instead.
    assert_eq!(owners(&outcome)[&TaskId::new(0, 2)], 1);
    assert_eq!(outcome.tasks[2].warmup, tasks("0_2"));
    assert!(outcome.follow_up);
}

/// Within the acceptable lag all count as caught up; a standby is still better than who has nothing.
#[test]
fn of_those_within_the_acceptable_lag_the_one_with_least_to_replay_takes_over() {
    let specs = [spec(0, true, 2)];
    let mut members: Vec<Member> = (0..2).map(|index| following(member(index, &specs), "0_0 0_1", 5_000)).collect();
    // Whoever is asked first, for both tasks.
    members[1].lags.insert(TaskId::new(0, 0), 3);
    members[0].lags.insert(TaskId::new(0, 1), 3);
    let expected = [(TaskId::new(0, 0), 1), (TaskId::new(0, 1), 0)];
    assert_eq!(owners(&assign(&members, &[], &settings(1))), expected.into());
}

#[test]
fn an_owner_that_restores_gives_way_only_to_a_copy_that_stood_still() {
    let specs = [spec(0, true, 2)];
    let mut restoring = owning(member(0, &specs), "0_0");
    restoring.lags.insert(TaskId::new(0, 0), 50_000);
    let other = owning(member(1, &specs), "0_1");
    let outcome = assign(&[restoring.clone(), following(other.clone(), "0_0", 20_000)], &[], &settings(0));
    assert_eq!((owners(&outcome)[&TaskId::new(0, 0)], outcome.withheld().len()), (0, 0));
    // It follows, so it gains as the owner does; it only spoke later.
    let standby = following(other.clone(), "0_0", 20);
    let outcome = assign(&[restoring.clone(), standby], &[], &settings(0));
    assert_eq!((owners(&outcome)[&TaskId::new(0, 0)], outcome.withheld().len()), (0, 0));
    // It is back with its disk.
    let mut back = other;
    back.lags.insert(TaskId::new(0, 0), 20);
    assert_eq!(assign(&[restoring, back], &[], &settings(0)).withheld(), tasks("0_0"));
}

#[test]
fn standbys_are_elsewhere_and_in_another_zone() {
    let specs = [spec(0, true, 8)];
    let zones = ["a", "a", "b", "b"];
    let members: Vec<Member> =
        members(4, &specs).into_iter().zip(zones).map(|(member, zone)| in_zone(member, zone)).collect();
    let outcome = assign(&members, &[], &settings(1));
    let owners = owners(&outcome);
    for (task, standbys) in standbys(&outcome) {
        assert_eq!(standbys.len(), 1);
        assert!(standbys.iter().all(|standby| zones[*standby] != zones[owners[&task]]), "{task}");
    }
    assert_eq!(spread(outcome.tasks.iter().map(|tasks| tasks.standby.len())), 0);
    // More copies than zones: still all on different members.
    let outcome = assign(&members, &[], &settings(5));
    assert!(super::standbys(&outcome).values().all(|standbys| standbys.len() == 3));
}

#[test]
fn a_rack_counts_where_the_zones_are_alike() {
    let specs = [spec(0, true, 4)];
    let tagged = |member: Member, rack: &str| {
        let mut member = in_zone(member, "z");
        member.instance.tags.insert("rack".to_owned(), rack.to_owned());
        member
    };
    let racks = ["1", "1", "2"];
    let members: Vec<Member> =
        members(3, &specs).into_iter().zip(racks).map(|(member, rack)| tagged(member, rack)).collect();
    let outcome = assign(&members, &[], &settings(1));
    let owners = owners(&outcome);
    for (task, standbys) in standbys(&outcome) {
        assert!(standbys.iter().all(|standby| racks[*standby] != racks[owners[&task]]), "{task}");
    }
}

#[test]
fn a_standby_is_replaced_only_by_one_that_has_caught_up() {
    let specs = [spec(0, true, 2)];
    let zoned = |number: usize, zone: &str| in_zone(member(number, &specs), zone);
    let mut members = [
        owning(zoned(0, "a"), "0_0"),
        following(owning(zoned(1, "a"), "0_1"), "0_0", 0),
        following(zoned(2, "b"), "0_1", 0),
    ];
    let outcome = assign(&members, &[], &settings(1));
    assert_eq!(outcome.tasks[1].standby, tasks("0_0"));
    assert_eq!((&outcome.tasks[2].standby, &outcome.tasks[2].warmup), (&tasks("0_1"), &tasks("0_0")));
    assert!(outcome.follow_up);
    members[2] = following(members[2].clone(), "0_0 0_1", 3);
    let outcome = assign(&members, &[], &settings(1));
    assert_eq!((outcome.tasks[1].standby.len(), &outcome.tasks[2].standby), (0, &tasks("0_0 0_1")));
    assert!(!outcome.follow_up);
}

#[test]
fn a_drained_process_gets_its_slots_back() {
    let specs = [spec(0, true, 3)];
    let all = [
        following(owning(member(0, &specs), "0_0"), "0_2", 0),
        following(owning(member(1, &specs), "0_1"), "0_0", 0),
        following(owning(member(2, &specs), "0_2"), "0_1", 0),
    ];
    let mut draining = all.clone();
    draining[2].draining = true;
    let outcome = assign(&draining, &[], &settings(1));
    let left = Duration::from_secs(300);
    assert_eq!(outcome.reserved, [Reservation { process_id: process_id(2), tasks: tasks("0_1 0_2"), left }]);
    assert_eq!(outcome.withheld(), tasks("0_2"));

    // It has released what it had and left: its standby takes over, and nobody builds a copy in its place.
    let rest = &mut all.clone()[..2];
    let outcome = assign(rest, &outcome.reserved, &settings(1));
    assert_eq!(outcome.tasks[0].active, tasks("0_0 0_2"));
    assert_eq!(standbys(&outcome), [(TaskId::new(0, 0), [1].into())].into());
    assert_eq!((outcome.reserved.len(), outcome.follow_up_in), (1, Some(left)));

    // When its time is over, somebody does.
    let over = [Reservation { left: Duration::ZERO, ..outcome.reserved[0].clone() }];
    let outcome = assign(rest, &over, &settings(1));
    assert_eq!((standbys(&outcome).len(), outcome.reserved.len()), (3, 0));

    // When it is back before, it follows what it has, and gets a task back as it has caught up.
    rest[0].owned = tasks("0_0 0_2");
    rest[0].followed = vec![];
    rest[0].lags.clear();
    let mut back = member(2, &specs);
    back.lags = tasks("0_1 0_2").into_iter().map(|task| (task, 5)).collect();
    let outcome = assign(&[rest[0].clone(), rest[1].clone(), back], &draining_reserved(left), &settings(1));
    assert_eq!((outcome.withheld(), outcome.reserved.len()), (tasks("0_2"), 0));
    assert_eq!(outcome.tasks[2].standby, tasks("0_1"));
}

fn draining_reserved(left: Duration) -> [Reservation; 1] {
    [Reservation { process_id: process_id(2), tasks: tasks("0_1 0_2"), left }]
}

#[test]
fn whoever_heard_of_a_reservation_last_is_right() {
    let members = members(1, &[spec(0, true, 2)]);
    let reserved = |left: u64, text: &str| Reservation {
        process_id: process_id(7),
        tasks: tasks(text),
        left: Duration::from_secs(left),
    };
    let outcome = assign(&members, &[reserved(20, "0_0"), reserved(200, "0_0 0_1"), reserved(90, "0_1")], &settings(1));
    assert_eq!(outcome.reserved, [reserved(200, "0_0 0_1")]);
}

#[test]
fn nothing_is_kept_for_a_drained_process_if_the_retention_is_zero() {
    let specs = [spec(0, true, 2)];
    let mut members = [owning(member(0, &specs), "0_0"), owning(member(1, &specs), "0_1")];
    members[1].draining = true;
    let settings = AssignorSettings { drained_slot_retention: Duration::ZERO, ..settings(1) };
    let outcome = assign(&members, &[], &settings);
    assert_eq!(outcome.reserved, []);
    // Else the leader would ask for one rebalance after the other until it has left.
    assert_eq!(outcome.follow_up_in, None);
}

#[test]
fn a_group_that_drains_as_a_whole_keeps_its_tasks_until_it_leaves() {
    let specs = [spec(0, true, 2)];
    let mut members = [owning(member(0, &specs), "0_0"), owning(member(1, &specs), "0_1")];
    members.iter_mut().for_each(|member| member.draining = true);
    let outcome = assign(&members, &[], &settings(1));
    assert_eq!(owners(&outcome), [(TaskId::new(0, 0), 0), (TaskId::new(0, 1), 1)].into());
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
    let outcome = assign(&members, &[], &settings(1));
    let owners = owners(&outcome);
    assert_eq!(owners.len(), 6);
    for (task, on) in owners {
        assert_eq!(task.subtopology == 1, on == 2, "{task}");
    }
    assert!(outcome.tasks[2].standby.is_empty());
    let [refused] = outcome.refused.as_slice() else { panic!("{:?}", outcome.refused) };
    assert_eq!(refused.member, 2);
    assert!(refused.reason.contains("its processing differs (fingerprint f0 there, changed here)"), "{refused:?}");
}

/// A sub-topology that is put before others moves their ids: the same store must not be counted into twice.
#[test]
fn forms_with_a_common_store_or_topic_do_not_run_together() {
    let old = [spec(0, true, 2), spec(1, true, 2)];
    let renumbered = |id: u32, of: &SubtopologySpec| SubtopologySpec { id, ..of.clone() };
    let first =
        SubtopologySpec { fingerprint: "first".to_owned(), source_topics: vec!["x".into()], ..spec(9, true, 2) };
    let new = [renumbered(0, &first), renumbered(1, &old[0]), renumbered(2, &old[1])];
    let mut members = vec![owning(member(0, &old), "0_0 1_0"), owning(member(1, &old), "0_1 1_1"), member(2, &new)];
    let outcome = assign(&members, &[], &settings(0));
    assert_eq!(outcome.tasks[2].active, []);
    let reasons: Vec<_> = outcome.refused.iter().map(|refused| (refused.member, refused.reason.as_str())).collect();
    assert_eq!(reasons.len(), 3);
    for (member, reason) in &reasons {
        assert_eq!(*member, 2);
        let named = ["its stores are", "both own the store"].iter().any(|text| reason.contains(text));
        assert!(named, "{reason}");
    }

    // With one more of the new ones the group runs them; what the old one still owns is withheld under its new id, too.
    members[1] = member(1, &new);
    let outcome = assign(&members, &[], &settings(0));
    assert_eq!(outcome.tasks[0].active, []);
    assert_eq!(outcome.withheld(), tasks("0_0 1_0 2_0"));
    assert_eq!(owners(&outcome).keys().copied().collect::<Vec<_>>(), tasks("0_1 1_1 2_1"));
}

#[test]
fn a_tie_between_topologies_leaves_nothing_out() {
    let old = [spec(0, true, 1), spec(1, true, 1)];
    let new: Vec<SubtopologySpec> = old
        .iter()
        .zip(["a", "z"])
        .map(|(spec, fingerprint)| SubtopologySpec { fingerprint: fingerprint.to_owned(), ..spec.clone() })
        .collect();
    let outcome = assign(&[member(0, &old), member(1, &new)], &[], &settings(0));
    assert_eq!((owners(&outcome).len(), outcome.refused.len()), (2, 2));
}

#[test]
fn a_difference_in_partitions_is_named() {
    let grown = spec(0, true, 6);
    let outcome = assign(
        &[member(0, &[spec(0, true, 4)]), member(1, std::slice::from_ref(&grown)), member(2, &[grown])],
        &[],
        &settings(0),
    );
    let [refused] = outcome.refused.as_slice() else { panic!("{:?}", outcome.refused) };
    assert!(refused.reason.contains("it has 6 partitions there and 4 here"), "{}", refused.reason);
    assert_eq!(refused.member, 0);
}

#[test]
fn lags_are_measured_against_the_furthest_copy() {
    let task = TaskId::new(0, 0);
    let at = |position: u64| Copies { positions: [(task, position)].into(), restoring: [].into() };
    let (owner, standby, none) = (at(90), at(100), Copies::default());
    let restoring = Copies { restoring: [task].into(), ..at(20) };
    let owned: &[TaskId] = &[task];
    let lag = |reports: &[(&Copies, &[TaskId])]| -> Vec<Option<u64>> {
        lags(reports, 50).into_iter().map(|lags| lags.get(&task).copied()).collect()
    };
    // The owner spoke before the standby did.
    assert_eq!(lag(&[(&owner, owned), (&standby, &[]), (&none, &[])]), [Some(0), Some(0), None]);
    assert_eq!(lag(&[(&restoring, owned), (&standby, &[]), (&owner, &[])]), [Some(80), Some(0), Some(10)]);
    // A short changelog is replayed in no time.
    assert_eq!(lag(&[(&at(50), owned), (&none, &[])]), [Some(0), Some(50)]);
}
