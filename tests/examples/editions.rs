//! A service in three editions, which a rolling upgrade has side by side; the setting `edition` says which one a process is.

use std::process::ExitCode;

use holdfast::{Service, config::DomainSettings};
use holdfast_stream::prelude::*;

fn topology(settings: &DomainSettings) -> Result<Topology, TopologyError> {
    let edition = settings.text("edition", "first", "first; grown has one more table; changed counts otherwise");
    let orders = settings.text("orders_topic", "orders", "Topic of orders, keyed by item");
    let returns = settings.text("returns_topic", "returns", "Topic of returned orders, keyed by item");
    let builder = TopologyBuilder::new();
    let mut orders = builder.stream(&orders, Consumed::with(Utf8, Utf8));
    if &*edition == "changed" {
        // Lets all pass: the rows are the same, and who does it differs from who does not.
        orders = orders.filter(|_item, _order| true);
    }
    orders.group_by_key().count(Materialized::named("Ordered"));
    if &*edition == "grown" {
        builder.stream(&returns, Consumed::with(Utf8, Utf8)).group_by_key().count(Materialized::named("Returned"));
    }
    builder.build()
}

fn main() -> ExitCode {
    Service::new(topology).name("editions").run()
}
