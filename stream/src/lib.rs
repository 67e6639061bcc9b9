//! The DSL, the topology, tasks, commit and restore, and the test driver; the only crate that imports rdkafka.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod codec;
pub mod dsl;
pub mod engine;
pub mod errors;
pub mod kafka;
pub mod prelude;
pub mod processor;
pub mod task;
pub mod test_driver;
pub mod topology;
