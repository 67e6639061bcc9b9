//! The shared secret of an application's instances. Whoever reaches the peer listener without it gets no row and is told
//! nothing; who has another one is refused the same way.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderValue};
use subtle::ConstantTimeEq;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
};

/// Where requests carry it.
pub(crate) const NAME: &str = "holdfast-peer-token";

/// What a request without it is told.
pub(crate) const REFUSAL: &str = "expected this application's peer_token in holdfast-peer-token, got none or another";

/// The secret, or none: then everybody who reaches the listener is let in.
#[derive(Clone, Default)]
pub(crate) struct Token(Option<Arc<MetadataValue<Ascii>>>);

/// The text cannot be sent as metadata.
#[derive(Debug, thiserror::Error)]
#[error("peer_token: expected visible ASCII characters, got others")]
pub struct TokenError;

impl Token {
    /// The secret of the setting `peer_token`.
    pub(crate) fn new(text: Option<&str>) -> Result<Self, TokenError> {
        let Some(text) = text else { return Ok(Self(None)) };
        let mut value: MetadataValue<Ascii> = text.parse().map_err(|_| TokenError)?;
        value.set_sensitive(true);
        Ok(Self(Some(Arc::new(value))))
    }

    /// A message that carries it.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.0 {
            request.metadata_mut().insert(NAME, MetadataValue::clone(token));
        }
        request
    }

    /// Whether a request carries it. How much of it was right shows neither in the answer nor in the time that it takes.
    pub(crate) fn lets_in(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.0 else { return true };
        let given = headers.get(NAME).map_or(&[][..], HeaderValue::as_bytes);
        bool::from(token.as_encoded_bytes().ct_eq(given))
    }

    /// The same for gRPC, with what to answer.
    pub(super) fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        if self.lets_in(metadata.as_ref()) { Ok(()) } else { Err(Status::unauthenticated(REFUSAL)) }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Token(****)" } else { "Token(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_token_is_let_in() {
        let token = |text| Token::new(text).unwrap();
        for (server, client, let_in) in [
            (None, None, true),
            (None, Some("a"), true),
            (Some("secret"), Some("secret"), true),
            (Some("secret"), Some("secreT"), false),
            (Some("secret"), Some("secret2"), false),
            (Some("secret"), Some("s"), false),
            (Some("secret"), None, false),
        ] {
            let request = token(client).request(());
            let outcome = token(server).check(request.metadata());
            assert_eq!(outcome.is_ok(), let_in, "{server:?} {client:?}");
            assert!(outcome.err().is_none_or(|status| status.code() == tonic::Code::Unauthenticated));
        }
        assert!(Token::new(Some("a\nb")).is_err());
        assert_eq!(format!("{:?}", token(Some("secret"))), "Token(****)");
    }
}
