//! Who is evicted by whom, and who is not: a table of cases, and random ones.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    Action, Condition, Event, Failure, PeerReport, Peers, Settings,
    liveness::{Limits, Liveness},
    simulation::{TIMEOUT, World, instance, report},
};

const MS: Duration = Duration::from_millis(1);

#[test]
fn conditions() {
    let t0 = Instant::now();
    let at = |ms: u32| t0 + MS * ms;
    let limits = Limits { silent: TIMEOUT, refused: 300 * MS };
    // What happened (asked, Answered, heard, refused; at which ms), when it is looked at, and what it looks like.
    for (events, now, expected) in [
        (vec![], 9_999, Condition::Alive),
        (vec![('a', 0)], 199, Condition::Alive),
        (vec![('a', 0)], 200, Condition::Slow),
        (vec![('a', 0)], 2_999, Condition::Slow),
        (vec![('a', 0)], 3_000, Condition::Silent),
        (vec![('a', 0), ('h', 2_900)], 3_000, Condition::Alive),
        (vec![('a', 0), ('h', 2_900), ('a', 3_000)], 5_999, Condition::Slow),
        // Nobody asked: nobody is silent.
        (vec![('h', 0)], 60_000, Condition::Alive),
        (vec![('A', 0), ('r', 1)], 2, Condition::Slow),
        (vec![('A', 0), ('r', 1), ('r', 51), ('r', 101)], 300, Condition::Slow),
        (vec![('A', 0), ('r', 1), ('r', 51), ('r', 101)], 301, Condition::Refused),
        (vec![('A', 0), ('r', 1), ('r', 51)], 2_999, Condition::Slow),
        (vec![('A', 0), ('r', 1), ('r', 51), ('A', 60), ('r', 101)], 301, Condition::Slow),
        // A machine that refuses, and then is gone.
        (vec![('A', 0), ('r', 1), ('a', 50)], 3_050, Condition::Silent),
        // Its address never answered: nothing follows from that as long as it asks itself.
        (vec![('h', 0), ('a', 1), ('r', 2), ('r', 52), ('r', 102)], 402, Condition::Slow),
        (vec![('h', 0), ('a', 1), ('r', 2), ('r', 52), ('r', 102)], 3_001, Condition::Silent),
        // It does not answer any more, and asks all the same.
        (vec![('A', 0), ('r', 1), ('h', 99), ('r', 101), ('r', 151), ('r', 201)], 501, Condition::Slow),
        // The last that it sent arrived after the first refusal.
        (vec![('A', 0), ('r', 1), ('h', 2), ('r', 51), ('r', 101), ('r', 151)], 351, Condition::Refused),
    ] {
        let mut liveness = Liveness::default();
        for (what, ms) in &events {
            match what {
                'a' => liveness.asked(at(*ms)),
                'A' => liveness.answered(at(*ms)),
                'h' => liveness.heard(at(*ms)),
                _ => liveness.refused(at(*ms)),
            }
        }
        assert_eq!(liveness.condition(at(now), limits), expected, "{events:?} at {now}");
    }
}

