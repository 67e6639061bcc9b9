//! Time that the leader takes to assign, and that a key takes to find its owner.

use std::{hint::black_box, time::Instant};

use holdfast_discovery::{
    assignor::{Member, Outcome, assign},
    routing::RoutingSnapshot,
};
use holdfast_types::{Assignment, MemberAssignment, SubtopologySpec};

use super::{carry_out, member, settings};
use crate::{error::Result, figures::Figures};

/// Assignments of each kind, of which the median counts.
const TIMES: usize = 9;
const KEYS: usize = 100_000;

pub(super) fn run(size: usize, subtopologies: &[SubtopologySpec]) -> Result<Figures> {
    let mut figures = Figures::new();
    let mut members: Vec<Member> = (0..size).map(|number| member(number, subtopologies)).collect();
    let outcome = timed(&mut figures, "empty_ms", &members);
    carry_out(&mut members, outcome);
    let outcome = timed(&mut figures, "settled_ms", &members);
    let found = route(&mut figures, &members, &outcome, subtopologies);
    timed(&mut figures, "died_ms", members.get(1..).unwrap_or_default());
    let mut more = members.clone();
    more.push(member(size, subtopologies));
    timed(&mut figures, "joined_ms", &more);
    let mut others = members;
    others.truncate(1);
    let outcome = assign(&others, &[], &settings());
    carry_out(&mut others, outcome);
    others.extend((1..size).map(|number| member(number, subtopologies)));
    timed(&mut figures, "others_ms", &others);
    figures.set("correct", found == KEYS);
    Ok(figures)
}

/// The median time of an assignment, and what it came to.
fn timed(figures: &mut Figures, name: &str, members: &[Member]) -> Outcome {
    let settings = settings();
    let mut times = Vec::with_capacity(TIMES);
    let mut outcome = Outcome::default();
    for _ in 0..TIMES {
        let began = Instant::now();
        outcome = assign(black_box(members), &[], &settings);
        times.push(began.elapsed());
    }
    times.sort_unstable();
    figures.number(name, times.get(TIMES / 2).map_or(0.0, |median| median.as_secs_f64() * 1e3));
    outcome
}

/// Times keys on their way to their owners; how many have one.
fn route(figures: &mut Figures, members: &[Member], outcome: &Outcome, subtopologies: &[SubtopologySpec]) -> usize {
    let held = members.iter().zip(&outcome.tasks).map(|(member, tasks)| MemberAssignment {
        instance: member.instance.clone(),
        active: tasks.active.clone(),
        standby: tasks.standby.clone(),
        warmup: tasks.warmup.clone(),
    });
    let (active, standby, warmup) = (Vec::new(), Vec::new(), Vec::new());
    let assignment = Assignment { generation: 1, tenure: 0, active, standby, warmup, members: held.collect() };
    let snapshot = RoutingSnapshot::of(&assignment, subtopologies);
    let keys: Vec<String> = (0..KEYS).map(|number| format!("Store_{number:08}")).collect();
    let began = Instant::now();
    let owned = keys.iter().filter(|key| {
        let route = snapshot.route_key(black_box("store-1"), key.as_bytes());
        route.is_ok_and(|route| black_box(&route.active).is_some())
    });
    let found = owned.count();
    figures.number("route_ns", began.elapsed().as_secs_f64() * 1e9 / KEYS as f64);
    found
}
