//! Gauges that are read off the engine's report once in a while, rather than kept by whoever changes them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use holdfast_types::Role;

use super::health::Health;
use crate::{query::StoreView, telemetry::names};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the gauges up to date until dropped.
pub async fn keep_gauges(view: Arc<dyn StoreView>, health: Arc<Health>) {
    let mut tick = tokio::time::interval(INTERVAL);
    let mut shown: BTreeMap<(&'static str, Vec<(&'static str, String)>), metrics::Gauge> = BTreeMap::new();
    loop {
        tick.tick().await;
        let wanted = measure(&*view, &health);
        // A task that moved away must not keep its last lag for ever.
        for (key, gauge) in &shown {
            if !wanted.contains_key(key) {
                gauge.set(0.0);
            }
        }
        for ((name, labels), value) in wanted {
            let make = || metrics::gauge!(name, &labels);
            shown.entry((name, labels.clone())).or_insert_with(make).set(value);
        }
    }
}

type Measured = BTreeMap<(&'static str, Vec<(&'static str, String)>), f64>;

fn measure(view: &dyn StoreView, health: &Health) -> Measured {
    let status = view.status();
    let mut measured = Measured::new();
    measured.insert((names::READY, Vec::new()), f64::from(u8::from(health.ready().passes())));
    if let Some(confirmed) = view.last_confirmed() {
        measured.insert((names::CONFIRMED_AGE, Vec::new()), confirmed.elapsed().as_secs_f64());
    }
    for role in [Role::Active, Role::Standby, Role::Restoring] {
        let count = status.tasks.iter().filter(|task| task.role == role).count();
        measured.insert((names::TASKS, vec![("role", role.as_str().to_owned())]), count as f64);
    }
    for task in &status.tasks {
        let id = ("task", task.id.to_string());
        for (partition, lag) in &task.lag_records {
            let labels = vec![id.clone(), ("partition", partition.clone())];
            measured.insert((names::TASK_LAG, labels), *lag as f64);
        }
        if let Some(restore) = &task.restore {
            measured.insert((names::RESTORE_REMAINING, vec![id.clone()]), restore.remaining_records as f64);
            if let Some(eta) = restore.eta {
                measured.insert((names::RESTORE_ETA, vec![id]), eta.as_secs_f64());
            }
        }
    }
    measured
}
