//! The demo: a broker in the process, an instance and its load, as a newcomer runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::time::{Duration, Instant};

use holdfast_tests::{instance, log, process::Process, rest::Rest, wait};
use rustix::process::Signal;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(90);

/// Starts the demo with its public listener at `host`, a loopback address that nothing else in these tests uses.
fn demo(directory: &TempDir, host: &str, flags: &[&str]) -> Process {
    let state = directory.path().join("state").display().to_string();
    let listen = format!("{host}:7070");
    let mut args = vec!["demo", "--state-dir", &state, "--listen", &listen];
    args.extend(flags);
    let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
    Process::start("demo", &instance::binary(), &args, &[], &directory.path().join("demo.log"))
}

#[test]
fn it_answers_soon_and_ends_with_ctrl_c() {
    let directory = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let mut process = demo(&directory, "127.0.1.1", &[]);
    let rest = Rest::new("127.0.1.1:7070");
    wait::until("the first row", LIMIT, || match rest.get("/api/v1/stores/inventory/Store_1") {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("{} {}", answer.status, answer.body)),
        Err(error) => Err(error.to_string()),
    });
    eprintln!("the first query was answered after {:.1} s", begin.elapsed().as_secs_f64());
    let processed = || rest.metric("holdfast_stream_processed_records_total", &[]).unwrap_or(0.0);
    let before = processed();
    wait::until_true("more records", LIMIT, || processed() > before);
    let shown = process.log();
    assert!(shown.contains("curl") && shown.contains("127.0.1.1:7070"), "no command to try:\n{shown}");
    process.signal(Signal::INT);
    assert!(process.wait_for_exit(LIMIT).success());
}

#[test]
fn it_ends_by_itself_and_compares_every_row() {
    let directory = tempfile::tempdir().unwrap();
    let flags = ["--records", "30000", "--rate", "0", "--exit", "--log", "warn,librdkafka=off,holdfast_stream=debug"];
    let mut process = demo(&directory, "127.0.1.2", &flags);
    let status = process.wait_for_exit(LIMIT);
    assert!(status.success(), "ended with {status}\n{}", process.log());
    // The producer's thread says it right after calls of a crate that asks whether it may log.
    log::assert_said(&process.log(), &["DEBUG", "producer ready"]);
    assert_eq!(log::count(&process.log(), &["DEBUG", "tansu"]), 0, "the filter leaves it out");
}
