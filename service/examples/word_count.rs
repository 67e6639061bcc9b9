//! Kafka Streams' WordCount, line by line, with its table served.
//!
//! ```sh
//! cargo run --example word_count                        # a broker in the process, and some lines to count
//! curl http://127.0.0.1:7070/v1/stores/counts-store/keys/kafka
//!
//! cargo run --example word_count -- serve --bootstrap-servers 127.0.0.1:9092 --application-id word-count
//! ```

use std::{collections::BTreeMap, process::ExitCode};

use holdfast::{
    Service,
    cli::{Expected, LoadPlan, LoadRecord, Sample, Scenario},
    config::DomainSettings,
};
use holdfast_stream::prelude::*;

fn topology() -> Result<Topology, TopologyError> {
    let builder = TopologyBuilder::new();
    let text_lines = builder.stream("text-lines", Consumed::values(Utf8));

    text_lines
        .flat_map_values(|line: &String| line.to_lowercase().split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .group_by(|_key, word| word.clone())
        .count(Materialized::named("counts-store"))
        .to_stream()
        .to("words-with-counts");

    builder.build()
}

/// Lines for the demo: the same ones, over and over.
struct Lines;

const LINES: [&str; 4] =
    ["all streams lead to kafka", "hello kafka streams", "join kafka summit", "a table is a stream that holds fast"];

impl Scenario for Lines {
    fn topic(&self, _settings: &DomainSettings) -> String {
        "text-lines".to_owned()
    }

    fn records(&self, plan: &LoadPlan) -> Box<dyn Iterator<Item = LoadRecord> + Send> {
        let end = usize::try_from(plan.records.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        // Keys only spread the lines over partitions.
        let keys = usize::try_from(plan.keys).unwrap_or(1).max(1);
        let record = move |number: usize| LoadRecord {
            key: (number % keys).to_string().into_bytes(),
            value: LINES[number % LINES.len()].as_bytes().to_vec(),
        };
        Box::new((0..end).map(record))
    }

    fn expected(&self, plan: &LoadPlan) -> Expected {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for record in self.records(plan) {
            for word in String::from_utf8_lossy(&record.value).split(' ') {
                *counts.entry(word.to_owned()).or_default() += 1;
            }
        }
        let counts = counts.into_iter().map(|(word, count)| (word, count.into())).collect();
        Expected::from([("counts-store".to_owned(), counts)])
    }

    fn sample(&self) -> Sample {
        Sample { store: "counts-store".to_owned(), key: "kafka".to_owned(), path: None, grpc: None }
    }
}

fn main() -> ExitCode {
    Service::new(topology).name("word-count").scenario(Lines).default_command("demo").run()
}
