//! REST: the paths of the generic API, over the router. Errors are problem documents, answers say who served.

mod body;
mod describe;
pub mod headers;
mod keys;
mod observe;
pub mod openapi;
pub mod params;
pub mod problem;
mod routes;
pub(crate) mod rows;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{body::Body, response::Response};
use http::{HeaderMap, header};

pub use self::routes::{ROUTES, router};
pub(crate) use self::{
    describe::{instances, tasks},
    routes::{no_such_path, operations},
};
use crate::{
    admin::health::Health,
    query::{Queries, admission::Admission},
    telemetry::metrics::Metrics,
};

/// Bounds of what REST itself reads; those of queries are [`QueryLimits`](crate::query::QueryLimits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_body_bytes: 1024 * 1024 }
    }
}

/// What handlers share: cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    parts: Arc<ApiParts>,
}

/// The parts of an [`Api`].
#[derive(Debug)]
pub struct ApiParts {
    /// Where questions go.
    pub queries: Queries,
    /// How the instance is.
    pub health: Arc<Health>,
    /// What was recorded.
    pub metrics: Metrics,
    /// How many requests at once, over all protocols.
    pub admission: Arc<Admission>,
    /// Bounds of REST.
    pub limits: Limits,
}

impl Api {
    /// An API of these parts.
    pub fn new(parts: ApiParts) -> Self {
        Self { parts: Arc::new(parts) }
    }

    /// Where questions go.
    pub fn queries(&self) -> &Queries {
        &self.parts.queries
    }

    /// How the instance is.
    pub fn health(&self) -> &Health {
        &self.parts.health
    }

    /// What was recorded.
    pub fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }

    /// How many requests at once.
    pub fn admission(&self) -> Arc<Admission> {
        Arc::clone(&self.parts.admission)
    }

    /// Bounds of REST.
    pub fn limits(&self) -> &Limits {
        &self.parts.limits
    }
}

/// Headers of an answer: type and length, who served, a request id.
const ANSWER_HEADERS: usize = 8;

/// An answer whose body is JSON already.
pub(crate) fn json_response(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    // Room for all that an answer carries: growing takes an allocation each time.
    *response.headers_mut() = HeaderMap::with_capacity(ANSWER_HEADERS);
    response.headers_mut().insert(header::CONTENT_TYPE, keys::JSON);
    response
}
