//! `generate`: the scenario's load, sent to any broker.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_stream::kafka::ConnectionSettings;
use serde_json::json;

use super::{Failure, Invocation, Load, LoadPlan, Pace, Progress, Service};
use crate::config::Settings;

/// Records when the command line names no number.
const DEFAULT_RECORDS: u64 = 100_000;

/// Runs `generate`: prints what it did as one JSON object.
pub(crate) fn generate(service: &Service, invocation: &Invocation) -> Result<(), Failure> {
    let settings = invocation.settings(service, invocation.sources())?;
    let scenario = Arc::clone(service.load_scenario()?);
    let topic = invocation.text("topic").map_or_else(|| scenario.topic(&settings.domain), str::to_owned);
    let mut plan = plan(invocation)?;
    plan.records = plan.records.or(Some(DEFAULT_RECORDS));
    let load = Load {
        scenario,
        plan,
        topic,
        partitions: partitions(invocation, &settings),
        connection: connection(&settings, "generate"),
    };
    let started = Instant::now();
    let sent = load.send(pace(invocation), &Progress::default())?;
    let seconds = started.elapsed().max(Duration::from_millis(1)).as_secs_f64();
    let report = json!({
        "topic": load.topic,
        "records": sent,
        "keys": plan.keys,
        "seed": plan.seed,
        "seconds": (seconds * 1_000.0).round() / 1_000.0,
        "records_per_s": (sent as f64 / seconds).round(),
    });
    writeln!(std::io::stdout().lock(), "{report}")?;
    Ok(())
}

/// `--records --keys --seed`.
pub(crate) fn plan(invocation: &Invocation) -> Result<LoadPlan, Failure> {
    let keys = invocation.number("keys").unwrap_or(100);
    let keys = u32::try_from(keys)
        .ok()
        .filter(|keys| *keys >= 1)
        .ok_or_else(|| Failure::new(format!("--keys must be from 1 to {}, got {keys}", u32::MAX)))?;
    Ok(LoadPlan { records: invocation.number("records"), keys, seed: invocation.number("seed").unwrap_or(42) })
}

/// `--rate`.
pub(crate) fn pace(invocation: &Invocation) -> Pace {
    Pace { rate: invocation.number("rate").unwrap_or(0) }
}

/// `--partitions`, or the setting.
pub(crate) fn partitions(invocation: &Invocation, settings: &Settings) -> i32 {
    let flag = invocation.matches.get_one::<u32>("partitions").and_then(|partitions| i32::try_from(*partitions).ok());
    flag.unwrap_or(settings.topics.input_partitions)
}

/// How to reach the cluster, for tools that are no instance.
pub(crate) fn connection(settings: &Settings, tool: &str) -> ConnectionSettings {
    ConnectionSettings {
        bootstrap_servers: settings.bootstrap_list(),
        client_id: format!("{}-{tool}", settings.application_id),
        properties: settings.kafka.to_map(),
    }
}

impl Invocation {
    /// The value of a numeric flag of the command itself.
    pub(crate) fn number(&self, flag: &str) -> Option<u64> {
        self.matches.try_get_one::<u64>(flag).ok().flatten().copied()
    }
}
