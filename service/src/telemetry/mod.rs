//! Metrics, logs and traces of the process.

pub mod logs;
pub mod metrics;
pub mod names;
pub(crate) mod observe;
pub mod request_id;
pub mod requests;
