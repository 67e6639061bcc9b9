//! What holds for any members, tasks and histories.

use proptest::prelude::*;

use super::{world::World, *};
use crate::assignor::{AssignorSettings, assign};

/// What a random member differs in.
type Traits = (u32, u8, u8, Vec<Option<u64>>);

fn specs() -> impl Strategy<Value = Vec<SubtopologySpec>> {
    prop::collection::vec((any::<bool>(), 0..9_i32), 1..5).prop_map(|all| {
        all.into_iter().zip(0..).map(|((stateful, partitions), id)| spec(id, stateful, partitions)).collect()
    })
}

fn ids(specs: &[SubtopologySpec]) -> Vec<TaskId> {
    specs.iter().flat_map(SubtopologySpec::tasks).map(|task| task.id).collect()
}

/// Any group: members of different sizes and zones, one in eight draining or without standbys or without a sub-topology,
/// each task owned by one of them or nobody, with copies that are anywhere.
fn groups() -> impl Strategy<Value = Vec<Member>> {
    (specs(), 1..7_usize).prop_flat_map(|(specs, size)| {
        let count = ids(&specs).len();
        let lag = prop::option::weighted(0.4, prop_oneof![Just(0), 0..20_000_u64, 0..1_000_000_u64]);
        let traits = (1..4_u32, 0..3_u8, 0..24_u8, prop::collection::vec(lag, count));
        (prop::collection::vec(0..=size, count), prop::collection::vec(traits, size))
            .prop_map(move |(owners, traits)| group(&specs, &owners, &traits))
    })
}

fn group(specs: &[SubtopologySpec], owners: &[usize], traits: &[Traits]) -> Vec<Member> {
    let mut members = members(traits.len(), specs);
    for (member, (threads, zone, oddity, lags)) in members.iter_mut().zip(traits) {
        *member = in_zone(member.clone(), &zone.to_string());
        member.instance.threads = *threads;
        match oddity {
            0..3 => member.draining = true,
            3..6 => member.follows = false,
            6..9 => drop(member.subtopologies.pop()),
            _ => {}
        }
        for (task, lag) in ids(specs).into_iter().zip(lags) {
            let has = member.subtopologies.iter().any(|spec| spec.id == task.subtopology && !spec.stores.is_empty());
            if let (Some(lag), true) = (lag, has) {
                member.lags.insert(task, *lag);
                if lag % 2 == 0 && member.follows {
                    member.followed.push(task);
                }
            }
        }
    }
    for (task, owner) in ids(specs).into_iter().zip(owners) {
        if let Some(member) = members.get_mut(*owner) {
            member.owned.push(task);
            member.followed.retain(|followed| *followed != task);
            member.generation = 4;
        }
    }
    members
}

fn settings() -> impl Strategy<Value = AssignorSettings> {
    (0..3_usize, 1..4_usize).prop_map(|(num_standby_replicas, max_warmup_replicas)| AssignorSettings {
        num_standby_replicas,
        max_warmup_replicas,
        ..AssignorSettings::default()
    })
}

/// A group of equals that has nothing yet.
fn equals() -> impl Strategy<Value = (Vec<SubtopologySpec>, usize)> {
    (specs(), 1..7_usize)
}

fn settled(specs: &[SubtopologySpec], size: usize, num_standby_replicas: usize) -> World {
    let settings = AssignorSettings { num_standby_replicas, ..AssignorSettings::default() };
    let mut world = World::new(members(size, specs), settings);
    world.settle();
    world
}

fn has(member: &Member, task: TaskId) -> bool {
    member.subtopologies.iter().any(|spec| spec.id == task.subtopology)
}

fn is_stateful(specs: &[SubtopologySpec], task: TaskId) -> bool {
    specs.iter().any(|spec| spec.id == task.subtopology && !spec.stores.is_empty())
}

/// All sub-topologies that any member has.
fn all_specs(members: &[Member]) -> Vec<SubtopologySpec> {
    members.iter().map(|member| member.subtopologies.clone()).max_by_key(Vec::len).unwrap()
}

/// The number of active tasks by member; of stateful ones, and of all.
fn counts(world: &World) -> (Vec<usize>, Vec<usize>) {
    let specs = all_specs(&world.members);
    let stateful = |member: &Member| member.owned.iter().filter(|task| is_stateful(&specs, **task)).count();
    (world.members.iter().map(stateful).collect(), world.members.iter().map(|member| member.owned.len()).collect())
}

