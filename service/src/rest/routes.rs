//! The table of routes.

use axum::{
    Router,
    extract::Request,
    response::Response,
    routing::{get, post},
};
use holdfast_proto::error::{Code, Failure};

use super::{Api, describe, keys, observe::Rest, problem::Problem};
use crate::telemetry::observe::ObserveLayer;

/// Every route of the generic API: method and template, as the API's description has them.
pub const ROUTES: &[(&str, &str)] = &[
    ("GET", "/v1/stores"),
    ("GET", "/v1/stores/{store}/keys/{key}"),
    ("POST", "/v1/stores/{store}/keys:batch"),
    ("GET", "/v1/stores/{store}/keys"),
    ("GET", "/v1/stores/{store}/windows/{key}"),
    ("GET", "/v1/stores/{store}/keys/{key}/watch"),
    ("GET", "/v1/route"),
    ("GET", "/v1/topology"),
    ("GET", "/v1/instances"),
    ("GET", "/v1/tasks"),
    ("GET", "/healthz/live"),
    ("GET", "/healthz/ready"),
    ("GET", "/healthz/startup"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
];

/// The generic API beside the application's own routes, all of them observed.
///
/// `domain` must not repeat a path of [`ROUTES`], nor have a fallback: axum panics on both when it merges.
pub fn router(api: Api, domain: Router) -> Router {
    let observe = ObserveLayer::new(Rest, api.admission());
    Router::new()
        .route("/v1/stores", get(describe::stores))
        .route("/v1/stores/{store}/keys/{key}", get(keys::get))
        // The empty key is a key.
        .route("/v1/stores/{store}/keys/", get(keys::get))
        .route("/v1/stores/{store}/keys:batch", post(keys::batch))
        .route("/v1/stores/{store}/keys", get(keys::scan))
        .route("/v1/stores/{store}/windows/{key}", get(keys::windows))
        .route("/v1/stores/{store}/keys/{key}/watch", get(keys::watch))
        .route("/v1/route", get(describe::route))
        .route("/v1/topology", get(describe::topology))
        .route("/v1/instances", get(describe::instances))
        .route("/v1/tasks", get(describe::tasks))
        .merge(operations())
        .with_state(api)
        .merge(domain)
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(observe)
}

/// What operators and orchestrators ask; the peer listener serves it too.
pub(crate) fn operations() -> Router<Api> {
    Router::new()
        .route("/healthz/live", get(describe::live))
        .route("/healthz/ready", get(describe::ready))
        .route("/healthz/startup", get(describe::startup))
        .route("/metrics", get(describe::metrics))
        .route("/openapi.json", get(describe::openapi))
}

pub(crate) async fn no_such_path(request: Request) -> Problem {
    let path: String = request.uri().path().chars().take(200).collect();
    let detail = format!("there is no {path}; GET /openapi.json lists what there is");
    Problem::new(Failure::new(Code::PathNotFound, detail))
}

async fn no_such_method(request: Request) -> Response {
    use axum::response::IntoResponse;
    let detail =
        format!("{} takes other methods than {}; see the Allow header", request.uri().path(), request.method());
    Problem::new(Failure::new(Code::MethodNotAllowed, detail)).into_response()
}
