//! Apache Kafka in the foreground, for play: `cargo xtask kafka`.

// A command line tool: its output and its panics are for people.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::panic)]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use holdfast_tests::kafka::{Kafka, KafkaConfig};

const USAGE: &str = "usage: cargo xtask kafka [--port N (9092)] [--dir PATH (a temporary directory)]";
/// A broker that closes its logs.
const STOP_LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut config = KafkaConfig { port: Some(9092), ..KafkaConfig::default() };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next();
        match (flag.as_str(), value) {
            ("--port", Some(value)) if value.parse::<u16>().is_ok() => config.port = value.parse().ok(),
            ("--dir", Some(value)) => config.home = Some(PathBuf::from(value)),
            (flag, _) => {
                eprintln!("unexpected {flag}\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    // For people, topics may come into being by use; a name mistyped costs nothing here.
    config.properties.insert("auto.create.topics.enable".into(), "true".into());
    config.properties.insert("num.partitions".into(), "3".into());
    println!("starting Apache Kafka {} …", holdfast_tests::java::kafka_version());
    let kafka = Kafka::start_with(config);
    println!("bootstrap servers: {}", kafka.bootstrap());
    println!("data: {}", kafka.home().display());
    println!("Ctrl-C ends it");
    if let Err(error) = holdfast_tests::block_on(tokio::signal::ctrl_c()) {
        eprintln!("cannot wait for Ctrl-C: {error}");
        return ExitCode::FAILURE;
    }
    // The terminal told the broker too.
    kafka.wait_for_exit(STOP_LIMIT);
    ExitCode::SUCCESS
}
