//! Everything side by side: this project, the floor and a peer, in turns, over several runs.

mod bench;
mod case;
mod cluster;
mod demo;
mod failover;
mod forward;
mod ingest;
mod lookups;
mod memory;
mod pauses;
mod readers;
mod report;
mod restore;
mod roll;
mod server;
mod steady;
mod stop;
mod strong;

use std::{fs, path::PathBuf};

use clap::Args;

use self::{
    bench::Bench,
    case::{Case, Outcome},
};
use crate::error::{Error, Result};

/// The sections, in the order in which they run.
const SECTIONS: [&str; 11] =
    ["ingest", "memory", "restore", "start", "lookups", "freshness", "strong", "forward", "failover", "roll", "demo"];

/// Flags of the comparison.
#[derive(Args, Clone, Debug)]
pub(crate) struct CompareFlags {
    /// Sections or cases to run: ingest, memory, restore, start, lookups, freshness, strong, forward, failover, roll, demo, or
    /// for example ingest/count-uniform-eo-100ms
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Runs of each case; all contenders take turns in each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// Records of the counts; twice as many under a memory limit, half as many in a changelog [default: 10,000,000]
    #[arg(long)]
    pub(crate) records: Option<u64>,
    /// Distinct keys of the counts and of the restore; ten times as many under a memory limit [default: 500,000]
    #[arg(long)]
    pub(crate) keys: Option<i32>,
    /// Records of the inventory [default: a fifth of --records]
    #[arg(long)]
    pub(crate) items: Option<u64>,
    /// Time that one load generator runs, in seconds [default: 5]
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Directory of the peer: a Kafka Streams application with a `run.sh`
    #[arg(long)]
    pub(crate) peer: Option<PathBuf>,
    /// Small sizes and one run: shows that all of it works, not how fast it is
    #[arg(long)]
    pub(crate) quick: bool,
    /// File that the results are written to as well
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Leave the logs of all processes in this directory
    #[arg(long)]
    pub(crate) keep_logs: Option<PathBuf>,
}

/// Sizes of a comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) runs: u32,
    pub(crate) records: u64,
    pub(crate) keys: i32,
    pub(crate) items: u64,
    /// Distinct stores of the inventory.
    pub(crate) stores: i32,
    /// Records under a memory limit.
    pub(crate) memory_records: u64,
    /// Distinct keys under a memory limit.
    pub(crate) memory_keys: i32,
    /// Skus, and twice the stores, of the tables that look-ups ask.
    pub(crate) lookup_rows: i32,
    pub(crate) seconds: f64,
    pub(crate) freshness_seconds: f64,
}

impl CompareFlags {
    fn sizes(&self) -> Sizes {
        let records = self.records.unwrap_or(if self.quick { 300_000 } else { 10_000_000 });
        let keys = self.keys.unwrap_or(if self.quick { 20_000 } else { 500_000 });
        Sizes {
            runs: if self.quick { 1 } else { self.runs },
            records,
            keys,
            items: self.items.unwrap_or(records / 5),
            stores: if self.quick { 1_000 } else { 20_000 },
            memory_records: records.saturating_mul(2),
            memory_keys: keys.saturating_mul(10),
            lookup_rows: if self.quick { 10_000 } else { 500_000 },
            seconds: self.seconds.unwrap_or(if self.quick { 1.0 } else { 5.0 }),
            freshness_seconds: self.seconds.map_or(if self.quick { 3.0 } else { 20.0 }, |seconds| seconds * 4.0),
        }
    }

    /// Whether a case is to run.
    pub(crate) fn wants(&self, section: &str, case: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == section || *only == format!("{section}/{case}"))
    }

    /// The flags that show a case again.
    pub(crate) fn again(&self, section: &str, case: &str) -> String {
        let mut command = format!("cargo xtask bench --only {section}/{case}");
        if self.quick {
            command.push_str(" --quick");
        } else {
            command.push_str(&format!(" --runs {}", self.runs));
        }
        let numbers = [
            ("records", self.records.map(|n| n.to_string())),
            ("keys", self.keys.map(|n| n.to_string())),
            ("items", self.items.map(|n| n.to_string())),
            ("seconds", self.seconds.map(|n| n.to_string())),
            ("peer", self.peer.as_ref().map(|path| path.display().to_string())),
        ];
        for (flag, value) in numbers {
            if let Some(value) = value {
                command.push_str(&format!(" --{flag} {value}"));
            }
        }
        command
    }
}

/// Runs what the flags ask for and prints it. Whether everything ran and every result was right.
pub(crate) fn run(flags: &CompareFlags) -> Result<bool> {
    for only in &flags.only {
        let section = only.split('/').next().unwrap_or_default();
        if !SECTIONS.contains(&section) {
            return Err(Error::other(format!("--only {only}: the sections are {}", SECTIONS.join(", "))));
        }
    }
    let bench = Bench::start(flags, flags.sizes())?;
    println!("{}", report::heading(&bench));
    let mut show = Show { bench: &bench, outcomes: Vec::new() };
    let finished = sections(&bench, &mut show);
    let outcomes = show.outcomes;
    // What was measured before an error is worth keeping.
    if let Some(file) = &flags.json {
        fs::write(file, serde_json::to_string_pretty(&report::json(&bench, &outcomes))?)?;
    }
    bench.keep_logs();
    finished?;
    if outcomes.is_empty() {
        return Err(Error::other(format!("--only {} names no case", flags.only.join(","))));
    }
    Ok(outcomes.iter().all(Outcome::succeeded))
}

fn sections(bench: &Bench, show: &mut Show<'_>) -> Result<()> {
    ingest::ingest(bench, show)?;
    memory::memory(bench, show)?;
    restore::restore(bench, show)?;
    lookups::served(bench, show)?;
    strong::strong(bench, show)?;
    forward::forward(bench, show)?;
    failover::failover(bench, show)?;
    roll::roll(bench, show)?;
    demo::demo(bench, show)
}

/// Runs cases and prints their outcomes, those that were asked for.
pub(crate) struct Show<'a> {
    bench: &'a Bench,
    outcomes: Vec<Outcome>,
}

impl Show<'_> {
    /// Whether a case is asked for; what it needs is prepared only then.
    pub(crate) fn wants(&self, section: &str, case: &str) -> bool {
        self.bench.flags.wants(section, case)
    }

    /// Runs a case, if it is asked for.
    pub(crate) fn case(&mut self, section: &'static str, case: Case<'_>) -> Result<()> {
        if !self.wants(section, case.name) {
            return Ok(());
        }
        eprintln!("# {section}/{} …", case.name);
        let outcome = case.run(self.bench, section);
        println!("{}", report::outcome(&outcome));
        self.outcomes.push(outcome);
        Ok(())
    }
}
