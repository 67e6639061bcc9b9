//! Gauges that are read off the engine's report when somebody asks for metrics, rather than kept by whoever changes them.

use std::{collections::BTreeMap, sync::Arc};

use holdfast_types::TaskId;
use metrics::Gauge;
use parking_lot::Mutex;

use super::health::Health;
use crate::{query::StoreView, telemetry::names};

/// Writes the gauges of an instance.
pub struct Report {
    view: Arc<dyn StoreView>,
    health: Arc<Health>,
    etas: Mutex<BTreeMap<TaskId, Gauge>>,
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Report").finish_non_exhaustive()
    }
}

impl Report {
    /// A report on `view`.
    pub fn new(view: Arc<dyn StoreView>, health: Arc<Health>) -> Self {
        Self { view, health, etas: Mutex::default() }
    }

    /// Sets the gauges to what is so now.
    pub fn record(&self) {
        let ready = self.health.ready().passes();
        metrics::gauge!(names::READY).set(if ready { 1.0 } else { 0.0 });
        if let Some(confirmed) = self.view.last_confirmed() {
            metrics::gauge!(names::CONFIRMED_AGE).set(confirmed.at.elapsed().as_secs_f64());
        }
        let status = self.view.status();
        let mut etas = self.etas.lock();
        // A restore that ended must not keep its last estimate.
        for gauge in etas.values() {
            gauge.set(0.0);
        }
        for task in &status.tasks {
            let Some(eta) = task.restore.as_ref().and_then(|restore| restore.eta) else { continue };
            let make = || metrics::gauge!(names::RESTORE_ETA, "task" => task.id.to_string());
            etas.entry(task.id).or_insert_with(make).set(eta.as_secs_f64());
        }
    }
}
