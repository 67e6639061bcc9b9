//! The inventory lab's REST paths. Answers are the lab's bytes; errors say which of "no such key" and "nobody can tell now"
//! it is, which the lab's do not.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::get,
};
use holdfast_types::TopicPartition;
use serde::Serialize;

use super::{ITEM_STOCK, STORE_INVENTORY};
use crate::{
    query::{Queries, QueryError, StoreInfo},
    rest::{
        headers, json_response,
        params::{self, Params},
        problem::Problem,
        rows::{write_number, write_string},
    },
};

/// The lab's paths.
pub(super) fn routes(queries: Queries) -> Router {
    Router::new()
        .route("/api/v1/stores/inventory/{storeID}", get(store))
        .route("/api/v1/stores/meta-data", get(store_hosts))
        .route("/api/v1/items/{itemID}", get(item))
        .route("/api/v1/items/meta-data", get(item_hosts))
        .route("/api/v1/version", get(version))
        .with_state(queries)
}

async fn store(State(queries): State<Queries>, request: Request) -> Result<Response, Problem> {
    row(&queries, STORE_INVENTORY, request, 4).await
}

async fn item(State(queries): State<Queries>, request: Request) -> Result<Response, Problem> {
    row(&queries, ITEM_STOCK, request, 3).await
}

/// `{"result": row, "host": …, "port": …}`: the row as it is stored, and the instance that read it.
async fn row(queries: &Queries, store: &str, request: Request, key_segment: usize) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let options = Params::read(&parts, &[])?.options(queries)?;
    let info = queries.store(store)?;
    let text = params::segment(parts.uri.path(), key_segment).map_err(|problem| wrong_key(&info, problem))?;
    let key = queries.key_from_text(&info, &text)?;
    let answer = queries.get_in(&info, &key, &options).await.map_err(|error| Problem::redirected(error, &parts))?;
    let Some(row) = answer.value else { return Err(Problem::no_such_key(store, &text, answer.served)) };

    let mut body = Vec::with_capacity(64 + row.value.len());
    body.extend_from_slice(b"{\"result\":");
    // Rows are stored as JSON: they are copied, not parsed.
    info.value.write_json(&row.value, &mut body).map_err(|source| QueryError::Value {
        store: info.name.clone(),
        format: info.value.name().to_owned(),
        problem: source.to_string(),
    })?;
    body.extend_from_slice(b",\"host\":");
    write_string(&answer.served.by.host, &mut body);
    body.extend_from_slice(b",\"port\":");
    write_number(answer.served.by.port.into(), &mut body);
    body.push(b'}');
    let mut response = json_response(body);
    headers::put(response.headers_mut(), &answer.served);
    Ok(response)
}

fn wrong_key(info: &StoreInfo, problem: &str) -> QueryError {
    QueryError::Key {
        store: info.name.clone(),
        format: info.key.name().to_owned(),
        problem: format!("expected percent-encoded UTF-8, got {problem}"),
    }
}

/// An instance and the input partitions of its tasks.
#[derive(Debug, Serialize)]
struct HostMetadata {
    host: String,
    partitions: Vec<String>,
}

async fn store_hosts(State(queries): State<Queries>) -> Result<Response, Problem> {
    hosts(&queries, STORE_INVENTORY).await
}

async fn item_hosts(State(queries): State<Queries>) -> Result<Response, Problem> {
    hosts(&queries, ITEM_STOCK).await
}

async fn hosts(queries: &Queries, store: &str) -> Result<Response, Problem> {
    let info = queries.store(store)?;
    let cluster = queries.view().cluster();
    let partitions_of = |active: &[holdfast_types::TaskId]| {
        let own = active.iter().filter(|task| task.subtopology == info.subtopology);
        own.flat_map(|task| {
            let inputs = info.inputs.iter();
            inputs.map(|topic| TopicPartition::new(Arc::clone(topic), task.partition).to_string())
        })
        .collect()
    };
    let hosts = cluster.members.iter().map(|member| HostMetadata {
        host: member.instance.endpoint.to_string(),
        partitions: partitions_of(&member.active),
    });
    Ok(Json(hosts.collect::<Vec<_>>()).into_response())
}

async fn version() -> Response {
    Json(serde_json::json!({ "version": env!("CARGO_PKG_VERSION") })).into_response()
}
