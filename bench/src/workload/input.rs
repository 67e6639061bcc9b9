//! The flags that say which topic of which broker is measured.

use clap::Args;

use super::Topology;

/// Where the records are.
#[derive(Args, Clone, Debug)]
pub(crate) struct InputFlags {
    /// Brokers
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub(crate) bootstrap: String,
    /// What is counted
    #[arg(long, value_enum, default_value = "count")]
    pub(crate) topology: Topology,
    /// Input topic (default: events or items)
    #[arg(long)]
    topic: Option<String>,
}

impl InputFlags {
    /// The input topic.
    pub(crate) fn topic(&self) -> &str {
        self.topic.as_deref().unwrap_or(match self.topology {
            Topology::Count => "events",
            Topology::Both => "items",
        })
    }
}
