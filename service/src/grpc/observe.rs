//! How gRPC calls are observed: by their method and their status, which an error has in its head ("trailers only"). An answer
//! that began well may still end otherwise.

use std::collections::HashSet;

use axum::{extract::Request, response::Response};
use tonic::{Code, Status, body::Body};

use crate::{
    query::QueryError,
    telemetry::observe::{Ended, Outcome, Protocol},
};

/// Label of calls to methods that no descriptor names.
const UNKNOWN: &str = "unknown";

/// See [`Protocol`]. Methods that descriptors name get a label of their own.
#[derive(Debug)]
pub(super) struct Grpc {
    methods: HashSet<String>,
}

impl Grpc {
    pub(super) fn new(methods: impl IntoIterator<Item = String>) -> Self {
        Self { methods: methods.into_iter().collect() }
    }
}

impl Protocol for Grpc {
    const NAME: &'static str = "grpc";

    fn route<'a>(&'a self, request: &'a Request) -> &'a str {
        self.methods.get(request.uri().path()).map_or(UNKNOWN, String::as_str)
    }

    fn is_exempt(route: &str) -> bool {
        route.starts_with("/grpc.health.")
    }

    fn refused(error: QueryError) -> Response {
        Status::from(error).into_http::<Body>().map(axum::body::Body::new)
    }

    fn ended(response: &Response) -> Ended {
        let code = response.headers().get("grpc-status").map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()));
        let outcome = match code {
            Code::Ok => Outcome::Answered,
            Code::Internal | Code::Unknown | Code::DataLoss => Outcome::Failed,
            _ => Outcome::Refused,
        };
        Ended { code: code as u16, reason: code.description(), outcome }
    }
}
