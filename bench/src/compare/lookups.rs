//! What a service that stands is measured for: look-ups, its start on kept state, freshness. Three sections share its state.

use holdfast_tests::{process::Process, rest::metric};

use super::{
    Show,
    bench::Bench,
    case::{Case, Contender, Goal, Metric},
    cluster::wait,
    ingest::common,
    server::{Kind, Server, Site},
};
use crate::{
    background::Background,
    error::{Error, Result},
    figures::Figures,
    floor, generate,
    load::http::Get,
    workload::{Topology, WorkloadFlags},
};

const TOPIC: &str = "items-served";
const PARTITIONS: i32 = 6;
/// Records a second beside look-ups and probes.
const RATE: u64 = 10_000;
/// The generic route of this project; the inventory's own is served by all.
const GENERIC: &str = "/v1/stores/ItemStock/keys/";
const DOMAIN: &str = "/api/v1/items/";

const LOOKUPS: &[Metric] = &[
    Metric::more("requests_per_s", "requests/s"),
    Metric::less("p50_us", "median latency, µs"),
    Metric::less("p99_us", "99th percentile, µs"),
    Metric::less("cpu_us_per_request", "the server's processor time per request, µs"),
    Metric::less("rss_mib", "resident memory, MiB"),
];
const LOOKUP_GOALS: &[Goal] = &[
    Goal::times("requests_per_s", 0.85, "floor"),
    Goal::times("requests_per_s", 1.2, "peer"),
    Goal::at_most_times("p99_us", 1.3, "floor"),
    Goal::at_most_times("cpu_us_per_request", 0.75, "peer"),
];
/// After SIGTERM, and after SIGKILL.
const STARTS: [&str; 2] = ["kept-state", "killed"];
const START_METRICS: &[Metric] = &[
    Metric::less("ready_s", "from the start of the process until ready, s"),
    Metric::less("join_s", "of which from the first JoinGroup until the assignment, s"),
    Metric::less("ready_without_join_s", "until ready without that, s"),
];
const START_GOALS: &[Goal] = &[Goal::at_most("ready_without_join_s", 1.0)];
const FRESHNESS: &[Metric] = &[
    Metric::less("p50_ms", "median, ms"),
    Metric::less("p99_ms", "99th percentile, ms"),
    Metric::less("max_ms", "longest, ms"),
    Metric::more("records_per_s", "records/s beside it"),
    Metric::less("cpu_us_per_record", "the server's processor time per record, probes and look-ups included, µs"),
    Metric::less("rss_mib", "resident memory, MiB"),
];
const FRESHNESS_GOALS: &[Goal] = &[Goal::at_most("p50_ms", 120.0), Goal::at_most("p99_ms", 300.0)];

/// A case of look-ups.
struct Lookup {
    name: &'static str,
    title: &'static str,
    grpc: bool,
    callers: u32,
    ingesting: bool,
}

impl Lookup {
    const fn idle(name: &'static str, title: &'static str, grpc: bool, callers: u32) -> Self {
        Self { name, title, grpc, callers, ingesting: false }
    }

    const fn ingesting(name: &'static str, title: &'static str, grpc: bool, callers: u32) -> Self {
        Self { name, title, grpc, callers, ingesting: true }
    }
}

const CASES: [Lookup; 8] = [
    Lookup::idle("rest-64", "REST, 64 callers", false, 64),
    Lookup::idle("rest-1", "REST, 1 caller", false, 1),
    Lookup::ingesting("rest-64-ingesting", "REST, 64 callers", false, 64),
    Lookup::ingesting("rest-1-ingesting", "REST, 1 caller", false, 1),
    Lookup::idle("grpc-64", "gRPC, 64 callers on 4 connections", true, 64),
    Lookup::idle("grpc-1", "gRPC, 1 caller", true, 1),
    Lookup::ingesting("grpc-64-ingesting", "gRPC, 64 callers on 4 connections", true, 64),
    Lookup::ingesting("grpc-1-ingesting", "gRPC, 1 caller", true, 1),
];

