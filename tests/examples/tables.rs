//! The counterpart of tests/java/Tables.java: counts of words, a table with deletions, and that table grouped anew.

use std::process::ExitCode;

use holdfast::{Service, config::DomainSettings};
use holdfast_stream::prelude::*;

fn topology(settings: &DomainSettings) -> Result<Topology, TopologyError> {
    let lines = settings.text("lines_topic", "lines", "Topic of lines of words");
    let homes = settings.text("homes_topic", "homes", "Topic of cities, keyed by who lives there");
    let builder = TopologyBuilder::new();
    builder
        .stream(&lines, Consumed::values(Utf8))
        .flat_map_values(|line: &String| line.to_lowercase().split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .group_by(|_key, word| word.clone())
        .count(Materialized::named("Counts"));
    builder
        .table_with(&homes, Consumed::with(Utf8, Utf8), Materialized::named("Homes"))
        .group_by(|person: &String, city: &String| (city.clone(), person.clone()))
        .count(Materialized::named("Residents"));
    builder.build()
}

fn main() -> ExitCode {
    Service::new(topology).name("tables").run()
}
