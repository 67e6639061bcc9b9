//! Everything side by side: this project, the floor and a peer, in turns, over several runs.

mod bench;
mod case;
mod cluster;
mod demo;
mod failover;
mod forward;
mod group;
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
mod sweep;

use std::{fs, path::PathBuf};

use clap::Args;

use self::{
    bench::Bench,
    case::{Case, Outcome},
};
use crate::error::{Error, Result};

/// The sections, in the order in which they run.
const SECTIONS: [&str; 12] = [
    "ingest",
    "memory",
    "restore",
    "start",
    "lookups",
    "freshness",
    "strong",
    "forward",
    "failover",
    "roll",
    "demo",
    "group",
];

/// Flags of the comparison.
#[derive(Args, Clone, Debug)]
pub(crate) struct CompareFlags {
    /// Sections or cases to run: ingest, memory, restore, start, lookups, freshness, strong, forward, failover, roll, demo, group, or
    /// for example ingest/count-uniform-eo-100ms
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Runs of each case; all contenders take turns in each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    #[command(flatten)]
    pub(crate) sizes: SizeFlags,
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

/// Sizes, each by itself; with --quick the defaults are small.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct SizeFlags {
    /// Records of the counts [default: 5,000,000]
    #[arg(long)]
    pub(crate) records: Option<u64>,
    /// Distinct keys of the counts and of the restore [default: 500,000]
    #[arg(long)]
    pub(crate) keys: Option<i32>,
    /// Records of the inventory [default: 2,000,000]
    #[arg(long)]
    pub(crate) items: Option<u64>,
    /// Distinct stores of the inventory [default: 20,000]
    #[arg(long)]
    pub(crate) stores: Option<i32>,
    /// Records under a memory limit [default: 20,000,000]
    #[arg(long)]
    pub(crate) memory_records: Option<u64>,
    /// Distinct keys under a memory limit [default: 5,000,000]
    #[arg(long)]
    pub(crate) memory_keys: Option<i32>,
    /// Records of the changelog that is restored [default: 5,000,000]
    #[arg(long)]
    pub(crate) restore_records: Option<u64>,
    /// Rows that look-ups ask for; a tenth of them at several instances [default: 500,000]
    #[arg(long)]
    pub(crate) lookup_rows: Option<i32>,
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
    /// Records of the changelog that is restored.
    pub(crate) restore_records: u64,
    /// Skus, and twice the stores, of the tables that look-ups ask.
    pub(crate) lookup_rows: i32,
    pub(crate) seconds: f64,
    pub(crate) freshness_seconds: f64,
}

impl CompareFlags {
    fn sizes(&self) -> Sizes {
        let (given, quick) = (self.sizes, self.quick);
        let records = |given: Option<u64>, small, issue| given.unwrap_or(if quick { small } else { issue });
        let names = |given: Option<i32>, small, issue| given.unwrap_or(if quick { small } else { issue });
        Sizes {
            runs: if quick { 1 } else { self.runs },
            records: records(given.records, 300_000, 5_000_000),
            keys: names(given.keys, 20_000, 500_000),
            items: records(given.items, 60_000, 2_000_000),
            stores: names(given.stores, 1_000, 20_000),
            memory_records: records(given.memory_records, 600_000, 20_000_000),
            memory_keys: names(given.memory_keys, 200_000, 5_000_000),
            restore_records: records(given.restore_records, 150_000, 5_000_000),
            lookup_rows: names(given.lookup_rows, 10_000, 500_000),
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
        let (text, names) = (|n: Option<u64>| n.map(|n| n.to_string()), |n: Option<i32>| n.map(|n| n.to_string()));
        let numbers = [
            ("records", text(self.sizes.records)),
            ("keys", names(self.sizes.keys)),
            ("items", text(self.sizes.items)),
            ("stores", names(self.sizes.stores)),
            ("memory-records", text(self.sizes.memory_records)),
            ("memory-keys", names(self.sizes.memory_keys)),
            ("restore-records", text(self.sizes.restore_records)),
            ("lookup-rows", names(self.sizes.lookup_rows)),
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
    demo::demo(bench, show)?;
    group::group(bench, show)
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: CompareFlags,
    }

    fn flags(line: &str) -> CompareFlags {
        Line::parse_from(["bench"].into_iter().chain(line.split_whitespace())).flags
    }

    #[test]
    fn each_size_has_a_flag_of_its_own() {
        let sizes = |line: &str| format!("{:?}", flags(line).sizes());
        let of_itself = sizes("");
        let asked = "--records 5000000 --keys 500000 --items 2000000 --stores 20000 --memory-records 20000000 \
                     --memory-keys 5000000 --restore-records 5000000 --lookup-rows 500000";
        assert_eq!(sizes(asked), of_itself);
        for name in
            ["records", "keys", "items", "stores", "memory-records", "memory-keys", "restore-records", "lookup-rows"]
        {
            let line = format!("--{name} 77777");
            let changed = sizes(&line);
            let differ = changed.split(", ").zip(of_itself.split(", ")).filter(|(one, other)| one != other);
            assert_eq!(differ.count(), 1, "{line}: {changed}");
            assert!(flags(&line).again("x", "y").contains(&line));
        }
    }
}
