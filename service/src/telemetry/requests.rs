//! Request metrics: counted by route template and code, timed by route. Handles are looked up once per route and kept.

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;
use metrics::{Counter, Gauge, Histogram};
use parking_lot::RwLock;

use super::names;

/// Routes that get a label of their own; templates are few, and a hostile client cannot invent more.
const MAX_ROUTES: usize = 512;

/// Metrics of all requests, REST and gRPC.
#[derive(Debug)]
pub struct RequestMetrics {
    protocol: &'static str,
    routes: RwLock<HashMap<Arc<str>, Arc<RouteMetrics>>>,
    in_flight: Gauge,
}

/// Metrics of one route.
pub struct RouteMetrics {
    protocol: &'static str,
    route: Arc<str>,
    duration: Histogram,
    by_code: RwLock<Vec<(u16, Counter)>>,
}

impl std::fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteMetrics").field("route", &self.route).finish_non_exhaustive()
    }
}

impl RequestMetrics {
    /// Metrics of requests over `protocol` (`rest`, `grpc`).
    pub fn new(protocol: &'static str) -> Self {
        let in_flight = metrics::gauge!(names::REQUESTS_IN_FLIGHT, "protocol" => protocol);
        Self { protocol, routes: RwLock::default(), in_flight }
    }

    /// The metrics of a route template.
    pub fn route(&self, route: &str) -> Arc<RouteMetrics> {
        if let Some(metrics) = self.routes.read().get(route) {
            return Arc::clone(metrics);
        }
        let mut routes = self.routes.write();
        let route: Arc<str> = if routes.len() < MAX_ROUTES { route.into() } else { "other".into() };
        Arc::clone(routes.entry(Arc::clone(&route)).or_insert_with(|| {
            let duration = metrics::histogram!(
                names::REQUEST_DURATION, "protocol" => self.protocol, "route" => route.to_string()
            );
            Arc::new(RouteMetrics { protocol: self.protocol, route, duration, by_code: RwLock::default() })
        }))
    }

    /// A request is in progress until the guard is dropped, also when its caller goes away.
    pub fn begin(&self) -> InProgress {
        self.in_flight.increment(1.0);
        InProgress(self.in_flight.clone())
    }
}

/// A request in progress.
#[derive(Debug)]
pub struct InProgress(Gauge);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl RouteMetrics {
    /// One answer. `code` is the HTTP status, or the number of the gRPC status.
    pub fn answered(&self, code: u16, took: Duration) {
        self.duration.record(took.as_secs_f64());
        if let Some((_, counter)) = self.by_code.read().iter().find(|(known, _)| *known == code) {
            counter.increment(1);
            return;
        }
        let mut by_code = self.by_code.write();
        let counter = metrics::counter!(
            names::REQUESTS, "protocol" => self.protocol, "route" => self.route.to_string(), "code" => code.to_string()
        );
        counter.increment(1);
        if !by_code.iter().any(|(known, _)| *known == code) {
            by_code.push((code, counter));
        }
    }
}
