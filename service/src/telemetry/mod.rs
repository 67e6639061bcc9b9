//! Metrics, logs and traces of the process.

pub mod logs;
pub mod metrics;
pub mod names;
pub mod request_id;
pub mod requests;
