//! What the service tells about itself: stores, route, topology, instances, tasks, health, metrics, the API's description.

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::{Api, json_response, openapi, params::Params, problem::Problem};
use crate::{
    admin::health::Report,
    query::{QueryError, describe::StoreDescription},
};

fn serialized(value: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(value).map_err(|error| QueryError::Internal(error.to_string()))?;
    Ok(json_response(body))
}

fn text(media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn without_parameters(request: Request) -> Result<(), QueryError> {
    let (parts, _) = request.into_parts();
    Params::read(&parts, &[]).map(|_| ())
}

#[derive(Serialize)]
struct Stores {
    stores: Vec<StoreDescription>,
}

/// `GET /v1/stores`.
pub(super) async fn stores(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    without_parameters(request)?;
    serialized(&Stores { stores: api.queries().describe_stores() })
}

/// `GET /v1/route?store=&key=`, with read options.
pub(super) async fn route(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let mut params = Params::read(&parts, &["store", "key"])?;
    let queries = api.queries();
    let options = params.options(queries)?;
    let store = queries.store(params.require("store")?)?;
    let key = queries.key_from_text(&store, params.require("key")?)?;
    serialized(&queries.explain_route(&store.name, &key, &options)?)
}

/// `GET /v1/topology?format=json|text|mermaid|dot`.
pub(super) async fn topology(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let params = Params::read(&parts, &["format"])?;
    let pictures = api.queries().topology();
    match params.get("format").unwrap_or("json") {
        "json" => serialized(&pictures.json),
        "text" => Ok(text("text/plain; charset=utf-8", pictures.text.clone())),
        "mermaid" => Ok(text("text/plain; charset=utf-8", pictures.mermaid.clone())),
        "dot" => Ok(text("text/vnd.graphviz; charset=utf-8", pictures.dot.clone())),
        other => Err(QueryError::parameter("format", "json, text, mermaid or dot", other).into()),
    }
}

/// `GET /v1/instances`.
pub(crate) async fn instances(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    without_parameters(request)?;
    serialized(&api.queries().describe_instances())
}

/// `GET /v1/tasks`.
pub(crate) async fn tasks(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    without_parameters(request)?;
    serialized(&api.queries().describe_tasks())
}

fn report(report: &Report) -> Result<Response, Problem> {
    let mut response = serialized(report)?;
    if !report.passes() {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Ok(response)
}

/// `GET /healthz/live`.
pub(super) async fn live(State(api): State<Api>) -> Result<Response, Problem> {
    report(&api.health().live())
}

/// `GET /healthz/ready`.
pub(super) async fn ready(State(api): State<Api>) -> Result<Response, Problem> {
    report(&api.health().ready())
}

/// `GET /healthz/startup`.
pub(super) async fn startup(State(api): State<Api>) -> Result<Response, Problem> {
    report(&api.health().startup())
}

/// `GET /metrics`.
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    text("text/plain; version=0.0.4; charset=utf-8", api.metrics().render())
}

/// `GET /openapi.json`.
pub(super) async fn openapi() -> Response {
    text("application/json", openapi::DOCUMENT)
}
