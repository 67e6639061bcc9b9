//! Callers while instances come and go, as behind a load balancer: what they were answered, and how late.
//!
//! Reads are due at a fixed rate, and are late from when they were due: callers in closed loops would ask the faster side more, and
//! ask nothing while they wait.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    task::JoinSet,
    time::{self, timeout},
};

use super::{bench::Bench, case::Metric, cluster::wait};
use crate::{
    error::{Error, Result, other},
    figures::Figures,
    load::http::Get,
};

const READERS: u32 = 8;
/// Of all readers, a second: with four times as many, readers, instances and broker have more to do than two processors can. A reader
/// that was held up makes up for what it missed.
const RATE: u32 = 500;
/// Seconds until a broker that has just started is as fast as one that has been up for long: until then its compilers take a third of
/// what it takes of the processors.
const WARM_UP_S: u32 = 60;
/// A read that takes so long has failed for whoever asked.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(5);
const SLOW: Duration = Duration::from_millis(250);
/// What is asked for.
pub(super) const ITEMS: &str = "/api/v1/items/";

/// What [`Reads::report`] tells.
pub(super) const FAILED: Metric = Metric::less("reads_failed", "reads failed");
pub(super) const SLOW_PERCENT: Metric = Metric::less("reads_slow_percent", "reads that took over 250 ms, %");
pub(super) const WORST: Metric = Metric::less("read_worst_ms", "slowest read, ms");
pub(super) const READS: Metric = Metric::more("reads", "reads");

/// Whom new connections go to.
#[derive(Debug, Default)]
pub(super) struct Targets(Mutex<Vec<SocketAddr>>);

impl Targets {
    pub(super) fn set(&self, addresses: Vec<SocketAddr>) {
        *self.0.lock() = addresses;
    }

    /// It gets no new connections, and the ones that it has may break.
    pub(super) fn remove(&self, address: SocketAddr) {
        self.0.lock().retain(|other| *other != address);
    }

    fn has(&self, address: SocketAddr) -> bool {
        self.0.lock().contains(&address)
    }

    fn pick(&self, number: u64) -> Result<SocketAddr> {
        let addresses = self.0.lock();
        let index = usize::try_from(number).unwrap_or(0).checked_rem(addresses.len());
        index.and_then(|index| addresses.get(index)).copied().ok_or_else(|| Error::other("there is nobody to ask"))
    }
}

/// What became of the reads.
#[derive(Debug, Default)]
pub(super) struct Reads {
    total: AtomicU64,
    failed: AtomicU64,
    slow: AtomicU64,
    worst_us: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

impl Reads {
    /// Waits until so many more were made.
    pub(super) fn wait_more(&self, more: u64) -> Result<()> {
        let target = self.total.load(Ordering::Relaxed) + more;
        wait(&format!("{more} reads"), || Ok(self.total.load(Ordering::Relaxed) >= target))
    }

    /// Reads until the broker has warmed up. How long that took counts for nothing; what failed does.
    pub(super) fn warm_up(&self, bench: &Bench) -> Result<()> {
        if !bench.flags.quick {
            for _ in 0..WARM_UP_S {
                self.wait_more(u64::from(RATE))?;
            }
        }
        for count in [&self.total, &self.slow, &self.worst_us] {
            count.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn note_failure(&self, why: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.first_failure.lock().get_or_insert(why);
    }

    pub(super) fn report(&self, figures: &mut Figures) {
        let total = self.total.load(Ordering::Relaxed);
        figures.set("reads", total);
        figures.set("reads_failed", self.failed());
        if let Some(failure) = self.first_failure.lock().as_deref() {
            figures.set("first_failure", failure);
        }
        figures.number("reads_slow_percent", 100.0 * self.slow.load(Ordering::Relaxed) as f64 / total.max(1) as f64);
        figures.number("read_worst_ms", self.worst_us.load(Ordering::Relaxed) as f64 / 1e3);
    }
}

/// The callers, spread over the targets. Dropping them ends them.
pub(super) struct Readers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Readers {
    pub(super) fn start(bench: &Bench, targets: &Arc<Targets>, skus: &Arc<[String]>, reads: &Arc<Reads>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for seed in (0..READERS).map(u64::from) {
            let (targets, skus, reads, stop) =
                (Arc::clone(targets), Arc::clone(skus), Arc::clone(reads), Arc::clone(&stop));
            tasks.spawn_on(read(seed, targets, skus, reads, stop), bench.runtime.handle());
        }
        Self { stop, tasks }
    }

    pub(super) fn stop(self, bench: &Bench) -> Result<()> {
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

async fn read(seed: u64, targets: Arc<Targets>, skus: Arc<[String]>, reads: Arc<Reads>, stop: Arc<AtomicBool>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut connection = None;
    let mut due = time::interval(Duration::from_secs(1) * READERS / RATE);
    while !stop.load(Ordering::Relaxed) {
        let began = due.tick().await;
        let Some(sku) = skus.get(rng.random_range(0..skus.len())) else { return };
        match timeout(READ_LIMIT, ask(&mut connection, seed, &targets, sku)).await {
            // Each of them has a row: nothing else is right.
            Ok(Ok((_, 200, _))) => {}
            Ok(Ok((from, status, body))) => {
                reads.note_failure(format!("{from}: {status} for {sku}: {}", String::from_utf8_lossy(&body)));
            }
            Ok(Err(error)) => reads.note_failure(format!("{sku}: {error}")),
            Err(_) => reads.note_failure(format!("{sku}: no answer within {READ_LIMIT:?}")),
        }
        let took = began.elapsed();
        reads.total.fetch_add(1, Ordering::Relaxed);
        reads.worst_us.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
        if took > SLOW {
            reads.slow.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One read: who answered, status and body. Where a connection breaks to who is no target any more, the next one is asked.
async fn ask(
    connection: &mut Option<(SocketAddr, Get)>,
    seed: u64,
    targets: &Targets,
    sku: &str,
) -> Result<(SocketAddr, u16, Vec<u8>)> {
    for attempt in seed.. {
        let (address, asked) = match connection.take() {
            Some((address, mut open)) => (address, open.get(sku).await.map(|answer| (answer, open))),
            None => {
                let address = targets.pick(attempt)?;
                let asked = async {
                    let mut open = Get::connect(address, ITEMS).await?;
                    Ok((open.get(sku).await?, open))
                };
                (address, asked.await)
            }
        };
        match asked {
            Ok(((status, body), open)) => {
                *connection = Some((address, open));
                return Ok((address, status, body));
            }
            Err(error) if targets.has(address) => return Err(error),
            Err(_) => {}
        }
    }
    Err(Error::other("there is nobody left to ask"))
}
