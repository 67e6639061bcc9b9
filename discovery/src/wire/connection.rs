//! One connection to one broker: a request, then its answer, by correlation id.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf as _, BufMut as _, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader},
    protocol::{Decodable, Encodable as _, HeaderVersion, Request, StrBytes},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    connector::ByteStream,
    error::{WireError, code},
    versions::ApiVersions,
};

/// The longest answer that is read. The largest is JoinGroup's to the leader: every member's subscription.
const MAX_FRAME_BYTES: usize = 32 << 20;

/// Part of a login's lifetime after which it is renewed.
const LOGIN_RENEWAL: f64 = 0.8;

/// An open connection. After an error (other than `Unsupported`) it is out of step with the broker: drop it.
pub(crate) struct Connection {
    stream: Box<dyn ByteStream>,
    peer: String,
    client_id: Arc<str>,
    correlation_id: i32,
    versions: ApiVersions,
    login_due: Option<Instant>,
}

impl Connection {
    pub(super) fn new(stream: Box<dyn ByteStream>, peer: String, client_id: Arc<str>) -> Self {
        Self { stream, peer, client_id, correlation_id: 0, versions: ApiVersions::default(), login_due: None }
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// The version in which [`Connection::call`] would send `R`, if the broker offers one up to `newest`.
    pub(crate) fn version_of<R: Request>(&self, newest: i16) -> Option<i16> {
        self.versions.choose::<R>(newest)
    }

    /// As [`Connection::version_of`], where an absent version is an error.
    pub(crate) fn require<R: Request>(&self, newest: i16) -> Result<i16, WireError> {
        self.version_of::<R>(newest).ok_or_else(|| WireError::Unsupported {
            peer: self.peer.clone(),
            request: request_name::<R>(),
            min: R::VERSIONS.min,
            max: R::VERSIONS.max.min(newest),
        })
    }

    /// Sends `request` in `version` and waits for its answer for up to `after`.
    pub(crate) async fn call<R: Request>(
        &mut self,
        request: &R,
        version: i16,
        after: Duration,
    ) -> Result<R::Response, WireError> {
        match timeout(after, self.exchange(request, version)).await {
            Ok(answer) => answer,
            Err(_) => Err(WireError::TimedOut { peer: self.peer.clone(), request: request_name::<R>(), after }),
        }
    }

    async fn exchange<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response, WireError> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let frame = self.encode(request, version)?;
        let broken =
            |peer: &str, source| WireError::Broken { peer: peer.to_owned(), request: request_name::<R>(), source };
        self.stream.write_all(&frame).await.map_err(|error| broken(&self.peer, error))?;
        self.stream.flush().await.map_err(|error| broken(&self.peer, error))?;

        let length = self.stream.read_i32().await.map_err(|error| broken(&self.peer, error))?;
        let length =
            usize::try_from(length).ok().filter(|length| (4..=MAX_FRAME_BYTES).contains(length)).ok_or_else(|| {
                self.malformed::<R>(format!("expected 4 to {MAX_FRAME_BYTES} bytes, got a length of {length}"))
            })?;
        let mut answer = BytesMut::zeroed(length);
        self.stream.read_exact(&mut answer).await.map_err(|error| broken(&self.peer, error))?;
        self.decode::<R>(answer.freeze(), version)
    }

    fn encode<R: Request>(&self, request: &R, version: i16) -> Result<BytesMut, WireError> {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_string(self.client_id.to_string())));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        let unencodable = |error| self.malformed::<R>(format!("the request cannot be encoded: {error:#}"));
        header.encode(&mut frame, R::header_version(version)).map_err(unencodable)?;
        request.encode(&mut frame, version).map_err(unencodable)?;
        let length = i32::try_from(frame.len() - 4)
            .map_err(|_| self.malformed::<R>("the request is longer than 2 GiB".to_owned()))?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok(frame)
    }

    fn decode<R: Request>(&self, mut answer: bytes::Bytes, version: i16) -> Result<R::Response, WireError> {
        let unreadable = |error| self.malformed::<R>(format!("{error:#}"));
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version)).map_err(unreadable)?;
        if header.correlation_id != self.correlation_id {
            return Err(self.malformed::<R>(format!(
                "expected the answer to request {}, got {}'s",
                self.correlation_id, header.correlation_id
            )));
        }
        // A broker that does not know our version of ApiVersions answers in version 0, with UNSUPPORTED_VERSION.
        if R::KEY == ApiKey::ApiVersions as i16
            && answer.len() >= 2
            && answer.slice(0..2).get_i16() == code::UNSUPPORTED_VERSION
        {
            return R::Response::decode(&mut answer, 0).map_err(unreadable);
        }
        R::Response::decode(&mut answer, version).map_err(unreadable)
    }

    fn malformed<R: Request>(&self, reason: String) -> WireError {
        WireError::Malformed { peer: self.peer.clone(), request: request_name::<R>(), reason }
    }

    /// Asks what the broker offers; the first request on every connection.
    pub(super) async fn negotiate_versions(&mut self) -> Result<(), WireError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("holdfast"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let mut answer: ApiVersionsResponse = self.exchange(&request, 3).await.map_err(|error| match error {
            WireError::Broken { peer, source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
                WireError::OtherListener { peer, reason: "it closed the connection at the first request".to_owned() }
            }
            WireError::Malformed { peer, reason, .. } => WireError::OtherListener { peer, reason },
            other => other,
        })?;
        if answer.error_code == code::UNSUPPORTED_VERSION {
            answer = self.exchange(&ApiVersionsRequest::default(), 0).await?;
        }
        if answer.error_code != code::NONE {
            let (peer, code) = (self.peer.clone(), answer.error_code);
            return Err(WireError::Refused { peer, request: request_name::<ApiVersionsRequest>(), code });
        }
        self.versions = ApiVersions::from_response(&answer);
        Ok(())
    }

    /// The login lasts for `lifetime`; zero means for ever.
    pub(super) fn logged_in_for(&mut self, lifetime: Duration) {
        self.login_due = (!lifetime.is_zero()).then(|| Instant::now() + lifetime.mul_f64(LOGIN_RENEWAL));
    }

    pub(super) fn login_is_due(&self) -> bool {
        self.login_due.is_some_and(|due| Instant::now() >= due)
    }
}

/// `JoinGroup`.
pub(super) fn request_name<R: Request>() -> &'static str {
    let path = std::any::type_name::<R>();
    path.rsplit("::").next().unwrap_or(path).trim_end_matches("Request")
}
