//! What can go wrong between here and a broker, and Kafka's error codes by name.

use std::{io, time::Duration};

use kafka_protocol::error::ResponseError;

/// A request that brought no usable answer. The connection is not used again after any of these but `Unsupported`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// No connection.
    #[error("cannot connect to {peer}: {source}")]
    Connect {
        peer: String,
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error(
        "TLS handshake with {peer} failed: {source} (is this a TLS listener, and is ssl.ca.location the CA that signed its certificate?)"
    )]
    TlsHandshake {
        peer: String,
        #[source]
        source: io::Error,
    },
    /// The broker did not accept the credentials.
    #[error("{peer} refused the login ({mechanism}): {reason}")]
    Authentication { peer: String, mechanism: &'static str, reason: String },
    /// The connection broke in the middle of a request.
    #[error("connection to {peer} broke in {request}: {source}")]
    Broken {
        peer: String,
        request: &'static str,
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("no answer from {peer} to {request} within {after:?}")]
    TimedOut { peer: String, request: &'static str, after: Duration },
    /// The broker has no version of the request that is spoken here.
    #[error("{peer} does not offer {request} in a version between {min} and {max}")]
    Unsupported { peer: String, request: &'static str, min: i16, max: i16 },
    /// Bytes that are no answer.
    #[error("{peer} sent an answer to {request} that cannot be read: {reason}")]
    Malformed { peer: String, request: &'static str, reason: String },
    /// The first answer shows that this is another kind of listener.
    #[error("{peer} does not speak Kafka's protocol here: {reason} (is security.protocol what this listener expects?)")]
    OtherListener { peer: String, reason: String },
    /// The broker answered with an error code.
    #[error("{peer} answered {request} with {}", code_name(*.code))]
    Refused { peer: String, request: &'static str, code: i16 },
    /// Nobody has said yet who the coordinator is.
    #[error("the group coordinator is not known yet")]
    NoCoordinator,
    /// No broker of the list could be used; the last one's reason.
    #[error("no broker of {servers} is reachable; the last: {last}")]
    NoBroker { servers: String, last: Box<WireError> },
}

impl WireError {
    /// Whether asking again cannot help until somebody changes a setting.
    pub(crate) fn is_unsupported(&self) -> bool {
        match self {
            Self::Unsupported { .. } => true,
            Self::Refused { code, .. } => *code == code::UNSUPPORTED_VERSION,
            _ => false,
        }
    }
}

/// `NOT_COORDINATOR (16)`.
pub(crate) fn code_name(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        None => "NONE (0)".to_owned(),
        Some(ResponseError::Unknown(code)) => format!("error code {code}"),
        Some(error) => {
            // The codec prints NotCoordinator; everyone searches for NOT_COORDINATOR.
            let mut name = String::new();
            for letter in format!("{error:?}").chars() {
                if letter.is_ascii_uppercase() && !name.is_empty() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            format!("{name} ({code})")
        }
    }
}

/// Kafka's error codes that somebody here decides by (`org.apache.kafka.common.protocol.Errors`).
pub(crate) mod code {
    pub(crate) const NONE: i16 = 0;
    pub(crate) const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
    pub(crate) const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    pub(crate) const NOT_COORDINATOR: i16 = 16;
    pub(crate) const ILLEGAL_GENERATION: i16 = 22;
    pub(crate) const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
    pub(crate) const UNKNOWN_MEMBER_ID: i16 = 25;
    pub(crate) const INVALID_SESSION_TIMEOUT: i16 = 26;
    pub(crate) const REBALANCE_IN_PROGRESS: i16 = 27;
    pub(crate) const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
    pub(crate) const GROUP_AUTHORIZATION_FAILED: i16 = 30;
    pub(crate) const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
    pub(crate) const UNSUPPORTED_VERSION: i16 = 35;
    pub(crate) const CONCURRENT_TRANSACTIONS: i16 = 51;
    pub(crate) const OPERATION_NOT_ATTEMPTED: i16 = 55;
    pub(crate) const GROUP_ID_NOT_FOUND: i16 = 69;
    pub(crate) const MEMBER_ID_REQUIRED: i16 = 79;
    pub(crate) const GROUP_MAX_SIZE_REACHED: i16 = 81;
    pub(crate) const FENCED_INSTANCE_ID: i16 = 82;
    pub(crate) const UNSTABLE_OFFSET_COMMIT: i16 = 88;
    pub(crate) const TRANSACTIONAL_ID_NOT_FOUND: i16 = 105;

    /// The coordinator is elsewhere, or not there yet.
    pub(crate) const fn is_coordinator_away(code: i16) -> bool {
        matches!(code, COORDINATOR_LOAD_IN_PROGRESS | COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named_as_kafka_names_them() {
        assert_eq!(code_name(16), "NOT_COORDINATOR (16)");
        assert_eq!(code_name(27), "REBALANCE_IN_PROGRESS (27)");
        assert_eq!(code_name(0), "NONE (0)");
        assert_eq!(code_name(30_000), "error code 30000");
    }
}
