//! Three instances with one standby each, under reads and writes; one is killed. Reads at the other two, and how soon what is
//! written after the kill can be read there.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use holdfast_types::partition_for;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;
use tokio::{task::JoinSet, time::timeout};

use super::{
    Show,
    bench::Bench,
    case::{Case, Contender, Metric},
    server::{Kind, Server, Site},
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
const READERS: u64 = 8;
/// Records a second, all the while.
const RATE: u64 = 500;
/// Reads before a kill, and after what was written then can be read.
const READS: u64 = 2_000;
/// More than Kafka's default session.
const LIMIT: Duration = Duration::from_secs(120);
/// A read that takes so long has failed for whoever asked.
const READ_LIMIT: Duration = Duration::from_secs(5);
const SLOW: Duration = Duration::from_millis(250);
const LOOK_EVERY: Duration = Duration::from_millis(5);

const ITEMS: &str = "/api/v1/items/";
const STORES: &str = "/api/v1/stores/inventory/";

const METRICS: &[Metric] = &[
    Metric::less("reads_failed", "reads failed"),
    Metric::less("reads_slow_percent", "reads that took over 250 ms, %"),
    Metric::less("read_worst_ms", "slowest read, ms"),
    Metric::more("reads", "reads"),
    Metric::less("fresh_median_s", "from the kill until writes after it can be read in all partitions, median, s"),
    Metric::less("fresh_worst_s", "the same, worst, s"),
];

/// Kills, with Kafka's default session time-out in force.
pub(crate) fn failover(bench: &Bench, show: &mut Show<'_>) -> Result<()> {
    if !show.wants("failover", NAME) {
        return Ok(());
    }
    let workload = WorkloadFlags::tables(bench.sizes.lookup_rows / 10);
    bench.runtime.block_on(generate::records(&bench.broker, TOPIC, Topology::Both, PARTITIONS, &workload))?;
    let kills = if bench.flags.quick { 1 } else { 5 };
    let mut contenders = vec![Contender::new("holdfast", |_| run(bench, Kind::Holdfast, &workload, kills))];
    if bench.peer.is_some() {
        contenders.push(Contender::new("peer", |_| run(bench, Kind::Peer, &workload, kills)));
    }
    let title = format!("one of {INSTANCES} instances killed, {kills} times; one standby, session time-out 45 s");
    show.case("failover", Case { name: NAME, title, metrics: METRICS, contenders })?;
    bench.delete_topic(TOPIC)
}

fn run(bench: &Bench, kind: Kind, workload: &WorkloadFlags, kills: usize) -> Result<Figures> {
    let flags: &[&str] = match kind {
        Kind::Peer => &["--standby", "1", "--session-timeout-ms", "45000"],
        _ => &["--num-standby-replicas", "1", "--session-timeout-ms", "45000"],
    };
    let site = Site::new(bench, kind, TOPIC, workload);
    let sites: Vec<Site<'_>> = (0..INSTANCES).map(|number| site.instance(number, flags)).collect();
    let mut servers: Vec<Server> = sites.iter().map(Site::start_caught_up).collect::<Result<_>>()?;
    let skus: Arc<[String]> = Expected::new(Topology::Both, workload).skus().map(|(sku, _)| sku).collect();
    let background = Background::start(bench.broker.bootstrap(), TOPIC, RATE)?;
    let reads = Arc::new(Reads::default());
    let mut fresh = Vec::new();
    for kill in 0..kills {
        wait_settled(bench, kind, &servers)?;
        let victim = kill % servers.len();
        let survivors: Vec<SocketAddr> = servers
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != victim)
            .map(|(_, server)| server.address)
            .collect();
        let readers = Readers::start(bench, &survivors, &skus, &reads);
        reads.wait_more(READS)?;
        if let Some(server) = servers.get_mut(victim) {
            server.kill();
        }
        fresh.push(readable_after(bench, &survivors)?.as_secs_f64());
        reads.wait_more(READS)?;
        readers.stop(bench)?;
        if let (Some(site), Some(server)) = (sites.get(victim), servers.get_mut(victim)) {
            *server = site.start()?;
        }
    }
    drop(background);
    for (site, server) in sites.iter().zip(servers) {
        site.stop(server);
    }
    site.remove()?;

    fresh.sort_by(f64::total_cmp);
    let total = reads.total.load(Ordering::Relaxed);
    let mut figures = Figures::new();
    figures.set("reads", total);
    figures.set("reads_failed", reads.failed.load(Ordering::Relaxed));
    figures.number("reads_slow_percent", 100.0 * reads.slow.load(Ordering::Relaxed) as f64 / total.max(1) as f64);
    figures.number("read_worst_ms", reads.worst_us.load(Ordering::Relaxed) as f64 / 1e3);
    figures.number("fresh_median_s", fresh.get(fresh.len() / 2).copied().unwrap_or_default());
    figures.number("fresh_worst_s", fresh.last().copied().unwrap_or_default());
    Ok(figures)
}

