//! How old an answer is: from the broker's acknowledgement of a record until REST shows it, beside a steady load.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use holdfast_types::partition_for;
use rdkafka::{
    ClientContext,
    message::DeliveryResult,
    producer::{BaseRecord, ProducerContext, ThreadedProducer},
};
use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    background::Background,
    broker::{Broker, client},
    error::{Error, Result, other},
    figures::Figures,
    load::{histogram, http::Get},
    usage::Usage,
};

/// Time between two probes.
const PROBE_EVERY: Duration = Duration::from_millis(37);
/// Time between two looks at a probe's row: the resolution of the measurement.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// A probe that is not seen by then is lost.
const LIMIT: Duration = Duration::from_secs(30);

/// `holdfast-bench freshness`.
#[derive(Args, Clone, Debug)]
pub(crate) struct FreshnessFlags {
    /// Brokers
    #[arg(long)]
    pub(crate) bootstrap: String,
    /// Input topic of the inventory
    #[arg(long, default_value = "items")]
    pub(crate) topic: String,
    /// The server
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// The server's process, for its processor time
    #[arg(long)]
    pub(crate) pid: u32,
    /// What comes before a store's name in the path
    #[arg(long, default_value = "/api/v1/stores/inventory/")]
    pub(crate) path: String,
    /// Records a second beside the probes
    #[arg(long, default_value_t = 10_000)]
    pub(crate) rate: u64,
    /// Time before the measurement
    #[arg(long, default_value_t = 3.0)]
    pub(crate) warm_up_s: f64,
    /// Time of the measurement
    #[arg(long, default_value_t = 20.0)]
    pub(crate) seconds: f64,
}

type Acknowledged = oneshot::Sender<std::result::Result<Instant, String>>;

struct Acknowledge;

impl ClientContext for Acknowledge {}

impl ProducerContext for Acknowledge {
    type DeliveryOpaque = Box<Acknowledged>;

    fn delivery(&self, outcome: &DeliveryResult<'_>, told: Box<Acknowledged>) {
        let outcome = outcome.as_ref().map(|_| Instant::now()).map_err(|(error, _)| error.to_string());
        // A probe that has given up does not listen.
        let _ = told.send(outcome);
    }
}

/// Sends probes and waits for each to be seen.
pub(crate) async fn run(flags: &FreshnessFlags) -> Result<Figures> {
    let partitions = Broker::new(&flags.bootstrap)?.partitions(&flags.topic)?;
    let producer: ThreadedProducer<Acknowledge> =
        client(&flags.bootstrap).set("linger.ms", "0").create_with_context(Acknowledge)?;
    let background = Background::start(&flags.bootstrap, &flags.topic, flags.rate)?;
    tokio::time::sleep(Duration::from_secs_f64(flags.warm_up_s)).await;

    // Stores that nobody has seen, over all runs on the same topic.
    let run = SystemTime::now().duration_since(UNIX_EPOCH).map_err(other)?.as_millis();
    let lost = Arc::new(AtomicBool::new(false));
    let mut probes = JoinSet::new();
    let server = Usage::of(flags.pid);
    let (began, sent_before, cpu_before) = (Instant::now(), background.sent(), server.cpu_s()?);
    let mut number = 0_u32;
    while began.elapsed().as_secs_f64() < flags.seconds && !lost.load(Ordering::Relaxed) {
        let due = began + PROBE_EVERY * number;
        tokio::time::sleep_until(due.into()).await;
        number += 1;
        let store = format!("Probe_{run}_{number}");
        let (told, acknowledged) = oneshot::channel();
        let value = format!(
            r#"{{"id":1,"storeName":"{store}","sku":"Probe","quantity":1,"type":"RESTOCK","price":1.5,"timestamp":"2026-01-01T00:00:00.000100"}}"#
        );
        let record = BaseRecord::with_opaque_to(&flags.topic, Box::new(told))
            .partition(partition_for(store.as_bytes(), partitions))
            .key(store.as_bytes())
            .payload(value.as_bytes());
        producer.send(record).map_err(|(error, _)| error)?;
        let (flags, lost) = (flags.clone(), Arc::clone(&lost));
        probes.spawn(async move {
            let outcome = seen(&flags, &store, acknowledged).await;
            if outcome.is_err() {
                lost.store(true, Ordering::Relaxed);
            }
            outcome
        });
    }
    let (sent, seconds) = ((background.sent() - sent_before) as f64, began.elapsed().as_secs_f64());
    let cpu_s = server.cpu_s()? - cpu_before;
    let mut ages = histogram()?;
    while let Some(outcome) = probes.join_next().await {
        let age = outcome.map_err(other)??;
        ages.saturating_record(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
    }

    let mut figures = Figures::new();
    figures.set("probes", ages.len());
    figures.number("records_per_s", sent / seconds);
    figures.number("cpu_us_per_record", cpu_s * 1e6 / sent.max(1.0));
    figures.number("rss_mib", server.rss_mib()?);
    for (name, quantile) in [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99)] {
        figures.number(name, ages.value_at_quantile(quantile) as f64 / 1e6);
    }
    figures.number("max_ms", ages.max() as f64 / 1e6);
    Ok(figures)
}

/// Time from the acknowledgement until the store is shown; zero if it was shown before.
async fn seen(
    flags: &FreshnessFlags,
    store: &str,
    acknowledged: oneshot::Receiver<std::result::Result<Instant, String>>,
) -> Result<Duration> {
    let mut connection = Get::connect(flags.address, &flags.path).await?;
    let at = acknowledged.await.map_err(other)?.map_err(Error::Other)?;
    loop {
        // The answer was given no later than now, so the age is never shown too small.
        match connection.get(store).await? {
            (200, _) => return Ok(at.elapsed()),
            (404, _) if at.elapsed() < LIMIT => tokio::time::sleep(LOOK_EVERY).await,
            (404, _) => {
                return Err(Error::other(format!("{store} was not shown within {LIMIT:?} of its acknowledgement")));
            }
            (status, body) => {
                return Err(Error::other(format!("{status} for {store}: {}", String::from_utf8_lossy(&body))));
            }
        }
    }
}
