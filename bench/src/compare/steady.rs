//! Look-ups at a steady rate while a server has something else to do: what they were answered, and how late.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{bench::Bench, case::Metric, readers::READ_LIMIT};
use crate::{
    error::{Result, other},
    figures::Figures,
    load::{histogram, http::Get},
    workload,
};

/// Each with a connection of its own: so many that a server which answers within 20 ms keeps up with 3,000 look-ups a second.
const CALLERS: u32 = 64;

/// What [`Steady::stop`] tells.
pub(super) const RATE: Metric = Metric::more("look_ups_per_s", "look-ups/s");
pub(super) const FAILED: Metric = Metric::less("look_ups_failed", "look-ups failed");
pub(super) const MEDIAN: Metric = Metric::less("look_up_p50_ms", "look-ups, median from when they were due, ms");
pub(super) const P99: Metric = Metric::less("look_up_p99_ms", "the same, 99th percentile, ms");

/// What is asked for: counts of random keys, whether they are there yet or not.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) address: SocketAddr,
    /// What comes before the key.
    pub(super) path: String,
    /// Keys that there will be.
    pub(super) keys: i32,
    /// Look-ups a second.
    pub(super) rate: u32,
}

/// The callers. Dropping them ends them.
pub(super) struct Steady {
    began: Instant,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<Told>>,
}

/// What one caller was told.
struct Told {
    /// Nanoseconds from when a look-up was due; what waits for the one before it waits, too.
    latencies: Histogram<u64>,
    failed: u64,
    first_failure: Option<String>,
}

impl Steady {
    pub(super) fn start(bench: &Bench, asked: Asked) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for seed in 0..CALLERS {
            tasks.spawn_on(call(asked.clone(), seed, Arc::clone(&stop)), bench.runtime.handle());
        }
        Self { began: Instant::now(), stop, tasks }
    }

    /// Ends them and adds their figures; how many look-ups failed.
    pub(super) fn stop(self, bench: &Bench, figures: &mut Figures) -> Result<u64> {
        let Self { began, stop, mut tasks } = self;
        stop.store(true, Ordering::Relaxed);
        let seconds = began.elapsed().as_secs_f64();
        let (mut latencies, mut failed) = (histogram()?, 0);
        while let Some(ended) = bench.runtime.block_on(tasks.join_next()) {
            let told = ended.map_err(other)??;
            latencies.add(&told.latencies).map_err(other)?;
            failed += told.failed;
            if let Some(failure) = told.first_failure {
                figures.set("first_failure", failure);
            }
        }
        let ms = |nanos: u64| nanos as f64 / 1e6;
        figures.number(RATE.figure, latencies.len() as f64 / seconds);
        figures.set(FAILED.figure, failed);
        figures.number(MEDIAN.figure, ms(latencies.value_at_quantile(0.5)));
        figures.number(P99.figure, ms(latencies.value_at_quantile(0.99)));
        figures.number("look_up_max_ms", ms(latencies.max()));
        Ok(failed)
    }
}

async fn call(asked: Asked, seed: u32, stop: Arc<AtomicBool>) -> Result<Told> {
    let mut told = Told { latencies: histogram()?, failed: 0, first_failure: None };
    let mut random = SmallRng::seed_from_u64(seed.into());
    let mut due = interval(Duration::from_secs(1) * CALLERS / asked.rate);
    // What a pause left undone is caught up with: the rate holds over all.
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut connection = None;
    loop {
        let since = due.tick().await;
        if stop.load(Ordering::Relaxed) {
            return Ok(told);
        }
        let key = workload::key(random.random_range(0..asked.keys));
        let answer = timeout(READ_LIMIT, ask(&mut connection, &asked, &key)).await;
        let failure = match answer {
            // A key may still be to come.
            Ok(Ok((200 | 404, _))) => None,
            Ok(Ok((status, body))) => Some(format!("{status} for {key}: {}", String::from_utf8_lossy(&body))),
            Ok(Err(error)) => Some(format!("{key}: {error}")),
            Err(_) => Some(format!("{key}: no answer within {READ_LIMIT:?}")),
        };
        told.latencies.saturating_record(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
        if let Some(failure) = failure {
            told.failed += 1;
            told.first_failure.get_or_insert(failure);
        }
    }
}

/// Status and body. A connection on which something went wrong is not used again.
async fn ask(connection: &mut Option<Get>, asked: &Asked, key: &str) -> Result<(u16, Vec<u8>)> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Get::connect(asked.address, &asked.path).await?,
    };
    let answer = open.get(key).await?;
    *connection = Some(open);
    Ok(answer)
}
