//! Times the assignor and the routing table over a large group, and prints what membership weighs as the group grows:
//! `cargo run --release -p holdfast-discovery --example assign [members] [tasks]` (100 and 5,000 if not said).

// Its output is its purpose.
#![allow(clippy::print_stdout)]

use std::{
    env,
    hint::black_box,
    time::{Duration, Instant},
};

use holdfast_discovery::{
    assignor::{AssignorSettings, Member, Outcome, assign},
    measure,
    routing::RoutingSnapshot,
};
use holdfast_types::{Assignment, Endpoint, InstanceInfo, MemberAssignment, ProcessId, SubtopologySpec};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use uuid::Uuid;

/// Runs of which the median counts.
const RUNS: usize = 9;
/// Groups of the curve.
const CURVE: [usize; 6] = [3, 10, 25, 50, 75, 100];

fn member(number: usize, subtopologies: &[SubtopologySpec]) -> Member {
    // As random as real ones: they are the part of a map that does not compress.
    let id = Uuid::new_v4().as_u128() << 16 | (number as u128 & 0xffff);
    let process_id = ProcessId(Uuid::from_u128(id));
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

/// Four sub-topologies with so many tasks together; one has no state.
fn subtopologies(tasks: usize) -> Vec<SubtopologySpec> {
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

/// Does what was assigned, and catches up with it.
fn carry_out(members: &mut [Member], outcome: Outcome) {
    for (member, tasks) in members.iter_mut().zip(outcome.tasks) {
        member.generation += 1;
        member.followed = tasks.standby.into_iter().chain(tasks.warmup).collect();
        member.lags = tasks.active.iter().chain(&member.followed).map(|task| (*task, 0)).collect();
        (member.owned, member.promised) = (tasks.active, tasks.promised);
    }
}

/// The median time of an assignment, and what it came to.
fn measure(what: &str, members: &[Member], settings: &AssignorSettings) -> Outcome {
    let mut times = Vec::with_capacity(RUNS);
    let mut outcome = Outcome::default();
    for _ in 0..RUNS {
        let started = Instant::now();
        outcome = assign(members, &[], settings);
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let median: Duration = times[RUNS / 2];
    let (withheld, warm_ups) =
        (outcome.withheld().len(), outcome.tasks.iter().map(|tasks| tasks.warmup.len()).sum::<usize>());
    println!("{what:28} {:8.2} ms   {withheld} handed over, {warm_ups} warming up", median.as_secs_f64() * 1000.0);
    outcome
}

/// Times keys on their way to their owners.
fn route(members: &[Member], outcome: &Outcome, subtopologies: &[SubtopologySpec]) {
    let held = members.iter().zip(&outcome.tasks).map(|(member, tasks)| MemberAssignment {
        instance: member.instance.clone(),
        active: tasks.active.clone(),
        standby: tasks.standby.clone(),
        warmup: tasks.warmup.clone(),
    });
    let (active, standby, warmup) = (Vec::new(), Vec::new(), Vec::new());
    let snapshot = RoutingSnapshot::of(
        &Assignment { generation: 1, tenure: 0, active, standby, warmup, members: held.collect() },
        subtopologies,
    );
    let keys: Vec<String> = (0..100_000).map(|number| format!("Store_{number:08}")).collect();
    let started = Instant::now();
    let found = keys.iter().filter(|key| {
        let route = snapshot.route_key(black_box("store-1"), key.as_bytes());
        route.is_ok_and(|route| black_box(&route.active).is_some())
    });
    let found = found.count();
    let each = started.elapsed().as_secs_f64() * 1e9 / keys.len() as f64;
    println!("{:28} {each:8.0} ns   {found} of {} keys have an owner", "routing a key", keys.len());
}

/// Members among which tasks and copies have moved for a long time: nothing is regular about who has what.
fn scattered(size: usize, subtopologies: &[SubtopologySpec]) -> Vec<Member> {
    let mut members: Vec<Member> = (0..size).map(|number| member(number, subtopologies)).collect();
    let mut random = SmallRng::seed_from_u64(42);
    for task in subtopologies.iter().flat_map(SubtopologySpec::tasks) {
        members[random.random_range(0..size)].owned.push(task.id);
        let follower = &mut members[random.random_range(0..size)];
        if task.stateful {
            follower.followed.push(task.id);
            follower.lags.insert(task.id, 0);
        }
    }
    members
}

/// What a group that has settled sends in a rebalance, with one standby.
fn weigh(size: usize, subtopologies: &[SubtopologySpec], settings: &AssignorSettings) -> Result<(), String> {
    let mut members = scattered(size, subtopologies);
    let settled = AssignorSettings { max_warmup_replicas: usize::MAX, ..settings.clone() };
    // Tasks move in the first, and are given out in the second.
    for _ in 0..3 {
        let outcome = assign(&members, &[], &settled);
        carry_out(&mut members, outcome);
    }
    let subscriptions = measure::subscriptions(&members, true)?;
    let joins: usize = subscriptions.iter().map(|(_, bytes)| bytes.len()).sum();
    let started = Instant::now();
    let assignments = measure::lead(subscriptions, settings)?;
    let took = started.elapsed().as_secs_f64() * 1000.0;
    let syncs: usize = assignments.iter().map(|bytes| bytes.len()).sum();
    let plain = measure::lead(measure::subscriptions(&members, false)?, settings)?;
    let plain: usize = plain.iter().map(|bytes| bytes.len()).sum();
    let kib = |bytes: usize| bytes as f64 / 1024.0;
    println!(
        "{size:9} {:16.1} {:16.1} {:16.0} {:16.0} {took:12.1}",
        kib(joins / size),
        kib(syncs / size),
        kib(joins + syncs),
        kib(joins + plain),
    );
    Ok(())
}

fn main() -> Result<(), String> {
    let mut arguments = env::args().skip(1).map_while(|argument| argument.parse::<usize>().ok());
    let (size, tasks) = (arguments.next().unwrap_or(100), arguments.next().unwrap_or(5_000));
    let specs = subtopologies(tasks);
    let settings = AssignorSettings { num_standby_replicas: 1, ..AssignorSettings::default() };
    println!("{size} members, {} tasks, 1 standby, 3 zones", tasks / 4 * 4);

    let mut members: Vec<Member> = (0..size).map(|number| member(number, &specs)).collect();
    let outcome = measure("a group that has nothing", &members, &settings);
    carry_out(&mut members, outcome);
    let outcome = measure("nothing changed", &members, &settings);
    route(&members, &outcome, &specs);
    measure("one member died", &members[1..], &settings);
    let mut more = members.clone();
    more.push(member(size, &specs));
    measure("one member more", &more, &settings);
    let mut alone = vec![members[0].clone()];
    let outcome = assign(&alone, &[], &settings);
    carry_out(&mut alone, outcome);
    alone.extend((1..size).map(|number| member(number, &specs)));
    measure("all others join one", &alone, &settings);

    for (what, per_member) in [("in all", None), ("for each member", Some(50))] {
        println!(
            "\n{} tasks {what}; a rebalance in KiB, the whole group as the broker keeps it",
            per_member.unwrap_or(tasks)
        );
        println!(
            "{:>9} {:>16} {:>16} {:>16} {:>16} {:>12}",
            "members", "subscription", "assignment", "group", "in form 1", "leader, ms"
        );
        for size in CURVE {
            weigh(size, &subtopologies(per_member.map_or(tasks, |each| each * size)), &settings)?;
        }
    }
    Ok(())
}
