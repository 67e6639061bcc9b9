//! Load generators and side-by-side runs: this project, the floor (the same work written by hand) and a peer.

// Its output is its purpose.
#![allow(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod background;
mod broker;
mod compare;
mod error;
mod figures;
mod floor;
mod freshness;
mod generate;
mod group;
mod load;
mod ours;
mod usage;
mod workload;

use std::process::ExitCode;

/// The service's allocator, for what is measured here and for the floors alike.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

use clap::{Parser, Subcommand};

use crate::{error::Result, figures::Figures};

/// Measures Holdfast beside the floor and a peer; without a command, everything side by side
#[derive(Debug, Parser)]
#[command(name = "holdfast-bench", args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    program: Option<Program>,
    #[command(flatten)]
    compare: compare::CompareFlags,
}

/// The programs that the comparison runs, each in a process of its own; they print figures as `name=value`.
#[derive(Debug, Subcommand)]
enum Program {
    /// Write the input of a measurement
    Generate(generate::GenerateFlags),
    /// Holdfast: work through a full topic with a fresh application
    Ingest(ours::RunFlags),
    /// Holdfast: come back without local state
    Restore(ours::RunFlags),
    /// Holdfast: a service until stopped
    Serve(ours::RunFlags),
    /// The floor of the ingest
    FloorIngest(floor::IngestFlags),
    /// The floor of the restore
    FloorRestore(floor::RestoreFlags),
    /// The floor of REST look-ups: serve until stopped
    FloorRest(floor::ServeFlags),
    /// The floor of gRPC look-ups: serve until stopped
    FloorGrpc(floor::ServeFlags),
    /// Ask a server for rows
    Load(load::LoadFlags),
    /// Time and weigh a large group, without a broker
    Group(group::GroupFlags),
    /// Write records and wait for REST to show them
    Freshness(freshness::FreshnessFlags),
}

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    match run(command_line) {
        Ok(figures) => {
            print!("{figures}");
            if figures.correct() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("holdfast-bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(command_line: CommandLine) -> Result<Figures> {
    let Some(program) = command_line.program else {
        // Its tables are printed as they come; what is left to say is whether all is right.
        let mut figures = Figures::new();
        figures.set("correct", compare::run(&command_line.compare)?);
        return Ok(figures);
    };
    if let Program::Serve(flags) = &program {
        // With threads and logs of its own, as a service has them.
        return ours::serve(flags).map(|()| Figures::new());
    }
    if let Program::Load(flags) = &program {
        // One thread: what the generator does not take, the server has.
        return runtime(1)?.block_on(load::run(flags));
    }
    let runtime = runtime(2)?;
    match program {
        Program::Generate(flags) => runtime.block_on(generate::run(&flags)),
        Program::Ingest(flags) => with_logs(|| runtime.block_on(ours::ingest(&flags))),
        Program::Restore(flags) => with_logs(|| runtime.block_on(ours::restore(&flags))),
        Program::FloorIngest(flags) => runtime.block_on(floor::ingest(&flags)),
        Program::FloorRestore(flags) => floor::restore(&flags),
        Program::FloorRest(flags) => runtime.block_on(floor::rest(&flags)).map(|()| Figures::new()),
        Program::FloorGrpc(flags) => runtime.block_on(floor::grpc(&flags)).map(|()| Figures::new()),
        Program::Group(flags) => group::run(flags),
        Program::Freshness(flags) => runtime.block_on(freshness::run(&flags)),
        Program::Serve(flags) => ours::serve(&flags).map(|()| Figures::new()),
        Program::Load(flags) => runtime.block_on(load::run(&flags)),
    }
}

fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    Ok(builder.enable_all().build()?)
}

/// What the engine has to say goes to standard error, beside the figures; `HOLDFAST_LOG` sets the filter.
fn with_logs(body: impl FnOnce() -> Result<Figures>) -> Result<Figures> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HOLDFAST_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false).init();
    body()
}