/// The sections start, lookups and freshness.
pub(crate) fn served(bench: &Bench, show: &mut Show<'_>) -> Result<()> {
    let lookups = CASES.iter().any(|case| show.wants("lookups", case.name));
    if !lookups && !STARTS.iter().any(|name| show.wants("start", name)) && !show.wants("freshness", "rest") {
        return Ok(());
    }
    let workload = WorkloadFlags::tables(bench.sizes.lookup_rows);
    eprintln!("# writing {} items and building the tables …", workload.records);
    bench.runtime.block_on(generate::records(&bench.broker, TOPIC, Topology::Both, PARTITIONS, &workload))?;
    let mut kinds = vec![Kind::Holdfast, Kind::FloorRest, Kind::FloorGrpc];
    if bench.peer.is_some() {
        kinds.push(Kind::Peer);
    }
    let sites: Vec<_> = kinds.into_iter().map(|kind| Site::new(bench, kind, TOPIC, &workload)).collect();
    for site in &sites {
        let server = site.start_caught_up()?;
        site.stop(server);
    }
    start(bench, show, &sites, &workload)?;
    for case in &CASES {
        look_up(bench, show, &sites, &workload, case)?;
    }
    freshness(bench, show, &sites)?;
    sites.iter().try_for_each(Site::remove)?;
    bench.delete_topic(TOPIC)
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Holdfast => "holdfast",
        Kind::FloorRest => "floor (axum)",
        Kind::FloorGrpc => "floor (tonic)",
        Kind::Peer => "peer",
    }
}

/// Starts on the state that an earlier life left: one that was stopped, and one that was killed at work.
fn start(bench: &Bench, show: &mut Show<'_>, sites: &[Site<'_>], workload: &WorkloadFlags) -> Result<()> {
    let state = format!("kept state ({} and {} rows)", workload.keys, workload.skus);
    let cases = [
        (STARTS[0], format!("start on {state} after SIGTERM, until ready"), false),
        (STARTS[1], format!("start on {state} after SIGKILL beside {RATE} records/s, until ready"), true),
    ];
    for (name, title, killed) in cases {
        // What is killed is a process that has input.
        let sites = sites.iter().filter(|site| if killed { site.has_input() } else { site.kind != Kind::FloorGrpc });
        let contenders = sites.map(|site| {
            Contender::new(self::name(site.kind), move |_| {
                if killed {
                    kill_at_work(bench, site)?;
                }
                let server = site.start()?;
                let mut figures = Figures::new();
                figures.number("ready_s", server.ready_s);
                if site.kind == Kind::Holdfast {
                    let join_s = join_s(bench, &server)?;
                    figures.number("join_s", join_s);
                    figures.number("ready_without_join_s", server.ready_s - join_s);
                }
                site.stop(server);
                Ok(figures)
            })
        });
        let contenders = contenders.collect();
        show.case("start", Case { name, title, metrics: START_METRICS, goals: START_GOALS, contenders })?;
    }
    Ok(())
}

/// Lets it work on new records for a while, and ends it with SIGKILL.
fn kill_at_work(bench: &Bench, site: &Site<'_>) -> Result<()> {
    let mut server = site.start_caught_up()?;
    let background = Background::start(bench.broker.bootstrap(), TOPIC, RATE)?;
    let enough = (bench.sizes.seconds * RATE as f64) as u64;
    wait("records beside it", || Ok(background.sent() >= enough))?;
    server.kill();
    Ok(())
}

/// How long the group took to let a server in.
fn join_s(bench: &Bench, server: &Server) -> Result<f64> {
    let asked = async { Get::connect(server.address, "/metrics").await?.get("").await };
    let (_, body) = bench.runtime.block_on(asked)?;
    let text = String::from_utf8_lossy(&body);
    let joined = |what: &str| metric(&text, &format!("holdfast_group_join_duration_seconds_{what}"), &[]);
    match (joined("count"), joined("sum")) {
        (Some(1.0), Some(sum)) => Ok(sum),
        // Of a later join it is not known what waited for it.
        (count, sum) => Err(Error::other(format!("it joined {count:?} times until it was ready, in {sum:?} s"))),
    }
}

