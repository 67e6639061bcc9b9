//! Ingest: how fast a fresh application works through a full topic, and what it takes for that.

use super::{
    Show,
    bench::{Bench, Peer},
    case::{Case, Contender, Goal, Metric},
    sweep::{Sweep, Tries},
};
use crate::{
    error::Result,
    figures::Figures,
    generate,
    ours::Guarantee,
    workload::{Distribution, Topology, WorkloadFlags},
};

/// Partitions of the inputs: two tasks' worth for each of three processors, and more than one for most machines.
const PARTITIONS: i32 = 6;

pub(super) const RATE: Metric = Metric::more("records_per_s", "records/s until committed");
pub(super) const CPU: Metric = Metric::less("cpu_us_per_record", "processor time per record, µs");
pub(super) const PEAK: Metric = Metric::less("peak_rss_mib", "peak resident memory, MiB");
pub(super) const CHANGELOG: Metric = Metric::less("changelog_records", "changelog records");

/// Against the peer: with one commit interval for all, and where each side has its best settings.
const TIMES_PEER_3_5: Goal = Goal::times(RATE.figure, 3.5, "peer");
const TIMES_PEER_4: Goal = Goal::times(RATE.figure, 4.0, "peer");
const TIMES_PEER_5: Goal = Goal::times(RATE.figure, 5.0, "peer");
/// With keys by Zipf.
const TIMES_PEER_3: Goal = Goal::times(RATE.figure, 3.0, "peer");
const AS_FAST_AS_FLOOR: Goal = Goal::times(RATE.figure, 1.0, "floor");
const QUARTER: Goal = Goal::at_most_times(PEAK.figure, 0.25, "peer");

const SECTION: Section = Section { name: "ingest", metrics: &[RATE, CPU, PEAK, CHANGELOG], settings: &[] };

/// How the cases of a section are run and shown.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) metrics: &'static [Metric],
    /// Settings of ours beside those of a case.
    pub(super) settings: &'static [&'static str],
}

/// How a case commits, in each contender's words.
pub(super) struct Commit {
    title: &'static str,
    guarantee: Guarantee,
    ours: &'static [&'static str],
    floor_ms: u64,
    floor_once: bool,
    peer: Tries,
}

/// Record caches that the peer's README tells to measure, MiB: which one wins depends on the number of keys.
const CACHES: &[u32] = &[0, 64, 256];
const EXACTLY_ONCE: &str = "exactly_once_v2";

const FIXED: Commit = Commit {
    title: "exactly-once, all commit every 100 ms",
    guarantee: Guarantee::ExactlyOnce,
    ours: &["commit_interval_ms=100", "backlog_commit_interval_ms=100"],
    floor_ms: 100,
    floor_once: false,
    peer: Tries { guarantee: EXACTLY_ONCE, commit_ms: &[100], cache_mib: CACHES },
};

const DEFAULTS: Commit = Commit {
    title: "exactly-once, defaults (floor: commit every 1 s; peer: its best settings)",
    guarantee: Guarantee::ExactlyOnce,
    ours: &[],
    floor_ms: 1_000,
    floor_once: true,
    peer: Tries { guarantee: EXACTLY_ONCE, commit_ms: &[100, 1_000, 30_000], cache_mib: CACHES },
};

/// The same for more keys than a cache of the peer's holds: it only costs there.
pub(super) const MANY_KEYS: Commit =
    Commit { peer: Tries { guarantee: EXACTLY_ONCE, commit_ms: &[100, 30_000], cache_mib: &[0, 64] }, ..DEFAULTS };

const AT_LEAST_ONCE: Commit = Commit {
    title: "at-least-once, best settings (floor: commit every 1 s)",
    guarantee: Guarantee::AtLeastOnce,
    ours: &[],
    floor_ms: 1_000,
    floor_once: false,
    // The interval is its default.
    peer: Tries { guarantee: "at_least_once", commit_ms: &[30_000], cache_mib: CACHES },
};

/// A topic's content, and the cases that read it.
pub(super) struct Input {
    pub(super) topology: Topology,
    pub(super) topic: &'static str,
    pub(super) workload: WorkloadFlags,
    pub(super) cases: &'static [(&'static str, &'static Commit, &'static [Goal])],
    pub(super) title: String,
}

/// The counts and the inventory.
pub(crate) fn ingest(bench: &Bench, show: &mut Show<'_>) -> Result<()> {
    let sizes = bench.sizes;
    let counts =
        |dist| WorkloadFlags { records: sizes.records, keys: sizes.keys, skus: 20, seed: 42, dist, theta: 0.99 };
    let items = WorkloadFlags { records: sizes.items, keys: sizes.stores, ..counts(Distribution::Uniform) };
    let inputs = [
        Input {
            topology: Topology::Count,
            topic: "events-uniform",
            title: format!("count of {} records of 20 bytes over {} keys, uniform", sizes.records, sizes.keys),
            workload: counts(Distribution::Uniform),
            cases: &[
                ("count-uniform-eo-100ms", &FIXED, &[TIMES_PEER_3_5, AS_FAST_AS_FLOOR, QUARTER]),
                ("count-uniform-eo-defaults", &DEFAULTS, &[TIMES_PEER_5, QUARTER]),
                ("count-uniform-alo-best", &AT_LEAST_ONCE, &[QUARTER]),
            ],
        },
        Input {
            topology: Topology::Count,
            topic: "events-zipf",
            title: format!("count of {} records of 20 bytes over {} keys, zipf 0.99", sizes.records, sizes.keys),
            workload: counts(Distribution::Zipf),
            cases: &[
                ("count-zipf-eo-100ms", &FIXED, &[TIMES_PEER_3, AS_FAST_AS_FLOOR, QUARTER]),
                ("count-zipf-eo-defaults", &DEFAULTS, &[TIMES_PEER_3, QUARTER]),
                ("count-zipf-alo-best", &AT_LEAST_ONCE, &[QUARTER]),
            ],
        },
        Input {
            topology: Topology::Both,
            topic: "items-ingest",
            title: format!(
                "inventory of {} records of 160 bytes over {} stores and {} skus, JSON, both tables",
                sizes.items, items.keys, items.skus
            ),
            workload: items,
            cases: &[
                ("inventory-eo-100ms", &FIXED, &[TIMES_PEER_4, AS_FAST_AS_FLOOR, QUARTER]),
                ("inventory-eo-defaults", &DEFAULTS, &[TIMES_PEER_5, QUARTER]),
                ("inventory-alo-best", &AT_LEAST_ONCE, &[QUARTER]),
            ],
        },
    ];
    for input in inputs {
        if input.cases.iter().any(|(name, ..)| show.wants(SECTION.name, name)) {
            fill(bench, &input)?;
            cases(bench, show, &SECTION, &input)?;
            bench.delete_topic(input.topic)?;
        }
    }
    Ok(())
}

