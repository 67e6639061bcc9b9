//! The one table of error codes: what each is called, its HTTP status, its gRPC status, and whether to try again.

use std::{fmt, time::Duration};

use http::StatusCode;
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of [`tonic_types::ErrorInfo`] in every status.
pub const ERROR_DOMAIN: &str = "holdfast.dev";

/// What went wrong, as clients see it over REST and gRPC alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The key has no row. Only a copy that is allowed to answer says so.
    NotFound,
    /// The topology has no queryable store of that name.
    StoreNotFound,
    /// No such path or method of the API.
    PathNotFound,
    /// The path exists, the HTTP method does not.
    MethodNotAllowed,
    /// The request itself is wrong; see the reason.
    InvalidArgument,
    /// What changes something, and what only instances may ask, needs the instances' secret.
    Unauthenticated,
    /// Body, key or batch are over a bound.
    PayloadTooLarge,
    /// Nobody can answer now; see the reason.
    Unavailable,
    /// The time limit of the request passed.
    DeadlineExceeded,
    /// Too much at once: requests in flight, or rows asked.
    ResourceExhausted,
    /// Part of the API that this version does not serve.
    Unimplemented,
    /// A defect, or a disk that fails.
    Internal,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 12] = [
        Self::NotFound,
        Self::StoreNotFound,
        Self::PathNotFound,
        Self::MethodNotAllowed,
        Self::InvalidArgument,
        Self::Unauthenticated,
        Self::PayloadTooLarge,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::ResourceExhausted,
        Self::Unimplemented,
        Self::Internal,
    ];

    const fn row(self) -> (&'static str, StatusCode, tonic::Code, &'static str, bool) {
        use tonic::Code as Grpc;
        match self {
            Self::NotFound => ("NOT_FOUND", StatusCode::NOT_FOUND, Grpc::NotFound, "No such key", false),
            Self::StoreNotFound => ("STORE_NOT_FOUND", StatusCode::NOT_FOUND, Grpc::NotFound, "No such store", false),
            Self::PathNotFound => ("PATH_NOT_FOUND", StatusCode::NOT_FOUND, Grpc::Unimplemented, "No such path", false),
            Self::MethodNotAllowed => {
                ("METHOD_NOT_ALLOWED", StatusCode::METHOD_NOT_ALLOWED, Grpc::Unimplemented, "Method not allowed", false)
            }
            Self::InvalidArgument => {
                ("INVALID_ARGUMENT", StatusCode::BAD_REQUEST, Grpc::InvalidArgument, "Invalid argument", false)
            }
            Self::Unauthenticated => {
                ("UNAUTHENTICATED", StatusCode::UNAUTHORIZED, Grpc::Unauthenticated, "Not let in", false)
            }
            Self::PayloadTooLarge => {
                ("PAYLOAD_TOO_LARGE", StatusCode::PAYLOAD_TOO_LARGE, Grpc::OutOfRange, "Over a size limit", false)
            }
            Self::Unavailable => {
                ("UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE, Grpc::Unavailable, "Nobody can answer now", true)
            }
            Self::DeadlineExceeded => {
                ("DEADLINE_EXCEEDED", StatusCode::GATEWAY_TIMEOUT, Grpc::DeadlineExceeded, "Time limit passed", true)
            }
            Self::ResourceExhausted => {
                ("RESOURCE_EXHAUSTED", StatusCode::TOO_MANY_REQUESTS, Grpc::ResourceExhausted, "Too much at once", true)
            }
            Self::Unimplemented => {
                ("UNIMPLEMENTED", StatusCode::NOT_IMPLEMENTED, Grpc::Unimplemented, "Not served by this version", false)
            }
            Self::Internal => ("INTERNAL", StatusCode::INTERNAL_SERVER_ERROR, Grpc::Internal, "Internal error", false),
        }
    }

    /// The name in problem documents and error details: `NOT_FOUND`.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status.
    pub const fn http(self) -> StatusCode {
        self.row().1
    }

    /// The gRPC status; a missing key and a missing store differ in the details' reason.
    pub const fn grpc(self) -> tonic::Code {
        self.row().2
    }

    /// A title that never changes with the request.
    pub const fn title(self) -> &'static str {
        self.row().3
    }

    /// Whether the same request can succeed later.
    pub const fn retryable(self) -> bool {
        self.row().4
    }

    /// The code of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why, for the codes that have several causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// INVALID_ARGUMENT: the key does not fit the store's key format.
    Key,
    /// INVALID_ARGUMENT: the cursor is not one of ours, or belongs to another scan.
    Cursor,
    /// INVALID_ARGUMENT: an option or field is unknown, malformed or out of bounds.
    Parameter,
    /// INVALID_ARGUMENT: the body is not what the method takes.
    Body,
    /// UNAVAILABLE: the copy is being rebuilt from its changelog.
    Restoring,
    /// UNAVAILABLE: no instance owns the partition now.
    NoOwner,
    /// UNAVAILABLE: the owner did not answer.
    OwnerUnreachable,
    /// UNAVAILABLE: another instance owns the key and the caller asked for its address instead of a forward.
    NotHere,
    /// UNAVAILABLE: the instance has not joined its group yet, or is leaving it.
    NotReady,
    /// UNAVAILABLE: every copy within reach is older than the request allows.
    Stale,
    /// DEADLINE_EXCEEDED: the copy did not reach `min_position` in time.
    Position,
    /// DEADLINE_EXCEEDED: the group coordinator did not confirm this instance in time for a strong read.
    Confirmation,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 12] = [
        Self::Key,
        Self::Cursor,
        Self::Parameter,
        Self::Body,
        Self::Restoring,
        Self::NoOwner,
        Self::OwnerUnreachable,
        Self::NotHere,
        Self::NotReady,
        Self::Stale,
        Self::Position,
        Self::Confirmation,
    ];

    /// The name in problem documents and error details: `restoring`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Cursor => "cursor",
            Self::Parameter => "parameter",
            Self::Body => "body",
            Self::Restoring => "restoring",
            Self::NoOwner => "no_owner",
            Self::OwnerUnreachable => "owner_unreachable",
            Self::NotHere => "not_here",
            Self::NotReady => "not_ready",
            Self::Stale => "stale",
            Self::Position => "position",
            Self::Confirmation => "confirmation",
        }
    }

    /// The code that it refines.
    pub const fn code(self) -> Code {
        match self {
            Self::Key | Self::Cursor | Self::Parameter | Self::Body => Code::InvalidArgument,
            Self::Restoring | Self::NoOwner | Self::OwnerUnreachable | Self::NotHere | Self::NotReady | Self::Stale => {
                Code::Unavailable
            }
            Self::Position | Self::Confirmation => Code::DeadlineExceeded,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error on its way to a client, before REST or gRPC gives it a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub code: Code,
    /// Why, for codes that have several causes.
    pub reason: Option<Reason>,
    /// What was expected, what came, what to do.
    pub detail: String,
    /// When a later try may succeed.
    pub retry_after: Option<Duration>,
    /// Further members (`store`, `partition`, `owner`, …), in order.
    pub members: Vec<(&'static str, String)>,
}

impl Failure {
    /// A failure without a reason.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, reason: None, detail: detail.into(), retry_after: None, members: Vec::new() }
    }

    /// A failure with the reason's code.
    pub fn because(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason: Some(reason), ..Self::new(reason.code(), detail) }
    }

    /// With the time after which to try again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// With one more member.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.members.push((name, value.into()));
        self
    }
}