#[derive(Debug, Default)]
struct Reads {
    total: AtomicU64,
    failed: AtomicU64,
    slow: AtomicU64,
    worst_us: AtomicU64,
}

impl Reads {
    /// Waits until so many more were made.
    fn wait_more(&self, more: u64) -> Result<()> {
        let target = self.total.load(Ordering::Relaxed) + more;
        wait(&format!("{more} reads"), || Ok(self.total.load(Ordering::Relaxed) >= target))
    }
}

/// Waits until every instance has tasks, and each task a copy on another instance.
fn wait_settled(bench: &Bench, kind: Kind, servers: &[Server]) -> Result<()> {
    let (path, list, active, standby) = match kind {
        Kind::Peer => ("/api/v1/stores/meta-data", "", "partitions", "standbyPartitions"),
        _ => ("/v1/instances", "/instances", "active", "standby"),
    };
    let address = servers.first().map(|server| server.address).ok_or_else(|| Error::other("nobody runs"))?;
    wait("each task to have an active and a standby", || {
        let asked = async { Get::connect(address, path).await?.get("").await };
        let Ok((200, body)) = bench.runtime.block_on(asked) else { return Ok(false) };
        let described: Value = serde_json::from_slice(&body)?;
        let members = described.pointer(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let of = |member: &Value, name: &str| member.get(name).and_then(Value::as_array).map_or(0, Vec::len);
        let sum = |name| members.iter().map(|member| of(member, name)).sum::<usize>();
        let spread = members.len() == servers.len() && members.iter().all(|member| of(member, active) > 0);
        Ok(spread && sum(active) == sum(standby))
    })
}

/// Looks now and then until `there`.
fn wait(what: &str, mut there: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !there()? {
        if Instant::now() > deadline {
            return Err(Error::other(format!("waited {LIMIT:?} for {what}")));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Callers in closed loops, spread over the instances that live.
struct Readers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Readers {
    fn start(bench: &Bench, addresses: &[SocketAddr], skus: &Arc<[String]>, reads: &Arc<Reads>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for (seed, address) in (0..READERS).zip(addresses.iter().cycle()) {
            let (address, skus, reads, stop) = (*address, Arc::clone(skus), Arc::clone(reads), Arc::clone(&stop));
            tasks.spawn_on(read(seed, address, skus, reads, stop), bench.runtime.handle());
        }
        Self { stop, tasks }
    }

    fn stop(self, bench: &Bench) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        bench.runtime.block_on(async move {
            let mut tasks = self.tasks;
            while let Some(ended) = tasks.join_next().await {
                ended.map_err(other)?;
            }
            Ok(())
        })
    }
}

async fn read(seed: u64, address: SocketAddr, skus: Arc<[String]>, reads: Arc<Reads>, stop: Arc<AtomicBool>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(sku) = skus.get(rng.random_range(0..skus.len())) else { return };
        let began = Instant::now();
        let asked = timeout(READ_LIMIT, async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => Get::connect(address, ITEMS).await?,
            };
            let (status, _) = open.get(sku).await?;
            Result::Ok((status, open))
        });
        // Each of them has a row: nothing but 200 is right.
        match asked.await {
            Ok(Ok((200, open))) => connection = Some(open),
            Ok(Ok((_, open))) => {
                connection = Some(open);
                reads.failed.fetch_add(1, Ordering::Relaxed);
            }
            _ => {
                reads.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        let took = began.elapsed();
        reads.total.fetch_add(1, Ordering::Relaxed);
        reads.worst_us.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
        if took > SLOW {
            reads.slow.fetch_add(1, Ordering::Relaxed);
        }
    }
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
