//! The listener for instances and operators: all that the public one tells about the instance, and what changes something.

use std::sync::Arc;

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use holdfast_proto::error::{Code, Failure};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::Notify;
use tracing::info;

use crate::{
    peer::token::{NAME, REFUSAL, Token},
    rest::{self, Api, problem::Problem},
};

/// Health, metrics, tasks and instances for everybody who reaches it; `POST /admin/drain` for who has the token.
pub(super) fn router(api: Api, token: Token, drain_asked: Arc<Notify>) -> Router {
    let drain = move |headers: HeaderMap| {
        let answer = drain(&token, &headers, &drain_asked);
        async move { answer }
    };
    rest::operations()
        .route("/v1/instances", get(rest::instances))
        .route("/v1/tasks", get(rest::tasks))
        .route("/admin/drain", post(drain))
        .with_state(api)
        .fallback(rest::no_such_path)
}

fn drain(token: &Token, headers: &HeaderMap, asked: &Notify) -> Response {
    if !token.lets_in(headers) {
        let mut response = Problem::new(Failure::new(Code::Unauthenticated, REFUSAL)).into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(NAME));
        return response;
    }
    info!("an operator asks for a drain");
    asked.notify_one();
    let mut response = rest::json_response(br#"{"draining":true}"#.to_vec());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}
