//! A connection to whoever is the coordinator now, opened when it is needed.

use std::time::Duration;

use kafka_protocol::protocol::Request;
use tokio::sync::watch;

use crate::wire::{address::BrokerAddress, connection::Connection, connector::Connector, error::WireError};

/// Keeps one connection to the coordinator.
pub(crate) struct Dialer {
    connector: Connector,
    coordinator: watch::Receiver<Option<BrokerAddress>>,
    open: Option<(BrokerAddress, Connection)>,
}

impl Dialer {
    pub(crate) fn new(connector: Connector, coordinator: watch::Receiver<Option<BrokerAddress>>) -> Self {
        Self { connector, coordinator, open: None }
    }

    /// How long an answer may take that the broker does not delay on purpose.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.connector.socket().request_timeout
    }

    /// Sends what `build` makes for the version that both sides speak (up to `newest`), and waits for up to `after`.
    ///
    /// A connection that was open before may have been closed by the broker for being idle: then the request is sent once
    /// more on a new one. All requests of a member may be repeated.
    pub(crate) async fn call<R: Request>(
        &mut self,
        newest: i16,
        after: Duration,
        build: impl Fn(i16) -> R,
    ) -> Result<R::Response, WireError> {
        let reused = self.is_current();
        match self.call_once(newest, after, &build).await {
            Err(WireError::Broken { .. }) if reused => self.call_once(newest, after, &build).await,
            answer => answer,
        }
    }

    async fn call_once<R: Request>(
        &mut self,
        newest: i16,
        after: Duration,
        build: &impl Fn(i16) -> R,
    ) -> Result<R::Response, WireError> {
        let connection = self.connection().await?;
        let version = connection.require::<R>(newest)?;
        let answer = connection.call(&build(version), version, after).await;
        if answer.is_err() {
            self.open = None;
        }
        answer
    }

    fn is_current(&self) -> bool {
        self.open.as_ref().is_some_and(|(address, _)| Some(address) == self.coordinator.borrow().as_ref())
    }

    async fn connection(&mut self) -> Result<&mut Connection, WireError> {
        let wanted = self.coordinator.borrow().clone().ok_or(WireError::NoCoordinator)?;
        // Taken out, so that what fails on the way stays out.
        let (address, mut connection) = match self.open.take() {
            Some(open) if open.0 == wanted => open,
            _ => {
                let connection = self.connector.open(&wanted).await?;
                (wanted, connection)
            }
        };
        self.connector.keep_logged_in(&mut connection).await?;
        let (_, connection) = self.open.insert((address, connection));
        Ok(connection)
    }
}