/// Many more where time does not matter.
fn cases() -> u32 {
    if std::env::var_os("HOLDFAST_SOAK").is_some() { 20_000 } else { 200 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// One generation of any group: who may have what.
    #[test]
    fn one_generation(members in groups(), settings in settings()) {
        let outcome = assign(&members, &[], &settings);
        let (owners, standbys) = (owners(&outcome), standbys(&outcome));
        let specs = all_specs(&members);
        for task in ids(&specs) {
            let claimed = members.iter().position(|member| member.owned.contains(&task));
            let runners: Vec<usize> =
                (0..members.len()).filter(|index| has(&members[*index], task) && !members[*index].draining).collect();
            let owner = owners.get(&task).copied();
            let withheld = outcome.withheld().contains(&task);

            // Exactly one owner among those who may have it, or one to come; never two within a generation.
            prop_assert!(!(withheld && owner.is_some()), "{}", task);
            if !runners.is_empty() {
                prop_assert!(withheld || owner.is_some_and(|owner| runners.contains(&owner)), "{}", task);
            }
            if let (Some(claimed), Some(owner)) = (claimed, owner) {
                prop_assert_eq!(claimed, owner, "{} was given away before its release", task);
            }
            prop_assert!(!withheld || claimed.is_some(), "{} is withheld for nobody", task);

            // Somebody who has caught up, as long as there is somebody and the others can follow. An owner may keep it as
            // long as all who have caught up follow it.
            let all_follow = runners.iter().all(|runner| members[*runner].follows);
            let caught_up = |index: &usize| {
                let own = (claimed == Some(*index)).then_some(0);
                members[*index].lags.get(&task).copied().or(own).is_some_and(|lag| lag <= 10_000)
            };
            if let Some(owner) = owner
                && is_stateful(&specs, task) && all_follow && runners.iter().any(caught_up)
            {
                let kept = claimed == Some(owner)
                    && runners.iter().filter(|index| caught_up(index)).all(|index| members[*index].followed.contains(&task));
                prop_assert!(kept || caught_up(&owner), "{} went to {}, which has not caught up", task, owner);
            }

            // Standbys: not beside the active, as many as there is room for.
            let of_task = standbys.get(&task).cloned().unwrap_or_default();
            prop_assert!(owner.is_none_or(|owner| !of_task.contains(&owner)), "{}", task);
            prop_assert!(of_task.iter().all(|standby| runners.contains(standby) && members[*standby].follows));
            if is_stateful(&specs, task) && let Some(owner) = owner {
                let room = runners.iter().filter(|runner| members[**runner].follows && **runner != owner).count();
                let reserved = outcome.reserved.iter().filter(|reserved| reserved.tasks.contains(&task)).count();
                let wanted = settings.num_standby_replicas.saturating_sub(reserved);
                prop_assert_eq!(of_task.len(), room.min(wanted), "{}", task);
            } else if !is_stateful(&specs, task) {
                prop_assert!(of_task.is_empty());
            }
        }
        // Warm-ups are bounded, beside those whose task is on its way to them.
        let warming = outcome.tasks.iter().flat_map(|tasks| &tasks.warmup);
        let beyond = warming.filter(|task| !outcome.withheld().contains(task)).count();
        prop_assert!(beyond <= settings.max_warmup_replicas);
        for tasks in &outcome.tasks {
            let mut all: Vec<_> = tasks.active.iter().chain(&tasks.standby).chain(&tasks.warmup).collect();
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(all.len(), count, "one role per member and task");
        }
    }

    /// Whatever it starts from, a group comes to rest, and then its load is fair.
    #[test]
    fn any_group_settles_and_is_fair(members in groups(), settings in settings()) {
        let mut world = World::new(members, settings);
        world.settle();
        // Who drains leaves; while it is awaited nothing is levelled.
        if world.members.iter().any(|member| !member.draining) {
            world.members.retain(|member| !member.draining);
        }
        world.settle();
        let (stateful, all) = counts(&world);
        let specs = all_specs(&world.members);
        let threads = |index: usize| world.members[index].instance.threads as usize;
        // No task could go to a member that would then carry less per thread than its owner does now.
        for (from, member) in world.members.iter().enumerate().filter(|(_, member)| !member.draining) {
            for task in &member.owned {
                let load = if is_stateful(&specs, *task) { &stateful } else { &all };
                for (to, other) in world.members.iter().enumerate().filter(|(_, member)| !member.draining) {
                    let fair = !has(other, *task) || load[from] * threads(to) <= (load[to] + 1) * threads(from);
                    prop_assert!(fair, "{} on {} of {:?}, could be on {}", task, from, load, to);
                }
            }
        }
        // And nothing moves any more.
        let before = world.members.clone();
        prop_assert_eq!(world.settle(), 1);
        for (now, before) in world.members.iter().zip(&before) {
            prop_assert_eq!(&now.owned, &before.owned);
        }
    }

    #[test]
    fn equals_differ_by_one((specs, size) in equals(), standbys in 0..3_usize) {
        let world = settled(&specs, size, standbys);
        let (stateful, all) = counts(&world);
        prop_assert!(spread(stateful.clone()) <= 1, "stateful {:?}", stateful);
        prop_assert!(spread(all.clone()) <= 1, "all {:?}", all);
        let copies = world.members.iter().map(|member| member.followed.len());
        prop_assert!(spread(copies.clone()) <= 2, "standbys {:?}", copies.collect::<Vec<_>>());
    }

    /// Of the stateful tasks, none moves that did not have to: each member keeps all it owns up to its share.
    #[test]
    fn movement_is_minimal((specs, size) in equals(), seed in prop::collection::vec(any::<prop::sample::Index>(), 40)) {
        let mut members = members(size, &specs);
        let stateful: Vec<TaskId> = ids(&specs).into_iter().filter(|task| is_stateful(&specs, *task)).collect();
        for (task, index) in stateful.iter().zip(&seed) {
            members[index.index(size)].owned.push(*task);
        }
        // The cheapest balanced outcome: the members that own most get the larger shares.
        let mut owned: Vec<usize> = members.iter().map(|member| member.owned.len()).collect();
        owned.sort_unstable_by(|a, b| b.cmp(a));
        let (share, larger) = (stateful.len() / size, stateful.len() % size);
        let least: usize =
            owned.iter().enumerate().map(|(rank, owned)| owned.saturating_sub(share + usize::from(rank < larger))).sum();
        let mut world = World::new(members, AssignorSettings::default());
        world.settle();
        prop_assert_eq!(world.moved.len(), least);
    }

    #[test]
    fn one_more_member_moves_only_its_share((specs, size) in equals(), standbys in 0..2_usize) {
        let mut world = settled(&specs, size, standbys);
        world.moved.clear();
        world.settle();
        prop_assert!(world.moved.is_empty(), "nothing changed");
        world.members.push(member(size, &specs));
        world.settle();
        let (stateful, stateless): (Vec<TaskId>, Vec<TaskId>) =
            ids(&specs).into_iter().partition(|task| is_stateful(&specs, *task));
        let share = |tasks: usize| tasks.div_ceil(size + 1);
        let most = if stateful.is_empty() || stateless.is_empty() {
            share(stateful.len() + stateless.len())
        } else {
            // The classes are levelled one after the other, and each may round up.
            share(stateful.len()) + share(stateless.len()) + 1
        };
        prop_assert!(world.moved.len() <= most, "moved {:?} of {:?} and {:?}", world.moved, stateful, stateless);
    }

    #[test]
    fn one_member_less_moves_only_its_tasks((specs, size) in equals(), standbys in 0..2_usize) {
        let mut world = settled(&specs, size + 1, standbys);
        let left = world.members.pop().map(|member| member.owned).unwrap_or_default();
        world.moved.clear();
        let kept: Vec<Vec<TaskId>> = world.members.iter().map(|member| member.owned.clone()).collect();
        let first = world.round();
        // All of them have an owner at once; later, they may move on to where it is fairer.
        let owners = owners(&first);
        prop_assert!(left.iter().all(|task| owners.contains_key(task)));
        world.settle();
        // What its standbys took over beyond their share moves on, or something else that is there already does.
        let count = |tasks: &[TaskId]| tasks.iter().filter(|task| is_stateful(&specs, **task)).count();
        prop_assert!(count(&world.moved) <= count(&left), "{:?} moved when {:?} lost their owner", world.moved, left);
        for (member, kept) in world.members.iter().zip(kept).filter(|_| standbys == 0) {
            let lost: Vec<_> = kept.iter().filter(|task| is_stateful(&specs, **task) && !member.owned.contains(task)).collect();
            prop_assert!(lost.is_empty(), "{:?} moved without need", lost);
        }
    }

    #[test]
    fn every_leader_finds_the_same(members in groups(), settings in settings()) {
        let named = |members: &[Member]| {
            let outcome = assign(members, &[], &settings);
            let tasks = members.iter().zip(outcome.tasks.clone()).map(|(member, tasks)| (member.instance.process_id, tasks));
            (tasks.collect::<Vec<_>>(), outcome.follow_up)
        };
        let (mut tasks, follow_up) = named(&members);
        let mut reversed = members.clone();
        reversed.reverse();
        tasks.reverse();
        prop_assert_eq!((tasks, follow_up), named(&reversed));
    }
}
