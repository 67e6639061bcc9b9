//! The command line: a service as its author describes it, and the commands that every service has.

mod args;
mod describe;
pub(crate) mod generate;
mod load;
mod query;
mod reset;
mod scenario;
mod serve;
mod service;

use std::{fmt, process::ExitCode};

use crate::query::Queries;

pub(crate) use args::Invocation;
#[cfg(feature = "embedded")]
pub(crate) use load::{Load, LoadError, Pace, Progress};
#[cfg(not(feature = "embedded"))]
pub(crate) use load::{Load, Pace, Progress};
pub use scenario::{Expected, LoadPlan, LoadRecord, Sample, Scenario};
pub use service::{IntoTopology, Routes, Service};

/// Runs a service of this topology with these routes: command line, configuration, serving, signals.
///
/// `topology` is a function without arguments, or one that reads settings of its own from
/// [`DomainSettings`](crate::config::DomainSettings); `routes` makes the REST and gRPC routes that come on top of the
/// generic ones. [`Service`] takes more: a name, a load for the demo.
pub fn run<M, R: Into<Routes>>(
    topology: impl IntoTopology<M>,
    routes: impl Fn(Queries) -> R + Send + Sync + 'static,
) -> ExitCode {
    Service::new(topology).routes(routes).run()
}

/// Why a command failed, as one message for standard error.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    status: u8,
}

impl Failure {
    /// Anything but "not found".
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), status: 2 }
    }

    /// The key does not exist.
    pub(crate) fn not_found(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), status: 1 }
    }

    /// The command did its work, and the outcome is bad.
    #[cfg(feature = "embedded")]
    pub(crate) fn outcome(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), status: 1 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        // With its causes: the first line alone often says only what was tried.
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Self::new(message)
    }
}

#[cfg(test)]
mod tests;
