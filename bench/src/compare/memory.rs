//! Memory under a limit: more keys than fit are counted, as fast as it goes, and while they are asked for.

use std::time::{Duration, Instant};

use holdfast_tests::wait;
use serde_json::Value;

use super::{
    Show,
    bench::Bench,
    case::{Case, Contender, Goal, Metric},
    ingest::{self, CHANGELOG, CPU, Input, PEAK, RATE, Section},
    server::{Kind, Server, Site},
    steady::{self, Asked, Steady},
};
use crate::{
    error::{Error, Result},
    figures::Figures,
    load::http::Get,
    usage::Usage,
    workload::{Distribution, Expected, Topology, WorkloadFlags},
};

const MANY_KEYS: &str = "many-keys";
const SERVED: &str = "served";

const SETTING: &str = "memory_limit=256MiB";
const PER_MILLION: Metric = Metric::less("peak_rss_mib_per_million_keys", "the same per million keys, MiB");
const SECTION: Section =
    Section { name: "memory", metrics: &[RATE, CPU, PEAK, PER_MILLION, CHANGELOG], settings: &[SETTING] };

const SERVED_METRICS: &[Metric] = &[
    Metric::more(RATE.figure, "records/s from the start of the process until committed"),
    Metric::less(CPU.figure, "processor time per record, look-ups included, µs"),
    PEAK,
    PER_MILLION,
    steady::RATE,
    steady::FAILED,
    steady::MEDIAN,
    steady::P99,
];

/// The most resident memory under that limit, MiB.
const RESIDENT: f64 = 320.0;
const MANY_KEYS_GOALS: &[Goal] = &[
    Goal::times(RATE.figure, 3.0, "peer"),
    Goal::at_most(PEAK.figure, RESIDENT),
    Goal::at_most_times(PEAK.figure, 0.25, "peer"),
];
const SERVED_GOALS: &[Goal] = &[
    Goal::at_most(PEAK.figure, RESIDENT),
    Goal::at_most_times(PEAK.figure, 0.25, "peer"),
    Goal::at_most(steady::FAILED.figure, 0.0),
];

/// Look-ups a second.
const LOOK_UPS: u32 = 3_000;
/// Longest time that working off the backlog may take.
const LIMIT: Duration = Duration::from_secs(1_800);
/// Rows that are compared in the end.
const COMPARED: usize = 2_000;

/// The counts with more keys than the memory holds.
pub(crate) fn memory(bench: &Bench, show: &mut Show<'_>) -> Result<()> {
    if ![MANY_KEYS, SERVED].iter().any(|name| show.wants(SECTION.name, name)) {
        return Ok(());
    }
    let sizes = bench.sizes;
    let workload = WorkloadFlags {
        records: sizes.memory_records,
        keys: sizes.memory_keys,
        skus: 20,
        seed: 42,
        dist: Distribution::Uniform,
        theta: 0.99,
    };
    let title = format!(
        "count of {} records over {} keys, holdfast with {SETTING}, peer with a heap of 2 GiB at most",
        workload.records, workload.keys
    );
    let cases = &[(MANY_KEYS, &ingest::MANY_KEYS, MANY_KEYS_GOALS)];
    let input = Input { topology: Topology::Count, topic: "events-memory", title, workload, cases };
    ingest::fill(bench, &input)?;
    ingest::cases(bench, show, &SECTION, &input)?;
    served(bench, show, &input)?;
    bench.delete_topic(input.topic)
}

/// The same by whole services, which are asked for the rows all the while.
fn served(bench: &Bench, show: &mut Show<'_>, input: &Input) -> Result<()> {
    let mut contenders = vec![Contender::new("holdfast", |_| serve(bench, Kind::Holdfast, input))];
    if bench.peer.is_some() {
        contenders.push(Contender::new("peer", |_| serve(bench, Kind::Peer, input)));
    }
    let title = format!("{}; exactly-once, defaults, beside {LOOK_UPS} look-ups/s of random keys by REST", input.title);
    show.case(SECTION.name, Case { name: SERVED, title, metrics: SERVED_METRICS, goals: SERVED_GOALS, contenders })
}

fn serve(bench: &Bench, kind: Kind, input: &Input) -> Result<Figures> {
    let (flags, path): (&[&str], _) = match kind {
        Kind::Peer => (&[], "/api/v1/counts/"),
        _ => (&["--set", SETTING], "/v1/stores/Counts/keys/"),
    };
    let site = Site::new(bench, kind, input.topic, &input.workload).counting().instance(0, flags);
    let server = site.start()?;
    let figures = work_off(bench, &site, &server, input, path);
    site.stop(server);
    site.remove()?;
    figures
}

fn work_off(bench: &Bench, site: &Site<'_>, server: &Server, input: &Input, path: &str) -> Result<Figures> {
    let (usage, workload) = (Usage::of(server.pid()), &input.workload);
    // Some tasks process before the instance is ready.
    let so_far = Duration::from_secs_f64(server.ready_s);
    let began = Instant::now();
    let look_ups = Steady::start(
        bench,
        Asked { address: server.address, path: path.to_owned(), keys: workload.keys, rate: LOOK_UPS },
    );
    let progress = site.progress()?;
    let committed = || match progress.missing() {
        Ok(0) => Ok(Ok(())),
        Ok(missing) => Err(missing),
        Err(error) => Ok(Err(error)),
    };
    wait::try_until(LIMIT, committed)
        .unwrap_or_else(|missing| Err(Error::other(format!("{missing} records are not committed after {LIMIT:?}"))))?;
    let (seconds, cpu_s) = ((so_far + began.elapsed()).as_secs_f64(), usage.cpu_s()?);
    let mut figures = Figures::new();
    figures.number(RATE.figure, workload.records as f64 / seconds);
    figures.number(CPU.figure, cpu_s * 1e6 / workload.records as f64);
    figures.number(PEAK.figure, usage.peak_rss_mib()?);
    let failed = look_ups.stop(bench, &mut figures)?;
    let wrong = bench.runtime.block_on(compare(server, path, workload))?;
    figures.set("wrong", wrong);
    // The peer's look-ups may fail, which is what is measured.
    figures.set("correct", wrong == 0 && (site.kind == Kind::Peer || failed == 0));
    Ok(ingest::per_million_keys(figures, workload))
}

/// Compares rows, spread over all, with what they must be; how many are wrong.
async fn compare(server: &Server, path: &str, workload: &WorkloadFlags) -> Result<u64> {
    let expected: Vec<_> = Expected::new(Topology::Count, workload).keys().collect();
    // What is committed is to be seen; the peer, which shows rows before that, does not look at it.
    let mut caller = Get::connect(server.address, path).await?.with_query("?consistency=strong");
    let mut wrong = 0;
    for (key, count) in expected.iter().step_by((expected.len() / COMPARED).max(1)) {
        let (_, body) = caller.get(key).await?;
        let answer: Value = serde_json::from_slice(&body)?;
        let found = answer.pointer("/value").or_else(|| answer.pointer("/result/count"));
        wrong += u64::from(found.and_then(Value::as_i64) != Some(*count));
    }
    Ok(wrong)
}
