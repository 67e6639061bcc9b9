//! Load generators for look-ups, in a process of their own: closed loops of callers, latencies in a histogram.

mod grpc;
pub(crate) mod http;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use holdfast_types::partition_for;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    background::Background,
    error::{Error, Result, other},
    figures::Figures,
    usage::Usage,
    workload::{Expected, Topology, WorkloadFlags},
};

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// HTTP/1.1, one kept-alive connection per caller.
    Rest,
    /// gRPC, callers spread over a few connections.
    Grpc,
}

/// `holdfast-bench load`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadFlags {
    /// How to ask
    #[arg(long, value_enum)]
    pub(crate) protocol: Protocol,
    /// The server
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// The server's process, for its processor time; several if the server asks others
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) pid: Vec<u32>,
    /// What comes before the key in the path
    #[arg(long, default_value = "/api/v1/items/")]
    pub(crate) path: String,
    /// What comes behind the key in the path
    #[arg(long, default_value = "")]
    pub(crate) query: String,
    /// Ask for keys of these partitions only
    #[arg(long, value_delimiter = ',')]
    pub(crate) partitions: Vec<i32>,
    /// Partitions that there are, if only some are asked for
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) of_partitions: i32,
    /// Requests in flight
    #[arg(long, default_value_t = 64)]
    pub(crate) callers: usize,
    /// Connections of gRPC
    #[arg(long, default_value_t = 4)]
    pub(crate) connections: usize,
    /// Time before the measurement
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warm_up_s: f64,
    /// Time of the measurement
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Rows to compare with what they must be, before the measurement
    #[arg(long, default_value_t = 200)]
    pub(crate) compare: usize,
    /// Records a second that are written to the input beside the requests
    #[arg(long, default_value_t = 0)]
    pub(crate) ingest_rate: u64,
    /// Brokers of the input
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub(crate) bootstrap: String,
    /// The input topic
    #[arg(long, default_value = "items")]
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) workload: WorkloadFlags,
}

/// One caller's way to ask for a row's JSON; `None` when there is no such key.
pub(crate) trait Ask: Send {
    fn ask(&mut self, key: &str) -> impl Future<Output = Result<Option<Vec<u8>>>> + Send;
}

/// Asks for items as the flags say.
pub(crate) async fn run(flags: &LoadFlags) -> Result<Figures> {
    let expected = Expected::new(Topology::Both, &flags.workload);
    let asked = |sku: &str| {
        flags.partitions.is_empty() || flags.partitions.contains(&partition_for(sku.as_bytes(), flags.of_partitions))
    };
    let rows: Vec<(String, i64)> = expected.skus().filter(|(sku, _)| asked(sku)).collect();
    if rows.is_empty() {
        return Err(Error::other(
            "the workload has no rows to ask for; give the flags that the input was generated with",
        ));
    }
    match flags.protocol {
        Protocol::Rest => {
            let mut callers = Vec::new();
            for _ in 0..flags.callers {
                callers.push(http::Get::connect(flags.address, &flags.path).await?.with_query(&flags.query));
            }
            measure(flags, rows, callers).await
        }
        Protocol::Grpc => {
            let callers = grpc::connect(flags.address, flags.connections, flags.callers).await?;
            measure(flags, rows, callers).await
        }
    }
}

async fn measure<A: Ask + 'static>(
    flags: &LoadFlags,
    rows: Vec<(String, i64)>,
    mut callers: Vec<A>,
) -> Result<Figures> {
    let wrong = match callers.first_mut() {
        Some(caller) => compare(caller, &rows, flags.compare).await?,
        None => 0,
    };
    let keys: Arc<[String]> = rows.into_iter().map(|(sku, _)| sku).collect();
    let _background = match flags.ingest_rate {
        0 => None,
        rate => Some(Background::start(&flags.bootstrap, &flags.topic, rate)?),
    };
    let (counting, stop, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0_u64..)
        .zip(callers)
        .map(|(seed, caller)| {
            let (keys, counting, stop, failed) =
                (Arc::clone(&keys), Arc::clone(&counting), Arc::clone(&stop), Arc::clone(&failed));
            tokio::spawn(call(caller, seed, keys, counting, stop, failed))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs_f64(flags.warm_up_s)).await;
    let servers: Vec<Usage> = flags.pid.iter().map(|pid| Usage::of(*pid)).collect();
    let all = |of: fn(Usage) -> io::Result<f64>| servers.iter().map(|server| of(*server)).sum::<io::Result<f64>>();
    let cpu_before = all(Usage::cpu_s)?;
    let began = Instant::now();
    counting.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs_f64(flags.seconds)).await;
    counting.store(false, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let cpu_s = all(Usage::cpu_s)? - cpu_before;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = histogram()?;
    for task in tasks {
        latencies.add(task.await.map_err(other)??).map_err(other)?;
    }

    let requests = latencies.len() as f64;
    let failed = failed.load(Ordering::Relaxed);
    let mut figures = Figures::new();
    figures.set("callers", flags.callers);
    figures.number("requests_per_s", requests / seconds);
    for (name, quantile) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
        figures.number(name, latencies.value_at_quantile(quantile) as f64 / 1_000.0);
    }
    figures.number("max_us", latencies.max() as f64 / 1_000.0);
    figures.number("cpu_us_per_request", cpu_s * 1e6 / requests.max(1.0));
    figures.number("requests_per_cpu_s", requests / cpu_s.max(f64::EPSILON));
    figures.number("rss_mib", all(Usage::rss_mib)?);
    figures.set("failed", failed);
    figures.set("wrong", wrong);
    figures.set("correct", wrong == 0 && failed == 0);
    Ok(figures)
}

/// Nanoseconds, up to a minute.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(other)
}

async fn call<A: Ask>(
    mut caller: A,
    seed: u64,
    keys: Arc<[String]>,
    counting: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicU64>,
) -> Result<Histogram<u64>> {
    let mut latencies = histogram()?;
    let mut random = SmallRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let key = &keys[random.random_range(0..keys.len())];
        let asked = Instant::now();
        let answer = caller.ask(key).await?;
        if counting.load(Ordering::Relaxed) {
            latencies.saturating_record(u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX));
            // Every key asked for exists.
            failed.fetch_add(u64::from(answer.is_none()), Ordering::Relaxed);
        }
    }
    Ok(latencies)
}

/// Compares some rows, spread over all, of items with their stocks; how many are wrong.
pub(crate) async fn compare<A: Ask>(caller: &mut A, all: &[(String, i64)], rows: usize) -> Result<u64> {
    let mut wrong = 0;
    for (sku, stock) in all.iter().step_by((all.len() / rows.max(1)).max(1)).take(rows) {
        let answer = caller.ask(sku).await?;
        let text = answer.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        // Whatever surrounds it, REST and gRPC alike carry the row's JSON.
        wrong += u64::from(!text.contains(&format!(r#""itemID":"{sku}","currentStock":{stock}}}"#)));
    }
    Ok(wrong)
}