/// Kills, pauses and cut links; which of the members are evicted within ten seconds.
#[test]
fn the_dead_are_evicted_and_nobody_else() {
    type Fault = fn(&mut World);
    let seconds = Duration::from_secs;
    let cases: [(&str, usize, bool, Fault, &[usize]); 13] = [
        ("one of three is killed", 3, true, |world| world.kill(2), &[2]),
        ("the first is killed", 3, true, |world| world.kill(0), &[0]),
        ("one of two is killed", 2, true, |world| world.kill(1), &[1]),
        ("two of three are killed", 3, true, |world| (0..2).for_each(|n| world.kill(n)), &[0, 1]),
        ("at-least-once, too", 3, false, |world| world.kill(1), &[1]),
        ("two seconds of pause", 3, true, |world| world.pause(1, Duration::from_secs(2)), &[]),
        ("a pause that is too long", 3, true, |world| world.pause(1, Duration::from_secs(6)), &[1]),
        ("but not among two", 2, true, |world| world.pause(1, Duration::from_secs(60)), &[]),
        ("nor at-least-once", 3, false, |world| world.pause(1, Duration::from_secs(60)), &[]),
        ("one link is cut", 3, true, |world| world.cut(1, 2), &[]),
        ("all links of one are cut", 3, true, |world| (0..2).for_each(|n| world.cut(n, 2)), &[2]),
        (
            "one is killed while another link is cut",
            4,
            true,
            |world| {
                world.cut(0, 1);
                world.kill(3);
            },
            &[3],
        ),
        ("all stand still at once", 3, true, |world| (0..3).for_each(|n| world.pause(n, Duration::from_secs(20))), &[]),
    ];
    for (what, count, exactly_once, fault, evicted) in cases {
        let mut world = World::new(count, exactly_once);
        fault(&mut world);
        world.run(seconds(10));
        assert_eq!(world.evicted().into_iter().collect::<Vec<_>>(), evicted, "{what}");
        assert_eq!(world.evictions.len(), evicted.len(), "{what}: once each: {:?}", world.evictions);
    }
}

#[test]
fn a_killed_process_is_out_of_the_group_in_well_under_a_second() {
    for count in 2..8 {
        let mut world = World::new(count, true);
        world.kill(count - 1);
        world.run(Duration::from_millis(850));
        assert_eq!(world.evicted(), BTreeSet::from([count - 1]), "of {count}");
        assert_eq!(world.evictions[0].0, 0, "the first live one does it");
    }
}

#[test]
fn a_slow_peer_is_known_at_once() {
    let mut world = World::new(3, true);
    world.pause(1, Duration::from_secs(2));
    world.run(Duration::from_millis(500));
    let view = world.machine(0).view(world.now);
    assert_eq!(view.condition(instance(1).process_id), Condition::Slow);
    assert_eq!(view.condition(instance(2).process_id), Condition::Alive);
    assert_eq!(view.alive(), 2);
    world.run(Duration::from_secs(2));
    assert_eq!(world.machine(0).view(world.now).condition(instance(1).process_id), Condition::Alive);
}

#[test]
fn one_evicted_by_mistake_is_left_alone_for_a_minute() {
    let mut world = World::new(3, true);
    (0..2).for_each(|n| world.cut(n, 2));
    world.run(Duration::from_secs(50));
    assert_eq!(world.evictions.len(), 1, "{:?}", world.evictions);
    world.run(Duration::from_secs(20));
    assert_eq!(world.evictions.len(), 2, "{:?}", world.evictions);
    world.mend();
    world.run(Duration::from_secs(90));
    assert_eq!(world.evictions.len(), 2, "{:?}", world.evictions);
}

#[test]
fn one_of_two_that_dies_before_anything_is_heard_of_it_is_evicted() {
    let mut world = World::begin(2, true);
    world.kill(1);
    world.run(Duration::from_secs(5));
    assert_eq!(world.evicted(), BTreeSet::from([1]), "{:?}", world.evictions);
    // Without fencing the two cannot be told apart from two that live and have wrong addresses.
    let mut world = World::begin(2, false);
    world.kill(1);
    world.run(Duration::from_secs(60));
    assert!(world.evictions.is_empty(), "{:?}", world.evictions);
}

#[test]
fn two_that_live_and_never_hear_of_each_other_are_evicted_once_at_most() {
    let mut world = World::begin(2, true);
    world.wrong_addresses = true;
    world.run(Duration::from_secs(300));
    let mut evicted: Vec<usize> = world.evictions.iter().map(|(_, peer, _)| *peer).collect();
    evicted.sort_unstable();
    evicted.dedup();
    assert_eq!(evicted.len(), world.evictions.len(), "{:?}", world.evictions);
}

