//! Wiring: settings, topology and routes become a process that joins, serves, drains and ends.

pub mod server;
pub mod processing;

#[cfg(test)]
pub(crate) mod testing;
