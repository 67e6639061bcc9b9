//! The commands that people type: `cargo xtask demo|test|kafka|bench|tidy`.

// Its output is its purpose.
#![allow(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod kafka;
mod kubernetes;
mod prerequisites;
mod process;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use process::{Failure, cargo, run};

const USAGE: &str = "\
usage: cargo xtask <command>

  demo [flags of `holdfast demo`]     build and run the demo: broker, one instance, load, three commands to try
  test [--soak] [filter…]             everything that CI checks; with filters only the tests whose names contain one
  kafka [--port N] [--dir PATH]       run Apache Kafka on 127.0.0.1 until Ctrl-C; --fetch only gets its jars
  bench [--as-shipped] [flags]        build optimised and measure; --help lists the benchmark's flags; with --as-shipped
                                      a full release build, which takes long the first time
  tidy                                what the compiler cannot check: arrows between crates, file lengths, and so on";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let outcome = match command.as_str() {
        "demo" => demo(&rest),
        "test" => test::test(&rest),
        "kafka" => kafka::kafka(&rest),
        "bench" => bench(&rest),
        "tidy" => tidy::tidy(),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(Failure::new(format!("unknown command {other:?}\n{USAGE}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

fn demo(flags: &[String]) -> Result<(), Failure> {
    prerequisites::ensure(&prerequisites::BUILD)?;
    build_binaries(&[])?;
    run(workspace::binary("debug", "holdfast").arg("demo").args(flags))
}

/// The profile of the tests, with our own crates as a release has them and the others as they are.
const OWN_CRATES_AS_RELEASED: [&str; 10] = [
    "--config",
    "profile.dev.opt-level=3",
    "--config",
    "profile.dev.debug-assertions=false",
    "--config",
    "profile.dev.overflow-checks=false",
    "--config",
    "profile.dev.package.'*'.debug-assertions=true",
    "--config",
    "profile.dev.package.'*'.overflow-checks=true",
];

fn bench(flags: &[String]) -> Result<(), Failure> {
    prerequisites::ensure(&prerequisites::BUILD)?;
    prerequisites::ensure(&prerequisites::KAFKA)?;
    kafka::fetch_jars()?;
    let (shipped, flags): (Vec<_>, Vec<_>) = flags.iter().partition(|flag| *flag == "--as-shipped");
    let profile = if shipped.is_empty() {
        // RocksDB, the embedded broker and the rest are optimised in the tests' profile too, and built for them already; a
        // profile of its own would build all of them again. Only what is measured is built anew, as in a release.
        build_binaries(&OWN_CRATES_AS_RELEASED)?;
        "debug"
    } else {
        build_binaries(&["--release"])?;
        "release"
    };
    run(workspace::binary(profile, "holdfast-bench").args(flags))
}

/// Always the whole workspace: one set of features, so that RocksDB and the embedded broker are built once.
fn build_binaries(flags: &[&str]) -> Result<(), Failure> {
    run(cargo().args(["build", "--workspace", "--bins"]).args(flags))
}
