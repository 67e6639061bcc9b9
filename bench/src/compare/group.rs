//! A large group, without a broker: assignments, the way of a key to its owner, and what the members send each other.

use super::{
    Show,
    bench::Bench,
    case::{Case, Contender, Goal, Metric},
};
use crate::{error::Result, figures::Figures};

const SECTION: &str = "group";
const MEMBERS: u32 = 100;
const TASKS: u32 = 5_000;
const TASKS_EACH: u32 = 50;

const ASSIGNING: &[Metric] = &[
    Metric::less("empty_ms", "an assignment where nobody has anything, ms"),
    Metric::less("settled_ms", "the same where nothing has changed, ms"),
    Metric::less("died_ms", "one instance less, ms"),
    Metric::less("joined_ms", "one instance more, ms"),
    Metric::less("others_ms", "all others join the one that has everything, ms"),
    Metric::less("route_ns", "a key's way to its owner, ns"),
];
const ASSIGNING_GOALS: &[Goal] = &[
    Goal::at_most("empty_ms", 50.0),
    Goal::at_most("settled_ms", 50.0),
    Goal::at_most("died_ms", 50.0),
    Goal::at_most("joined_ms", 50.0),
    Goal::at_most("others_ms", 50.0),
    Goal::at_most("route_ns", 200.0),
];

const TRAFFIC: &[Metric] = &[
    Metric::less("reports_kib_per_s", "reports that each instance sends, asking and answering, KiB/s"),
    Metric::less("questions_per_s", "questions for them that each asks, 1/s"),
    Metric::less("rebalance_kib", "a rebalance, subscription and assignment of each, KiB"),
    Metric::less("group_kib", "the whole group as the coordinator keeps it, KiB"),
    Metric::less("group_plain_kib", "the same with assignments in form 1, KiB"),
    Metric::less("leader_ms", "the leader reads all, assigns and writes all, ms"),
];

/// Groups of the curve.
const CURVE: [(&str, u32); 6] = [
    ("3 instances", 3),
    ("10 instances", 10),
    ("25 instances", 25),
    ("50 instances", 50),
    ("75 instances", 75),
    ("100 instances", 100),
];

/// Assignments, and the curves: the same work by more instances, and more work by more instances.
pub(crate) fn group(bench: &Bench, show: &mut Show<'_>) -> Result<()> {
    let title = format!("{MEMBERS} instances, {TASKS} tasks, one standby, 3 zones");
    let contenders = vec![Contender::new("holdfast", |_| run(bench, "assigning", MEMBERS, TASKS))];
    show.case(SECTION, Case { name: "assign", title, metrics: ASSIGNING, goals: ASSIGNING_GOALS, contenders })?;

    let curves = [
        ("traffic", format!("messages of the members, {TASKS} tasks in all, one standby"), None),
        (
            "traffic-each",
            format!("messages of the members, {TASKS_EACH} tasks for each, one standby"),
            Some(TASKS_EACH),
        ),
    ];
    for (name, title, each) in curves {
        let contenders = CURVE.map(|(label, members)| {
            let tasks = each.map_or(TASKS, |each| each * members);
            Contender::new(label, move |_| run(bench, "traffic", members, tasks))
        });
        show.case(SECTION, Case { name, title, metrics: TRAFFIC, goals: &[], contenders: contenders.into() })?;
    }
    Ok(())
}

fn run(bench: &Bench, of: &str, members: u32, tasks: u32) -> Result<Figures> {
    bench.own("group", &[of, "--members", &members.to_string(), "--tasks", &tasks.to_string()].map(str::to_owned))
}
