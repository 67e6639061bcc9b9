//! What a strong read costs over a bounded one: a heartbeat that the coordinator answers, shared by all who wait for it.

use super::{
    Show,
    bench::Bench,
    case::{Case, Contender, Metric},
    server::{Kind, Site},
};
use crate::{
    error::Result,
    figures::Figures,
    generate,
    workload::{Topology, WorkloadFlags},
};

const TOPIC: &str = "items-strong";
const PARTITIONS: i32 = 6;

const METRICS: &[Metric] = &[
    Metric::more("requests_per_s", "requests/s"),
    Metric::less("p50_us", "median latency, µs"),
    Metric::less("p99_us", "99th percentile, µs"),
    Metric::less("cpu_us_per_request", "the server's processor time per request, µs"),
];

const CASES: [(&str, u32); 2] = [("rest-1", 1), ("rest-64", 64)];

/// Strong reads and bounded ones at one instance.
pub(crate) fn strong(bench: &Bench, show: &mut Show<'_>) -> Result<()> {
    if !CASES.iter().any(|(name, _)| show.wants("strong", name)) {
        return Ok(());
    }
    let workload = WorkloadFlags::tables(bench.sizes.lookup_rows / 10);
    bench.runtime.block_on(generate::records(&bench.broker, TOPIC, Topology::Both, PARTITIONS, &workload))?;
    let site = Site::new(bench, Kind::Holdfast, TOPIC, &workload);
    for (name, callers) in CASES {
        let contenders = ["strong", "bounded"].map(|consistency| {
            let (site, workload) = (&site, &workload);
            Contender::new(consistency, move |_| run(bench, site, workload, callers, consistency))
        });
        let title = format!("reads by consistency, REST, {callers} callers");
        show.case("strong", Case { name, title, metrics: METRICS, goals: &[], contenders: contenders.into() })?;
    }
    site.remove()?;
    bench.delete_topic(TOPIC)
}

fn run(bench: &Bench, site: &Site<'_>, workload: &WorkloadFlags, callers: u32, consistency: &str) -> Result<Figures> {
    let server = site.start_caught_up()?;
    let flags = [
        ("--protocol", "rest".to_owned()),
        ("--address", server.address.to_string()),
        ("--pid", server.pid().to_string()),
        ("--path", "/v1/stores/ItemStock/keys/".to_owned()),
        ("--query", format!("?consistency={consistency}")),
        ("--callers", callers.to_string()),
        ("--warm-up-s", (bench.sizes.seconds / 5.0).min(1.0).to_string()),
        ("--seconds", bench.sizes.seconds.to_string()),
    ];
    let figures = bench.load(&flags, workload);
    site.stop(server);
    figures
}
