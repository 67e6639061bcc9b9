//! Errors as `application/problem+json` (RFC 9457).

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use holdfast_proto::error::{Code, Failure};
use holdfast_types::Endpoint;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::query::{QueryError, Served};

/// The media type of error bodies.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// An error answer: a failure, and who served it where somebody did.
#[derive(Debug)]
pub struct Problem {
    // Boxed: handlers return it beside answers that are far smaller.
    parts: Box<Parts>,
}

#[derive(Debug)]
struct Parts {
    failure: Failure,
    served: Option<Served>,
    location: Option<String>,
    /// Owner and partition, in a redirect.
    owner: Option<(Endpoint, i32)>,
}

impl Problem {
    /// The answer for `failure`.
    pub fn new(failure: Failure) -> Self {
        Self::of(failure, None)
    }

    /// A key that a copy says is not there.
    pub fn no_such_key(store: &str, key: &str, served: Served) -> Self {
        let failure = Failure::new(Code::NotFound, format!("store {store} has no row for this key"))
            .with("store", store)
            .with("key", key);
        Self::of(failure, Some(served))
    }

    fn of(failure: Failure, served: Option<Served>) -> Self {
        Self { parts: Box::new(Parts { failure, served, location: None, owner: None }) }
    }

    /// An error, or 307 to the owner of the key that `request` asks for, when that was asked for.
    pub fn redirected(error: QueryError, request: &http::request::Parts) -> Self {
        let QueryError::NotHere { owner, partition, .. } = &error else { return error.into() };
        let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
        let (location, owner) = (format!("http://{owner}{path}"), (owner.clone(), *partition));
        let mut problem = Self::from(error);
        problem.parts.location = Some(location);
        problem.parts.owner = Some(owner);
        problem
    }

    /// The code that the answer carries.
    pub fn code(&self) -> Code {
        self.parts.failure.code
    }

    fn status(&self) -> StatusCode {
        if self.parts.location.is_some() { StatusCode::TEMPORARY_REDIRECT } else { self.parts.failure.code.http() }
    }

    fn body(&self) -> Value {
        let Failure { code, reason, detail, retry_after, members } = &self.parts.failure;
        let mut body = Map::new();
        body.insert("type".to_owned(), format!("urn:holdfast:error:{code}").into());
        body.insert("title".to_owned(), code.title().into());
        body.insert("status".to_owned(), self.status().as_u16().into());
        body.insert("code".to_owned(), code.as_str().into());
        if let Some(reason) = reason {
            body.insert("reason".to_owned(), reason.as_str().into());
        }
        body.insert("detail".to_owned(), detail.as_str().into());
        body.insert("retryable".to_owned(), json!(code.retryable()));
        if let Some(after) = retry_after {
            body.insert("retry_after_ms".to_owned(), crate::query::millis(*after).into());
        }
        for (name, value) in members {
            // Counts go out as numbers, as everywhere else; names and keys that look like numbers do not.
            let is_number = matches!(*name, "partition" | "remaining_records" | "eta_ms");
            let value =
                value.parse::<i64>().ok().filter(|_| is_number).map_or_else(|| json!(value), |number| json!(number));
            body.insert((*name).to_owned(), value);
        }
        Value::Object(body)
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        Self::new(error.failure())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if let Some(served) = &self.parts.served {
            super::headers::put(headers, served);
        }
        if let Some(after) = self.parts.failure.retry_after {
            put_retry_after(headers, after);
        }
        if let Some((owner, partition)) = &self.parts.owner {
            headers.insert(super::headers::PARTITION, HeaderValue::from(*partition));
            if let Ok(owner) = HeaderValue::from_str(&owner.to_string()) {
                headers.insert(super::headers::OWNER, owner);
            }
        }
        if let Some(location) = self.parts.location.as_deref().and_then(|location| HeaderValue::from_str(location).ok())
        {
            headers.insert(header::LOCATION, location);
        }
        response.extensions_mut().insert(Refused(self.parts.failure.code));
        response
    }
}

/// Marks an error answer with its code, for logs.
#[derive(Clone, Copy, Debug)]
pub struct Refused(pub Code);

/// `Retry-After` in whole seconds, rounded up: a client that waits so long does not come too early.
fn put_retry_after(headers: &mut HeaderMap, after: std::time::Duration) {
    let seconds = after.as_millis().div_ceil(1000).max(1);
    headers.insert(header::RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)));
}