fn look_up(
    bench: &Bench,
    show: &mut Show<'_>,
    sites: &[Site<'_>],
    workload: &WorkloadFlags,
    case: &'static Lookup,
) -> Result<()> {
    if !show.wants("lookups", case.name) {
        return Ok(());
    }
    let mut contenders = Vec::new();
    for site in sites {
        // The peer has no gRPC.
        let (label, path) = match (site.kind, case.grpc) {
            (Kind::Holdfast, false) => ("holdfast", DOMAIN),
            (Kind::Holdfast, true) => ("holdfast", ""),
            (Kind::FloorRest, false) | (Kind::FloorGrpc, true) => (name(site.kind), DOMAIN),
            (Kind::Peer, false) => ("peer", DOMAIN),
            _ => continue,
        };
        contenders.push(Contender::new(label, move |_| load(bench, site, workload, case, path)));
        if site.kind == Kind::Holdfast && !case.grpc {
            contenders
                .push(Contender::new("holdfast, /v1/stores", move |_| load(bench, site, workload, case, GENERIC)));
        }
    }
    let beside = if case.ingesting {
        ", beside 10,000 records/s (floor: worked off by the hand-written loop in a process of its own, and 10,000 rows/s into the \
         RocksDB that answers)"
    } else {
        ""
    };
    let title = format!("{}{beside}; {} rows of 50 bytes", case.title, workload.skus);
    show.case("lookups", Case { name: case.name, title, metrics: LOOKUPS, goals: LOOKUP_GOALS, contenders })
}

fn load(bench: &Bench, site: &Site<'_>, workload: &WorkloadFlags, case: &Lookup, path: &str) -> Result<Figures> {
    // A floor has no input: another process works it off, and it writes as many rows by itself.
    let by_hand = case.ingesting && !site.has_input();
    let writing = site.with(&["--write-rate", &RATE.to_string()]);
    let follower = if by_hand { Some(Follower::start(bench, workload)?) } else { None };
    let server = if by_hand { writing.start()? } else { site.start_caught_up()? };
    // A JVM compiles what it serves first.
    let warm_up = if site.kind == Kind::Peer { bench.sizes.seconds } else { (bench.sizes.seconds / 5.0).min(1.0) };
    let mut arguments: Vec<String> = [
        ("--protocol", if case.grpc { "grpc" } else { "rest" }.to_owned()),
        ("--address", server.address.to_string()),
        ("--pid", server.pid().to_string()),
        ("--callers", case.callers.to_string()),
        ("--warm-up-s", warm_up.to_string()),
        ("--seconds", bench.sizes.seconds.to_string()),
        ("--ingest-rate", if case.ingesting { RATE } else { 0 }.to_string()),
        ("--bootstrap", bench.broker.bootstrap().to_owned()),
        ("--topic", TOPIC.to_owned()),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect();
    if !path.is_empty() {
        arguments.extend(["--path".to_owned(), path.to_owned()]);
    }
    arguments.extend(workload.arguments());
    let figures = bench.own("load", &arguments);
    site.stop(server);
    if let Some(follower) = follower {
        follower.remove(bench)?;
    }
    figures
}

/// The hand-written loop, which works off what comes.
struct Follower {
    application_id: String,
    process: Process,
}

impl Follower {
    /// Starts it and waits until it follows.
    fn start(bench: &Bench, workload: &WorkloadFlags) -> Result<Self> {
        let application_id = bench.name("follower");
        let mut arguments = common(bench, (Topology::Both, TOPIC), workload, &application_id);
        arguments.extend(["--follow", "--rows", "end"].map(str::to_owned));
        let mut process = bench.start_own("floor-ingest", &arguments);
        wait("the hand-written loop", || match process.exited() {
            Some(status) => Err(Error::other(format!("the hand-written loop ended with {status}\n{}", process.tail()))),
            None => Ok(process.log().contains(floor::FOLLOWS)),
        })?;
        Ok(Self { application_id, process })
    }

    fn remove(mut self, bench: &Bench) -> Result<()> {
        self.process.kill();
        bench.clean(&self.application_id)
    }
}

fn freshness(bench: &Bench, show: &mut Show<'_>, sites: &[Site<'_>]) -> Result<()> {
    if !show.wants("freshness", "rest") {
        return Ok(());
    }
    let contenders = sites.iter().filter(|site| site.has_input()).map(|site| {
        Contender::new(name(site.kind), move |_| {
            let server = site.start_caught_up()?;
            let arguments: Vec<String> = [
                ("--bootstrap", bench.broker.bootstrap().to_owned()),
                ("--topic", TOPIC.to_owned()),
                ("--address", server.address.to_string()),
                ("--pid", server.pid().to_string()),
                ("--rate", RATE.to_string()),
                ("--seconds", bench.sizes.freshness_seconds.to_string()),
            ]
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect();
            let figures = bench.own("freshness", &arguments);
            site.stop(server);
            figures
        })
    });
    let contenders = contenders.collect();
    let title = "from a record's acknowledgement until REST shows it, at 10,000 records/s, exactly-once (the peer shows rows \
                 before they are committed)";
    show.case(
        "freshness",
        Case { name: "rest", title: title.to_owned(), metrics: FRESHNESS, goals: FRESHNESS_GOALS, contenders },
    )
}
