//! Times the assignor over a large group, and counts what its assignments weigh:
//! `cargo run --release -p holdfast-discovery --example assign [members] [tasks]` (100 and 5,000 if not said).

// Its output is its purpose.
#![allow(clippy::print_stdout)]

use std::{
    env,
    time::{Duration, Instant},
};

use holdfast_discovery::assignor::{AssignorSettings, Member, Outcome, assign};
use holdfast_types::{Endpoint, InstanceInfo, MemberAssignment, ProcessId, SubtopologySpec};
use uuid::Uuid;

/// Runs of which the median counts.
const RUNS: usize = 9;

fn member(number: usize, subtopologies: &[SubtopologySpec]) -> Member {
    let process_id = ProcessId(Uuid::from_u128(number as u128 + 1));
    let host = format!("10.0.{}.{}", number / 250, number % 250);
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

/// Bytes of the map that each member gets.
fn map_bytes(members: &[Member], outcome: &Outcome) -> usize {
    let map: Vec<MemberAssignment> = members
        .iter()
        .zip(&outcome.tasks)
        .map(|(member, tasks)| MemberAssignment {
            instance: member.instance.clone(),
            active: tasks.active.clone(),
            standby: tasks.standby.clone(),
            warmup: tasks.warmup.clone(),
        })
        .collect();
    serde_json::to_vec(&map).map_or(0, |bytes| bytes.len())
}

fn main() {
    let mut arguments = env::args().skip(1).map_while(|argument| argument.parse::<usize>().ok());
    let (size, tasks) = (arguments.next().unwrap_or(100), arguments.next().unwrap_or(5_000));
    let partitions = i32::try_from(tasks / 4).unwrap_or(i32::MAX);
    let subtopologies: Vec<SubtopologySpec> = (0..4)
        .map(|id| SubtopologySpec {
            id,
            fingerprint: format!("{id:016x}"),
            source_topics: vec![format!("items-{id}").into()],
            stores: if id == 3 { Vec::new() } else { vec![format!("store-{id}").into()] },
            partitions,
        })
        .collect();
    let settings = AssignorSettings { num_standby_replicas: 1, ..AssignorSettings::default() };
    println!("{size} members, {} tasks, 1 standby, 3 zones", partitions * 4);

    let mut members: Vec<Member> = (0..size).map(|number| member(number, &subtopologies)).collect();
    let outcome = measure("a group that has nothing", &members, &settings);
    carry_out(&mut members, outcome);
    let outcome = measure("nothing changed", &members, &settings);
    let bytes = map_bytes(&members, &outcome);
    measure("one member died", &members[1..], &settings);
    let mut more = members.clone();
    more.push(member(size, &subtopologies));
    measure("one member more", &more, &settings);
    let mut alone = vec![members[0].clone()];
    let outcome = assign(&alone, &[], &settings);
    carry_out(&mut alone, outcome);
    alone.extend((1..size).map(|number| member(number, &subtopologies)));
    measure("all others join one", &alone, &settings);
    println!(
        "the map: {:.1} KiB to each member, {:.1} MiB to all",
        bytes as f64 / 1024.0,
        (bytes * size) as f64 / 1_048_576.0
    );
}
