//! What the demo prints: addresses, three commands to try, and one line that moves.

use std::{
    fmt,
    time::{Duration, Instant},
};

use holdfast_store::{ScanRange, Table};

use super::write_out;
use crate::{
    app::Instance,
    cli::{Failure, Load, Pace},
};

/// Where things stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Records sent.
    pub(super) sent: u64,
    /// Records of the input topic that are processed and committed.
    pub(super) committed: u64,
    /// Records that wait, in the input and in repartition topics.
    pub(super) lag_records: i64,
    /// Rows in all stores.
    pub(super) rows: u64,
}

impl Counts {
    pub(super) fn read(instance: &Instance, sent: u64) -> Self {
        let view = instance.queries().view();
        let status = view.status();
        let mut counts = Self { sent, ..Self::default() };
        for task in &status.tasks {
            counts.lag_records += task.lag_records.values().filter(|lag| **lag > 0).sum::<i64>();
            for (partition, offset) in &task.committed {
                // Internal topics are counted by their lag only: they do not hold one record for each one sent.
                if !partition.contains("-repartition-") {
                    counts.committed += u64::try_from(*offset).unwrap_or(0);
                }
            }
        }
        let cluster = view.cluster();
        for store in cluster.stores() {
            let copies = (0..store.partitions).filter_map(|partition| view.copy(&store.name, partition));
            counts.rows += copies.map(|copy| rows(&copy.table)).sum::<u64>();
        }
        counts
    }
}

/// The rows of a table, counted while they are few: the estimate counts a row twice that is both in memory and on disk.
fn rows(table: &Table) -> u64 {
    const COUNTED: usize = 5_000;
    let estimate = table.approximate_rows();
    if estimate > 2 * COUNTED as u64 {
        return estimate;
    }
    match table.scan(&ScanRange::all(), COUNTED, usize::MAX) {
        Ok(page) if !page.more => page.rows.len() as u64,
        _ => estimate,
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, committed, lag_records, rows } = self;
        write!(f, "{sent} sent, {committed} processed, lag {lag_records}, {rows} rows")
    }
}

/// Prints to standard output: a line that is rewritten on a terminal, a line now and then elsewhere.
pub(super) struct Reporter {
    terminal: bool,
    shown_at: Option<Instant>,
    shown: Counts,
    open_line: bool,
}

impl Reporter {
    pub(super) fn new(terminal: bool) -> Self {
        Self { terminal, shown_at: None, shown: Counts::default(), open_line: false }
    }

    /// Addresses and what to try.
    pub(super) fn greet(&mut self, instance: &Instance, broker: &str, load: &Load, pace: Pace) -> Result<(), Failure> {
        let public = instance.public_endpoint().to_string();
        let sample = load.scenario.sample();
        let path = sample.path.unwrap_or_else(|| format!("/v1/stores/{}/keys/{}", sample.store, sample.key));
        let (method, request) = sample.grpc.unwrap_or_else(|| {
            let request = serde_json::json!({ "store": sample.store, "key": { "text": sample.key } });
            ("holdfast.v1.QueryService/Get".to_owned(), request.to_string())
        });
        let binary =
            std::env::current_exe().ok().map_or_else(|| "holdfast".to_owned(), |path| path.display().to_string());
        let server = if public.ends_with(":7070") && public.starts_with("127.0.0.1") {
            String::new()
        } else {
            format!(" --server http://{public}")
        };
        let rate = if pace.rate == 0 { "as fast as possible".to_owned() } else { format!("{} records/s", pace.rate) };
        write_out(&format!(
            "REST and gRPC   http://{public}\n\
             embedded broker {broker}  (in memory, without transactions: this demo runs at-least-once)\n\
             load            {rate} to topic {}\n\
             \n\
             try, in another terminal:\n\
             \n  curl http://{public}{path}\n  {binary} query get {} {}{server}\n  grpcurl -plaintext -d '{request}' {public} {method}\n\
             \nCtrl-C stops all of it.\n\n",
            load.topic, sample.store, sample.key,
        ))
    }

    /// Shows where things stand, if it is time again.
    pub(super) fn progress(&mut self, counts: &Counts) -> Result<(), Failure> {
        let every = if self.terminal { Duration::from_secs(1) } else { Duration::from_secs(5) };
        let Some(before) = self.shown_at else {
            self.shown_at = Some(Instant::now());
            return Ok(());
        };
        let elapsed = before.elapsed();
        if elapsed < every {
            return Ok(());
        }
        let processed = counts.committed.saturating_sub(self.shown.committed) as f64 / elapsed.as_secs_f64();
        let line = format!(
            "{:>9.0} records/s   {:>12} processed   {:>8} rows   lag {}",
            processed, counts.committed, counts.rows, counts.lag_records
        );
        self.shown_at = Some(Instant::now());
        self.shown = *counts;
        self.open_line = self.terminal;
        // On a terminal the line is written over the one before it.
        write_out(&if self.terminal { format!("\r\x1b[2K{line}") } else { format!("{line}\n") })
    }

    /// A line of its own.
    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        let start = if std::mem::take(&mut self.open_line) { "\n" } else { "" };
        write_out(&format!("{start}{text}\n"))
    }
}
