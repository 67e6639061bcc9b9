//! This project under measurement: the engine, the group member and the store as the service runs them, in a process of
//! its own.

mod application;
mod ingest;
mod restore;
mod serve;

use clap::{Args, ValueEnum};

pub(crate) use ingest::run as ingest;
pub(crate) use restore::run as restore;
pub(crate) use serve::run as serve;

use crate::workload::{InputFlags, WorkloadFlags};

/// How often a record's effect may be counted after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Guarantee {
    /// Transactions.
    ExactlyOnce,
    /// The last commit interval may be counted twice.
    AtLeastOnce,
}

impl Guarantee {
    /// The flag's value, and the service's setting.
    pub(crate) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::ExactlyOnce => ("exactly-once", "exactly_once"),
            Self::AtLeastOnce => ("at-least-once", "at_least_once"),
        }
    }
}

/// `holdfast-bench ingest`, `restore` and `serve`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunFlags {
    #[command(flatten)]
    pub(crate) input: InputFlags,
    /// As the service's setting
    #[arg(long)]
    pub(crate) application_id: String,
    /// As the service's setting
    #[arg(long)]
    pub(crate) state_dir: String,
    /// Exactly-once or at-least-once
    #[arg(long, value_enum, default_value = "exactly-once")]
    pub(crate) guarantee: Guarantee,
    /// Any other setting of the service; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Longest time that it may take
    #[arg(long, default_value_t = 600)]
    pub(crate) limit_s: u64,
    #[command(flatten)]
    pub(crate) workload: WorkloadFlags,
}
