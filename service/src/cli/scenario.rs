//! What `demo` and `generate` send, and what the tables must hold afterwards.

use std::collections::BTreeMap;

use crate::config::DomainSettings;

/// What to generate. The same plan gives the same records in the same order, on any machine and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadPlan {
    /// Number of records; `None` never ends.
    pub records: Option<u64>,
    /// Number of distinct keys; at least 1.
    pub keys: u32,
    /// Where the random numbers start.
    pub seed: u64,
}

impl Default for LoadPlan {
    fn default() -> Self {
        Self { records: None, keys: 100, seed: 42 }
    }
}

/// A record to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadRecord {
    /// Its key as bytes.
    pub key: Vec<u8>,
    /// Its value as bytes.
    pub value: Vec<u8>,
}

/// Rows that a load leads to: by store, then by the key's text, as `query scan` prints keys and values.
pub type Expected = BTreeMap<String, BTreeMap<String, serde_json::Value>>;

/// A row to ask for in the demo's three commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// A store of the topology.
    pub store: String,
    /// A key that exists soon after the start, as text.
    pub key: String,
    /// A path of the service's own that answers the row; without one the generic path is shown.
    pub path: Option<String>,
    /// A gRPC method of the service's own and its request in JSON; without one the generic method is shown.
    pub grpc: Option<(String, String)>,
}

/// A load for `demo` and `generate`.
pub trait Scenario: Send + Sync + 'static {
    /// The topic that it is sent to.
    fn topic(&self, settings: &DomainSettings) -> String;

    /// The records, in order.
    fn records(&self, plan: &LoadPlan) -> Box<dyn Iterator<Item = LoadRecord> + Send>;

    /// What every row must be after all records of `plan`, which has an end; computed without the topology.
    fn expected(&self, plan: &LoadPlan) -> Expected;

    /// A row to ask for.
    fn sample(&self) -> Sample;
}