impl From<&Failure> for tonic::Status {
    fn from(failure: &Failure) -> Self {
        let mut metadata: std::collections::HashMap<String, String> =
            failure.members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        if let Some(reason) = failure.reason {
            metadata.insert("reason".to_owned(), reason.as_str().to_owned());
        }
        let mut details = ErrorDetails::new();
        details.set_error_info(failure.code.as_str(), ERROR_DOMAIN, metadata);
        if let Some(after) = failure.retry_after {
            details.set_retry_info(Some(after));
        }
        Self::with_error_details(failure.code.grpc(), failure.detail.clone(), details)
    }
}

impl From<Failure> for tonic::Status {
    fn from(failure: Failure) -> Self {
        Self::from(&failure)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_parse_back() {
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        let reasons: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(reasons.len(), Reason::ALL.len());
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(code));
            assert!(!code.title().is_empty());
            assert!(code.http().is_client_error() || code.http().is_server_error(), "{code}");
            assert_ne!(code.grpc(), tonic::Code::Ok);
        }
    }

    /// A load balancer retries 503, and gRPC's NOT_FOUND may be cached: neither may stand for the other.
    #[test]
    fn not_found_never_stands_for_not_available() {
        for code in Code::ALL {
            let missing = matches!(code, Code::NotFound | Code::StoreNotFound);
            assert_eq!(code.grpc() == tonic::Code::NotFound, missing, "{code}");
            assert_eq!(code.http() == StatusCode::SERVICE_UNAVAILABLE, code == Code::Unavailable, "{code}");
            assert_eq!(code.grpc() == tonic::Code::Unavailable, code == Code::Unavailable, "{code}");
        }
        for reason in Reason::ALL {
            assert_ne!(reason.code(), Code::NotFound, "{reason}");
        }
    }

    #[test]
    fn a_status_carries_code_reason_and_retry() {
        let failure = Failure::because(Reason::Restoring, "task 0_1 restores")
            .retry_after(Duration::from_millis(1500))
            .with("task", "0_1");
        let status = tonic::Status::from(&failure);
        assert_eq!(status.code(), tonic::Code::Unavailable);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("UNAVAILABLE", ERROR_DOMAIN));
        assert_eq!(info.metadata["reason"], "restoring");
        assert_eq!(info.metadata["task"], "0_1");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(1500)));
    }
}