/// Writes the input.
pub(super) fn fill(bench: &Bench, input: &Input) -> Result<()> {
    eprintln!("# writing {} records to {} …", input.workload.records, input.topic);
    let generated = generate::records(&bench.broker, input.topic, input.topology, PARTITIONS, &input.workload);
    bench.runtime.block_on(generated).map(drop)
}

/// The cases of an input that has been written.
pub(super) fn cases(bench: &Bench, show: &mut Show<'_>, section: &Section, input: &Input) -> Result<()> {
    bench.warm_up(|| floor(bench, input, &FIXED, "commit").map(drop))?;
    for (name, commit, goals) in input.cases {
        let mut contenders = vec![
            Contender::new("holdfast", move |_| ours(bench, input, commit, section.settings)),
            Contender::new("floor", move |_| floor(bench, input, commit, "commit")),
        ];
        if commit.floor_once {
            contenders.push(Contender::new("floor, rows written once", move |_| floor(bench, input, commit, "end")));
        }
        if let Some(program) = &bench.peer {
            let at_most = if bench.flags.quick { 2 } else { usize::MAX };
            let mut sweep =
                Sweep::new(commit.peer, at_most, move |flags: &[String]| peer(bench, program, input, flags));
            contenders.push(Contender::new("peer", move |_| sweep.run()));
        }
        let title = format!("{}; {}", input.title, commit.title);
        show.case(section.name, Case { name, title, metrics: section.metrics, goals, contenders })?;
    }
    Ok(())
}

/// What every contender is told.
pub(super) fn common(
    bench: &Bench,
    (topology, topic): (Topology, &str),
    workload: &WorkloadFlags,
    application_id: &str,
) -> Vec<String> {
    let topology = if topology == Topology::Count { "count" } else { "both" };
    [
        ("--bootstrap", bench.broker.bootstrap().to_owned()),
        ("--topology", topology.to_owned()),
        ("--topic", topic.to_owned()),
        ("--application-id", application_id.to_owned()),
        ("--state-dir", bench.path(application_id).display().to_string()),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .chain(workload.arguments())
    .collect()
}

fn ours(bench: &Bench, input: &Input, commit: &Commit, settings: &[&str]) -> Result<Figures> {
    let application_id = bench.name("ours");
    let mut arguments = common(bench, (input.topology, input.topic), &input.workload, &application_id);
    arguments.extend(["--guarantee".to_owned(), commit.guarantee.names().0.to_owned()]);
    for setting in commit.ours.iter().chain(settings) {
        arguments.extend(["--set".to_owned(), (*setting).to_owned()]);
    }
    let figures = bench.own("ingest", &arguments);
    bench.clean(&application_id)?;
    figures.map(|figures| per_million_keys(figures, &input.workload))
}

fn floor(bench: &Bench, input: &Input, commit: &Commit, rows: &str) -> Result<Figures> {
    let application_id = bench.name("floor");
    let mut arguments = common(bench, (input.topology, input.topic), &input.workload, &application_id);
    let interval = commit.floor_ms.to_string();
    for (flag, value) in
        [("--guarantee", commit.guarantee.names().0), ("--commit-interval-ms", &interval), ("--rows", rows)]
    {
        arguments.extend([flag.to_owned(), value.to_owned()]);
    }
    let figures = bench.own("floor-ingest", &arguments);
    bench.clean(&application_id)?;
    figures.map(|figures| per_million_keys(figures, &input.workload))
}

fn peer(bench: &Bench, peer: &Peer, input: &Input, flags: &[String]) -> Result<Figures> {
    let application_id = bench.name("peer");
    let mut arguments = common(bench, (input.topology, input.topic), &input.workload, &application_id);
    for (flag, output) in [("--store-output", "store"), ("--item-output", "item")] {
        arguments.extend([flag.to_owned(), format!("{application_id}-{output}-output")]);
    }
    arguments.extend_from_slice(flags);
    let figures = bench.peer(peer, "ingest", &arguments);
    bench.clean(&application_id)?;
    figures.map(|figures| per_million_keys(figures, &input.workload))
}

/// Adds the peak of memory for a million keys, where there is a peak.
pub(super) fn per_million_keys(mut figures: Figures, workload: &WorkloadFlags) -> Figures {
    if let Some(peak) = figures.get(PEAK.figure) {
        figures.number("peak_rss_mib_per_million_keys", peak * 1e6 / f64::from(workload.keys));
    }
    figures
}
