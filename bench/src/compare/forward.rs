//! What it costs to ask an instance for what another one has: two instances without standbys, the same one is asked for keys of
//! the other's partitions, and of its own.

use std::net::SocketAddr;

use holdfast_types::partition_for;
use serde_json::Value;

use super::{
    Show,
    bench::Bench,
    case::{Case, Contender, Goal, Metric},
    cluster::{Cluster, wait},
    server::Kind,
};
use crate::{
    error::{Error, Result},
    figures::Figures,
    generate,
    load::http::Get,
    workload::{Expected, Topology, WorkloadFlags},
};

const TOPIC: &str = "items-forward";
const PARTITIONS: i32 = 6;
const INSTANCES: u8 = 2;
const STORE: &str = "ItemStock";

const METRICS: &[Metric] = &[
    Metric::less("p50_us", "median latency, µs"),
    Metric::less("p99_us", "99th percentile, µs"),
    Metric::more("requests_per_s", "requests/s"),
    Metric::more("requests_per_cpu_s", "requests per second of processor time of all instances"),
];
const GOALS: &[Goal] = &[Goal::at_most_times("p50_us", 2.2, "local"), Goal::times("requests_per_cpu_s", 0.45, "local")];

/// Name, protocol, callers.
const CASES: [(&str, &str, u32); 4] =
    [("rest-1", "rest", 1), ("rest-64", "rest", 64), ("grpc-1", "grpc", 1), ("grpc-64", "grpc", 64)];

/// Forwarded look-ups and local ones.
pub(crate) fn forward(bench: &Bench, show: &mut Show<'_>) -> Result<()> {
    if !CASES.iter().any(|(name, ..)| show.wants("forward", name)) {
        return Ok(());
    }
    let workload = WorkloadFlags::tables(bench.sizes.lookup_rows / 10);
    bench.runtime.block_on(generate::records(&bench.broker, TOPIC, Topology::Both, PARTITIONS, &workload))?;
    let cluster = Cluster::start(bench, Kind::Holdfast, TOPIC, &workload, INSTANCES, &[])?;
    cluster.wait_settled(0)?;
    // Whoever has given a task away answers for it until the other one does.
    let address = *cluster.addresses().first().ok_or_else(|| Error::other("nobody runs"))?;
    wait("each instance to answer for what is its own", || {
        let [here, there] = [true, false].map(|here| partitions(bench, address, &workload, here));
        Ok(matches!((here?, there?), (Some(here), Some(there)) if !here.is_empty() && !there.is_empty()))
    })?;
    for (name, protocol, callers) in CASES {
        let contenders = [("forwarded", false), ("local", true)].map(|(label, here)| {
            let (cluster, workload) = (&cluster, &workload);
            Contender::new(label, move |_| run(bench, cluster, workload, protocol, callers, here))
        });
        let title =
            format!("look-ups at another instance than the owner, and at the owner; {protocol}, {callers} callers");
        show.case("forward", Case { name, title, metrics: METRICS, goals: GOALS, contenders: contenders.into() })?;
    }
    cluster.remove()?;
    bench.delete_topic(TOPIC)
}

fn run(
    bench: &Bench,
    cluster: &Cluster<'_>,
    workload: &WorkloadFlags,
    protocol: &str,
    callers: u32,
    here: bool,
) -> Result<Figures> {
    let address = *cluster.addresses().first().ok_or_else(|| Error::other("nobody runs"))?;
    let moving = || Error::other("a task is on its way from one instance to the other");
    let partitions = partitions(bench, address, workload, here)?.ok_or_else(moving)?;
    let list = |numbers: &[String]| numbers.join(",");
    let flags = [
        ("--protocol", protocol.to_owned()),
        ("--address", address.to_string()),
        ("--pid", list(&cluster.pids().iter().map(u32::to_string).collect::<Vec<_>>())),
        ("--path", format!("/v1/stores/{STORE}/keys/")),
        ("--callers", callers.to_string()),
        ("--of-partitions", PARTITIONS.to_string()),
        ("--partitions", list(&partitions.iter().map(i32::to_string).collect::<Vec<_>>())),
        ("--warm-up-s", (bench.sizes.seconds / 5.0).min(1.0).to_string()),
        ("--seconds", bench.sizes.seconds.to_string()),
    ];
    let mut figures = bench.load(&flags, workload)?;
    if self::partitions(bench, address, workload, here)?.as_ref() != Some(&partitions) {
        // A task has moved meanwhile: it is not known what was measured.
        figures.set("correct", false);
    }
    Ok(figures)
}

/// The partitions that an instance answers for itself, or those that it asks another one for; `None` while anybody else than who
/// processes a task answers for it.
fn partitions(bench: &Bench, address: SocketAddr, workload: &WorkloadFlags, here: bool) -> Result<Option<Vec<i32>>> {
    let expected = Expected::new(Topology::Both, workload);
    let mut found = Vec::new();
    for partition in 0..PARTITIONS {
        let of = |sku: &String| partition_for(sku.as_bytes(), PARTITIONS) == partition;
        let sku = expected.skus().map(|(sku, _)| sku).find(of);
        let sku = sku.ok_or_else(|| Error::other(format!("no key is in partition {partition}")))?;
        let path = format!("/v1/route?store={STORE}&key=");
        let (status, body) = bench.runtime.block_on(async { Get::connect(address, &path).await?.get(&sku).await })?;
        let route: Value = serde_json::from_slice(&body)?;
        if status != 200 || route.get("partition").and_then(Value::as_i64) != Some(partition.into()) {
            return Err(Error::other(format!("{status} for the route of {sku} in partition {partition}: {route}")));
        }
        let (asked, active) = (route.get("would_ask"), route.get("active"));
        if asked.is_none() || asked != active {
            return Ok(None);
        }
        if (asked.and_then(Value::as_str) == Some(&address.to_string())) == here {
            found.push(partition);
        }
    }
    Ok(Some(found))
}
