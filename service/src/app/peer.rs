//! The listener for instances and operators: all that the public one tells about the instance, and what changes something.

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};
use http::StatusCode;
use tokio::sync::Notify;
use tracing::info;

use crate::rest::{self, Api};

/// Health, metrics, tasks, instances, and `POST /admin/drain`.
pub(super) fn router(api: Api, drain_asked: Arc<Notify>) -> Router {
    let drain = move || {
        let drain_asked = Arc::clone(&drain_asked);
        async move {
            info!("an operator asks for a drain");
            drain_asked.notify_one();
            let mut response = rest::json_response(br#"{"draining":true}"#.to_vec());
            *response.status_mut() = StatusCode::ACCEPTED;
            response
        }
    };
    rest::operations()
        .route("/v1/instances", get(rest::instances))
        .route("/v1/tasks", get(rest::tasks))
        .route("/admin/drain", post(drain))
        .with_state(api)
        .fallback(rest::no_such_path)
}
