//! From settings to the bounds and options of the parts.

use crate::{
    config::{LogFormat, RequestBounds, RoutingMode, Settings},
    grpc,
    query::{QueryLimits, Routing},
    rest,
    telemetry::logs::{LogSettings, LogStyle},
};

/// Bounds of queries.
pub(super) fn query_limits(requests: &RequestBounds) -> QueryLimits {
    QueryLimits {
        max_key_bytes: requests.max_key_bytes,
        max_batch_keys: requests.max_batch_keys,
        max_scan_rows: requests.max_scan_rows,
        max_scan_bytes: requests.max_scan_bytes,
        max_concurrent_scans: requests.max_concurrent_scans,
        default_max_staleness: requests.default_max_staleness,
        default_routing: match requests.routing {
            RoutingMode::Proxy => Routing::Proxy,
            RoutingMode::Redirect => Routing::Redirect,
        },
        default_timeout: requests.default_timeout,
        max_timeout: requests.max_timeout,
        ..QueryLimits::default()
    }
}

/// Bounds of REST.
pub(super) fn rest_limits(requests: &RequestBounds) -> rest::Limits {
    rest::Limits { max_body_bytes: requests.max_body_bytes }
}

/// Bounds of gRPC.
pub(super) fn grpc_limits(requests: &RequestBounds) -> grpc::Limits {
    grpc::Limits { max_request_bytes: requests.max_body_bytes, ..grpc::Limits::default() }
}

/// What to log and where traces go.
pub(super) fn log_settings(settings: &Settings, service_name: &str) -> LogSettings {
    LogSettings {
        filter: settings.log.clone(),
        style: match settings.log_format {
            LogFormat::Auto => LogStyle::Auto,
            LogFormat::Text => LogStyle::Text,
            LogFormat::Json => LogStyle::Json,
        },
        otlp_endpoint: settings.otlp_endpoint.clone(),
        service_name: service_name.to_owned(),
    }
}
