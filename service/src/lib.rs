//! A serving layer for interactive queries over Kafka topics: wiring, router, REST, gRPC, admin, configuration, CLI.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
#[cfg(feature = "embedded")]
pub mod demo;
pub mod grpc;
pub mod inventory;
mod peer;
pub mod query;
pub mod rest;
pub mod telemetry;

pub use cli::{IntoTopology, Routes, Service, run};
