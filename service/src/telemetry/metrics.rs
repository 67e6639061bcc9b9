//! The Prometheus recorder and its text.

use std::{fmt, sync::Arc, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;

use super::names;

/// Time between two drains of recorded histogram samples into their buckets.
const UPKEEP: Duration = Duration::from_secs(1);

/// Buckets of times, in seconds: look-ups take tens of microseconds, restores minutes.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0, 300.0,
];

static HANDLE: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// The metrics cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The buckets are wrong: a defect.
    #[error("the Prometheus recorder cannot be set up: {0}")]
    Build(#[from] metrics_exporter_prometheus::BuildError),
    /// Something else records in this process.
    #[error("another metrics recorder is installed in this process: {0}")]
    Taken(String),
}

/// Renders what was recorded.
#[derive(Clone, Default)]
pub struct Metrics {
    handle: Option<PrometheusHandle>,
    gauges: Vec<Arc<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("gauges", &self.gauges.len()).finish_non_exhaustive()
    }
}

impl Metrics {
    /// The process's recorder, installed at the first call.
    pub fn install() -> Result<Self, MetricsError> {
        // One at a time: two instances in one process share the recorder, whichever comes first.
        let mut installed = HANDLE.lock();
        if let Some(handle) = &*installed {
            return Ok(Self { handle: Some(handle.clone()), gauges: Vec::new() });
        }
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|error| MetricsError::Taken(error.to_string()))?;
        names::describe();
        *installed = Some(handle.clone());
        Ok(Self { handle: Some(handle), gauges: Vec::new() })
    }

    /// Calls `gauges` before each rendering: for values that are read off something, not kept.
    #[must_use]
    pub fn reading(mut self, gauges: impl Fn() + Send + Sync + 'static) -> Self {
        self.gauges.push(Arc::new(gauges));
        self
    }

    /// Prometheus' text format.
    pub fn render(&self) -> String {
        self.gauges.iter().for_each(|read| read());
        self.handle.as_ref().map(PrometheusHandle::render).unwrap_or_default()
    }

    /// Drains samples once in a while, until dropped. Without it histograms keep every sample until the next scrape.
    pub async fn keep_up(self) {
        let Some(handle) = self.handle else { return };
        let mut tick = tokio::time::interval(UPKEEP);
        loop {
            tick.tick().await;
            handle.run_upkeep();
        }
    }
}
