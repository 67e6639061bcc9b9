//! Kafka's wire: one connection, its security, and how to find the broker that answers for a group or a transaction.

pub(crate) mod address;
pub(crate) mod cluster;
pub(crate) mod connection;
pub(crate) mod connector;
pub(crate) mod error;
mod sasl;
pub(crate) mod security;
pub(crate) mod tls;
mod versions;
