//! The broker of the demo: `tansu`'s protocol and group coordinator over a log in memory, in this process.
//!
//! It is for trying things out: nothing survives the process, there are no transactions, and the oldest records of a
//! partition go when it outgrows its bound.

mod log;
mod state;
mod storage;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::mpsc,
    thread::JoinHandle,
};

use rama::{Context, Service as _};
use tansu_broker::{coordinator::group::administrator::Controller, service::services};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use log::{LogBounds, LogError};
pub(crate) use storage::MemoryStorage;

/// Name of the cluster that the broker reports.
const CLUSTER: &str = "holdfast-demo";
const NODE: i32 = 1;

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The port is taken, or a thread could not be started.
    #[error("the embedded broker could not start: {0}")]
    Io(#[from] io::Error),
    /// The protocol layer refused its configuration.
    #[error("the embedded broker could not start: {0}")]
    Protocol(String),
}

/// A broker that runs until it is dropped.
#[derive(Debug)]
pub struct EmbeddedBroker {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// Starts a broker on a free port of the loopback address, or on `port`.
    pub fn start(port: u16, bounds: LogBounds) -> Result<Self, BrokerError> {
        let stop = CancellationToken::new();
        let (report, started) = mpsc::channel();
        let token = stop.clone();
        // One thread with one runtime of its own: requests of all connections are served one after the other, which is
        // what the coordinator and the log want, and the demo's other work cannot starve them.
        let thread = std::thread::Builder::new().name("broker".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(serve(port, bounds, &report, token)),
                Err(error) => drop(report.send(Err(error.into()))),
            }
        })?;
        let address = started.recv().map_err(|_| BrokerError::Protocol("its thread ended early".to_owned()))??;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens: what `bootstrap_servers` needs.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // Its connections are cut, so that it ends at once; a panic in it was its own.
            let _ = thread.join();
        }
    }
}

type Report = mpsc::Sender<Result<SocketAddr, BrokerError>>;

async fn serve(port: u16, bounds: LogBounds, report: &Report, stop: CancellationToken) {
    let bound = async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        let storage = MemoryStorage::new(CLUSTER, NODE, address, bounds);
        let groups =
            Controller::with_storage(storage.clone()).map_err(|error| BrokerError::Protocol(error.to_string()))?;
        Ok((listener, address, storage, groups))
    };
    let (listener, address, storage, groups) = match bound.await {
        Ok(parts) => parts,
        Err(error) => return drop(report.send(Err(error))),
    };
    if report.send(Ok(address)).is_err() {
        return;
    }
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // A connection that went away before it was taken.
                Err(_) => continue,
            },
        };
        // Small answers must not wait for the next one.
        let _ = stream.set_nodelay(true);
        match services(CLUSTER, groups.clone(), storage.clone(), None) {
            Ok(service) => {
                connections.spawn(async move {
                    // An error here is a client that went away.
                    if let Err(error) = service.serve(Context::default(), stream).await {
                        tracing::debug!(%error, "a connection to the embedded broker ended");
                    }
                });
            }
            Err(error) => tracing::error!(%error, "the embedded broker cannot serve a connection"),
        }
    }
    connections.shutdown().await;
}
