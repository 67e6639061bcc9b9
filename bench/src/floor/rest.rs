//! Bare axum over RocksDB: what a look-up costs at least.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};

use super::rows::{ITEMS, Rows, ServeFlags, served};
use crate::error::Result;

struct Served {
    rows: Arc<Rows>,
    tail: String,
}

/// Serves `/api/v1/items/{itemID}` as the inventory does, until the process is ended.
pub(crate) async fn run(flags: &ServeFlags) -> Result<()> {
    let rows = served(flags)?;
    let listener = tokio::net::TcpListener::bind(flags.listen).await?;
    let address = listener.local_addr()?;
    let tail = format!(r#","host":"{}","port":{}}}"#, address.ip(), address.port());
    let app = Router::new()
        .route("/ready", get(|| async {}))
        .route("/api/v1/items/{item}", get(item))
        .with_state(Arc::new(Served { rows, tail }));
    axum::serve(listener, app).await?;
    Ok(())
}

async fn item(State(served): State<Arc<Served>>, Path(item): Path<String>) -> impl IntoResponse {
    let found = served.rows.table(ITEMS).and_then(|table| {
        served.rows.get(&table, item.as_bytes()).map(|row| {
            row.map(|row| {
                let mut body = Vec::with_capacity(row.len() + served.tail.len() + 16);
                body.extend_from_slice(br#"{"result":"#);
                body.extend_from_slice(&row);
                body.extend_from_slice(served.tail.as_bytes());
                body
            })
        })
    });
    match found {
        Ok(Some(body)) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
