//! Why an instance cannot start, or had to end.

use std::{io, sync::Arc};

use super::{processing::ProcessingError, server::ListenError};
use crate::{
    grpc::ReflectionError,
    peer::TokenError,
    telemetry::{logs::LogError, metrics::MetricsError},
};

/// Why an instance cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The topology is wrong.
    #[error("{0}")]
    Topology(String),
    /// The application's routes are wrong.
    #[error("the application's routes cannot be served beside the generic ones: {0}")]
    Routes(String),
    /// Logs or traces.
    #[error(transparent)]
    Logs(#[from] LogError),
    /// Metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The state directory, or a thread.
    #[error(transparent)]
    Processing(#[from] ProcessingError),
    /// The instances' shared secret.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Descriptors of gRPC services.
    #[error(transparent)]
    Reflection(#[from] ReflectionError),
    /// The system refuses threads, sockets or signals.
    #[error("the system refuses what an instance needs (threads, sockets, signals): {0}")]
    System(#[from] io::Error),
    /// Processing ended for good.
    #[error("{0}")]
    Fatal(Arc<str>),
    /// A second signal came during the drain.
    #[error("ended by a second signal before the drain was complete; what is missing is processed again")]
    Interrupted,
}
