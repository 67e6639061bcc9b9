//! What needs a real Kafka, several processes, or a killed one; and the harness that starts them.
//!
//! The harness starts real parts: Apache Kafka ([`kafka`]), the service's binary ([`instance`]), and clients that look
//! at both from outside ([`rest`], [`producer`], [`consumer`]). What the service must answer is computed by [`model`],
//! which shares no code with it. Everything here fails a test by panicking with what was expected and what came.

// The harness exists to fail tests: a panic with a clear message is its error type.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

pub mod brokers;
pub mod certificates;
pub mod chance;
pub mod cluster;
pub mod collector;
pub mod consumer;
pub mod faults;
pub mod grpc;
pub mod instance;
pub mod inventory;
pub mod java;
pub mod kafka;
pub mod kubernetes;
pub mod letters;
pub mod load;
pub mod log;
pub mod model;
pub mod network;
pub mod own_writes;
pub mod ports;
pub mod process;
pub mod producer;
pub mod readers;
pub mod rest;
pub mod state;
pub mod streams;
pub mod tasks;
pub mod traffic;
pub mod transactions;
pub mod wait;
pub mod wire;

use std::{future::Future, sync::LazyLock};

use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// Runs a client's future on the harness's runtime, so that tests read as plain functions.
pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// The harness's runtime, for a test that needs several requests at once.
pub fn runtime() -> &'static Runtime {
    &RUNTIME
}
