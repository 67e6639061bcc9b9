//! Wiring: settings, topology and routes become a process that joins, serves, drains and ends.

mod bounds;
mod descriptors;
mod error;
mod idle;
mod instance;
mod peer;
pub mod processing;
pub mod server;
pub mod workers;

#[cfg(test)]
pub(crate) mod testing;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

pub use self::{error::AppError, instance::Instance};
use crate::{cli::Service, config::Settings};

/// Runs an instance until SIGTERM or SIGINT, an operator's drain, or a fatal error. Blocks; a second signal ends it at once.
pub fn run(service: &Service, settings: Settings) -> Result<(), AppError> {
    // Accepts connections, which others serve (see `workers`), and does what is to be done now and then.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("control").enable_all().build()?;
    let outcome = runtime.block_on(async {
        // Before anything else: a signal during the start is not lost, and does not kill what has just been opened.
        let mut signals = Signals::listen()?;
        let instance = tokio::select! {
            started = Instance::start(service, settings) => started?,
            name = signals.next() => {
                info!(signal = name, "stopped before the start was complete");
                return Ok(());
            }
        };
        let ended = tokio::select! {
            name = signals.next() => {
                info!(signal = name, "stopping");
                Ok(())
            }
            ended = instance.ended() => ended,
        };
        if let Err(fatal) = &ended {
            error!(error = %fatal, "stopping");
        }
        tokio::select! {
            drained = instance.shutdown() => drained?,
            name = signals.next() => {
                warn!(signal = name, "stopped a second time: ending without a drain");
                return Err(AppError::Interrupted);
            }
        }
        ended
    });
    // A read that hangs on a disk must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, AppError> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
