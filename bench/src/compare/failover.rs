//! Three instances with one standby each, under reads and writes; one is killed. Reads at the other two, and how soon what is
//! written after the kill can be read there.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use holdfast_types::partition_for;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio::time::timeout;

use super::{
    Show,
    bench::Bench,
    case::{Case, Contender, Goal, Metric},
    cluster::{Cluster, LIMIT, PEER_SETTLES},
    readers::{self, READ_LIMIT, Readers, Reads, Targets},
    server::Kind,
};
use crate::{
    background::Background,
    broker::client,
    error::{Error, Result, other},
    figures::Figures,
    generate,
    load::http::Get,
    workload::{Expected, Topology, WorkloadFlags},
};

const NAME: &str = "kill";
const TOPIC: &str = "items-failover";
const PARTITIONS: i32 = 6;
const INSTANCES: u8 = 3;
/// Records a second, all the while.
const RATE: u64 = 500;
/// Kills, with which the worst of ours is one of twenty; each takes the peer more than a session until it goes on, and then
/// more than a minute until it has settled again.
const KILLS: usize = 20;
const KILLS_OF_PEER: usize = 3;
/// Reads before a kill, and after what was written then can be read.
const READS: u64 = 2_000;
const LOOK_EVERY: Duration = Duration::from_millis(5);

const STORES: &str = "/api/v1/stores/inventory/";

const METRICS: &[Metric] = &[
    readers::FAILED,
    readers::SLOW_PERCENT,
    readers::WORST,
    readers::READS,
    Metric::less("fresh_median_s", "from the kill until each partition shows a write, median, s"),
    Metric::less("fresh_worst_s", "the same, worst, s"),
];
const GOALS: &[Goal] = &[
    Goal::at_most("reads_failed", 0.0),
    Goal::at_most("reads_slow_percent", 0.1),
    Goal::at_most("fresh_median_s", 1.0),
    Goal::at_most("fresh_worst_s", 2.0),
];

/// Kills, with Kafka's default session time-out in force.
pub(crate) fn failover(bench: &Bench, show: &mut Show<'_>) -> Result<()> {
    if !show.wants("failover", NAME) {
        return Ok(());
    }
    let workload = WorkloadFlags::tables(bench.sizes.lookup_rows / 10);
    bench.runtime.block_on(generate::records(&bench.broker, TOPIC, Topology::Both, PARTITIONS, &workload))?;
    let (kills, of_peer) = if bench.flags.quick { (1, 1) } else { (KILLS, KILLS_OF_PEER) };
    let mut contenders = vec![Contender::new("holdfast", |_| run(bench, Kind::Holdfast, &workload, kills))];
    if bench.peer.is_some() {
        contenders.push(Contender::new("peer", |_| run(bench, Kind::Peer, &workload, of_peer)));
    }
    let title = format!(
        "one of {INSTANCES} instances killed, {kills} times (peer: {of_peer}); one standby, session time-out 45 s"
    );
    show.case("failover", Case { name: NAME, title, metrics: METRICS, goals: GOALS, contenders })?;
    bench.delete_topic(TOPIC)
}

fn run(bench: &Bench, kind: Kind, workload: &WorkloadFlags, kills: usize) -> Result<Figures> {
    let mut flags = vec!["--session-timeout-ms", "45000"];
    match kind {
        Kind::Peer => flags.extend(["--standby", "1"].into_iter().chain(PEER_SETTLES)),
        _ => flags.extend(["--num-standby-replicas", "1"]),
    }
    let mut cluster = Cluster::start(bench, kind, TOPIC, workload, INSTANCES, &flags)?;
    let skus: Arc<[String]> = Expected::new(Topology::Both, workload).skus().map(|(sku, _)| sku).collect();
    let background = Background::start(bench.broker.bootstrap(), TOPIC, RATE)?;
    let (targets, reads) = (Arc::new(Targets::default()), Arc::new(Reads::default()));
    let mut fresh = Vec::new();
    for number in 0..kills {
        let victim = cluster.wait_replicated(1)?;
        let mut survivors = cluster.addresses();
        survivors.remove(victim);
        targets.set(survivors.clone());
        let readers = Readers::start(bench, &targets, &skus, &reads);
        if number == 0 {
            reads.warm_up(bench)?;
        }
        reads.wait_more(READS)?;
        cluster.kill(victim)?;
        fresh.push(readable_after(bench, &survivors)?.as_secs_f64());
        reads.wait_more(READS)?;
        readers.stop(bench)?;
        cluster.start_again(victim)?;
    }
    drop(background);
    cluster.remove()?;

    fresh.sort_by(f64::total_cmp);
    let mut figures = Figures::new();
    reads.report(&mut figures);
    figures.number("fresh_median_s", fresh.get(fresh.len() / 2).copied().unwrap_or_default());
    figures.number("fresh_worst_s", fresh.last().copied().unwrap_or_default());
    // The peer's reads do fail, which is what is measured.
    figures.set("correct", kind == Kind::Peer || reads.failed() == 0);
    Ok(figures)
}

/// Writes a record into each partition; the time until the last of them can be read at an instance.
fn readable_after(bench: &Bench, survivors: &[SocketAddr]) -> Result<Duration> {
    let began = Instant::now();
    let address = *survivors.first().ok_or_else(|| Error::other("nobody is left"))?;
    let run = SystemTime::now().duration_since(UNIX_EPOCH).map_err(other)?.as_millis();
    let producer: BaseProducer = client(bench.broker.bootstrap()).set("linger.ms", "0").create()?;
    let mut missing: Vec<i32> = (0..PARTITIONS).collect();
    let mut probes = Vec::new();
    for number in 0.. {
        let store = format!("Probe_{run}_{number}");
        let partition = partition_for(store.as_bytes(), PARTITIONS);
        if missing.is_empty() {
            break;
        }
        if missing.contains(&partition) {
            missing.retain(|other| *other != partition);
            let value = format!(
                r#"{{"id":1,"storeName":"{store}","sku":"Probe","quantity":1,"type":"RESTOCK","price":1.5,"timestamp":"2026-01-01T00:00:00.000100"}}"#
            );
            let record = BaseRecord::to(TOPIC).partition(partition).key(store.as_bytes()).payload(value.as_bytes());
            producer.send(record).map_err(|(error, _)| error)?;
            probes.push(store);
        }
    }
    producer.flush(READ_LIMIT)?;
    bench.runtime.block_on(async {
        for store in &probes {
            loop {
                let asked = timeout(READ_LIMIT, async { Get::connect(address, STORES).await?.get(store).await });
                if matches!(asked.await, Ok(Ok((200, _)))) {
                    break;
                }
                if began.elapsed() > LIMIT {
                    return Err(Error::other(format!("{store} could not be read within {LIMIT:?}")));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(began.elapsed())
    })
}