/// A machine among three that has heard the other two, and what it does when the last one refuses.
fn refused_by_the_third(opinion: Option<Condition>, third: impl Fn(PeerReport) -> PeerReport) -> Vec<Action> {
    let settings = Settings { me: instance(0).process_id, peer_timeout: TIMEOUT, exactly_once: true };
    let mut now = Instant::now();
    let mut machine = Peers::new(settings, now);
    machine.handle(now, Event::Members { generation: 5, members: (0..3).map(instance).collect() });
    let peer = instance(2).process_id;
    machine.handle(now, Event::Answered { peer, report: Some(third(report(2, 5))) });
    for _ in 0..6 {
        now += 60 * MS;
        machine.handle(now, Event::Failed { peer, failure: Failure::Refused });
    }
    let second =
        PeerReport { opinions: opinion.map(|condition| (peer, condition)).into_iter().collect(), ..report(1, 5) };
    machine.handle(now, Event::Heard(second))
}

#[test]
fn an_eviction_needs_somebody_who_agrees() {
    let evicts = |actions: Vec<Action>| {
        actions.into_iter().find_map(|action| match action {
            Action::Evict { peer, member_id, condition } => Some((peer.process_id, member_id, condition)),
            _ => None,
        })
    };
    let gone = Some((instance(2).process_id, Some("member-2".into()), Condition::Refused));
    for (opinion, expected) in [
        (None, None),
        (Some(Condition::Slow), None),
        (Some(Condition::Silent), gone.clone()),
        (Some(Condition::Refused), gone.clone()),
    ] {
        assert_eq!(evicts(refused_by_the_third(opinion, |report| report)), expected, "{opinion:?}");
    }
    // It was about to leave; that it is killed meanwhile makes no difference.
    let leaving = |report| PeerReport { leaving: true, ..report };
    assert_eq!(evicts(refused_by_the_third(Some(Condition::Refused), leaving)), gone);
}

#[test]
fn a_newer_generation_is_asked_for_once() {
    let settings = Settings { me: instance(0).process_id, peer_timeout: TIMEOUT, exactly_once: true };
    let now = Instant::now();
    let mut machine = Peers::new(settings, now);
    machine.handle(now, Event::Members { generation: 5, members: (0..3).map(instance).collect() });
    let mut asks = |generation| {
        let actions = machine.handle(now, Event::Heard(report(1, generation)));
        actions.iter().filter(|action| matches!(action, Action::Confirm)).count()
    };
    assert_eq!([asks(4), asks(5), asks(6), asks(6), asks(7)], [0, 0, 1, 0, 1]);
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill(usize),
    Pause(usize, u64),
    Cut(usize, usize),
    Mend,
}

fn fault(count: usize) -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0..count).prop_map(Fault::Kill),
        (0..count, 100..2_500_u64).prop_map(|(number, ms)| Fault::Pause(number, ms)),
        (0..count, 0..count).prop_map(|(a, b)| Fault::Cut(a, b)),
        Just(Fault::Mend),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Pauses below the time-out, at most one cut link at a time, and kills that leave two: the killed are evicted, once each,
    /// and nobody else is.
    #[test]
    fn whatever_happens_only_the_dead_are_evicted(
        faults in (4..8_usize).prop_flat_map(|count| {
            (Just(count), proptest::collection::vec((fault(count), 0..4_000_u64), 1..12))
        }),
        exactly_once: bool,
    ) {
        let (count, faults) = faults;
        let mut world = World::new(count, exactly_once);
        let mut killed = BTreeSet::new();
        for (fault, ms) in faults {
            match fault {
                Fault::Kill(number) if killed.contains(&number) || killed.len() + 2 < count => {
                    killed.insert(number);
                    world.kill(number);
                }
                Fault::Pause(number, ms) => {
                    // Two pauses in a row would be one that is too long.
                    world.run(Duration::from_secs(3));
                    world.pause(number, Duration::from_millis(ms));
                }
                Fault::Cut(a, b) if a != b => {
                    world.mend();
                    world.cut(a, b);
                }
                Fault::Mend => world.mend(),
                _ => {}
            }
            world.run(Duration::from_millis(ms));
        }
        world.mend();
        world.run(Duration::from_secs(10));
        prop_assert_eq!(world.evicted(), killed, "{:?}", world.evictions);
    }
}
