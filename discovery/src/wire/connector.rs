//! Opens connections to brokers: addresses, TCP, TLS, ApiVersions, login.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::{
    address::BrokerAddress,
    connection::Connection,
    error::WireError,
    sasl,
    security::{Security, SocketSettings},
    tls::{self, TlsError},
};

/// Bytes to and from a broker, encrypted or not.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Everything needed to open a connection; cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector {
    security: Arc<Security>,
    tls: Option<TlsConnector>,
    client_id: Arc<str>,
}

impl Connector {
    /// Reads certificates and keys, so that what is wrong with them is said at the start.
    pub(crate) fn new(security: Security, client_id: impl Into<Arc<str>>) -> Result<Self, TlsError> {
        let tls = security.tls.as_ref().map(tls::client_config).transpose()?.map(TlsConnector::from);
        Ok(Self { security: Arc::new(security), tls, client_id: client_id.into() })
    }

    pub(crate) fn socket(&self) -> &SocketSettings {
        &self.security.socket
    }

    /// Connects, negotiates versions and logs in.
    pub(crate) async fn open(&self, address: &BrokerAddress) -> Result<Connection, WireError> {
        let after = self.socket().setup_timeout;
        match timeout(after, self.open_unbounded(address)).await {
            Ok(opened) => opened,
            Err(_) => Err(WireError::TimedOut { peer: address.to_string(), request: "connection setup", after }),
        }
    }

    async fn open_unbounded(&self, address: &BrokerAddress) -> Result<Connection, WireError> {
        let peer = address.to_string();
        let tcp =
            self.connect_tcp(address).await.map_err(|source| WireError::Connect { peer: peer.clone(), source })?;
        let stream: Box<dyn ByteStream> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let failed = |source| WireError::TlsHandshake { peer: peer.clone(), source };
                let name = ServerName::try_from(address.host.clone())
                    .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
                Box::new(tls.connect(name, tcp).await.map_err(failed)?)
            }
        };
        let mut connection = Connection::new(stream, peer, Arc::clone(&self.client_id));
        connection.negotiate_versions().await?;
        if let Some(settings) = &self.security.sasl {
            sasl::log_in(&mut connection, settings).await?;
        }
        Ok(connection)
    }

    /// Tries every address of the host, in the resolver's order.
    async fn connect_tcp(&self, address: &BrokerAddress) -> io::Result<TcpStream> {
        let mut last = None;
        for resolved in tokio::net::lookup_host((address.host.as_str(), address.port)).await? {
            if !self.socket().family.admits(resolved.ip()) {
                continue;
            }
            match TcpStream::connect(resolved).await {
                Ok(stream) => {
                    // Heartbeats and commits are small and wait for their answer.
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no usable address")))
    }

    /// Logs in anew when the broker would soon close the connection for the age of its login (KIP-368).
    pub(crate) async fn keep_logged_in(&self, connection: &mut Connection) -> Result<(), WireError> {
        match &self.security.sasl {
            Some(settings) if connection.login_is_due() => sasl::log_in(connection, settings).await,
            _ => Ok(()),
        }
    }
}
