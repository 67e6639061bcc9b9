//! How REST requests are observed: by the template of their route, their status, and the code of their problem document.

use axum::{
    extract::{MatchedPath, Request},
    response::{IntoResponse, Response},
};

use super::problem::{Problem, Refused};
use crate::{
    query::QueryError,
    telemetry::observe::{Ended, Outcome, Protocol},
};

/// Label of requests that match no route.
const UNMATCHED: &str = "unmatched";

/// See [`Protocol`].
#[derive(Debug)]
pub(super) struct Rest;

impl Protocol for Rest {
    const NAME: &'static str = "rest";

    fn route<'a>(&'a self, request: &'a Request) -> &'a str {
        request.extensions().get::<MatchedPath>().map_or(UNMATCHED, MatchedPath::as_str)
    }

    fn is_exempt(route: &str) -> bool {
        route.starts_with("/healthz/") || route == "/metrics"
    }

    fn refused(error: QueryError) -> Response {
        Problem::from(error).into_response()
    }

    fn ended(response: &Response) -> Ended {
        let status = response.status();
        let outcome = match status {
            http::StatusCode::INTERNAL_SERVER_ERROR => Outcome::Failed,
            // A redirect is a problem document, too: the caller has to ask elsewhere.
            status if status.is_client_error() || status.is_server_error() || status.is_redirection() => {
                Outcome::Refused
            }
            _ => Outcome::Answered,
        };
        let reason = match outcome {
            Outcome::Answered => "",
            _ => response.extensions().get::<Refused>().map_or("-", |Refused(code)| code.as_str()),
        };
        Ended { code: status.as_u16(), reason, outcome }
    }
}
