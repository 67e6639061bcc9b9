//! Look-ups: one key, a batch, a scan.

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::HeaderValue;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Api, body, headers, json_response, params,
    params::Params,
    problem::Problem,
    rows::{write_members, write_string},
};
use crate::query::{Outcome, Queries, QueryError, ScanRequest, StoreInfo, millis};

/// `GET /v1/stores/{store}/keys/{key}`.
pub(super) async fn get(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let queries = api.queries();
    let store = params::store(&parts, queries)?;
    let options = Params::read(&parts, &[])?.options(queries)?;
    let (_, key) = params::key(&parts, queries, &store)?;
    let answer = queries.get_in(&store, &key, &options).await.map_err(|error| Problem::redirected(error, &parts))?;
    let text = queries.key_text(&store, &key)?;
    let Some(row) = answer.value else { return Err(Problem::no_such_key(&store.name, &text, answer.served)) };
    let mut body = Vec::with_capacity(128 + text.len() + row.value.len());
    body.extend_from_slice(b"{\"store\":");
    write_string(&store.name, &mut body);
    body.push(b',');
    write_members(queries, &store, &text, &row, &mut body)?;
    body.push(b'}');
    let mut response = json_response(body);
    headers::put(response.headers_mut(), &answer.served);
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchBody {
    keys: Vec<Value>,
}

/// `POST /v1/stores/{store}/keys:batch` with `{"keys": ["a", 5, …]}`.
pub(super) async fn batch(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let (parts, sent) = request.into_parts();
    let queries = api.queries();
    let store = params::store(&parts, queries)?;
    let options = Params::read(&parts, &[])?.options(queries)?;
    let body = body::read(sent, &parts.headers, api.limits().max_body_bytes, queries.limits().max_timeout).await?;
    let expected = "{\"keys\": [\"a\", …]}";
    let BatchBody { keys } =
        serde_json::from_slice(&body).map_err(|error| QueryError::Body { expected, problem: error.to_string() })?;
    let mut texts = Vec::with_capacity(keys.len());
    for key in keys {
        texts.push(match key {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            other => {
                let problem = format!("a key is neither a string nor a number: {other}").chars().take(200).collect();
                return Err(QueryError::Body { expected, problem }.into());
            }
        });
    }
    let keys = texts.iter().map(|text| Ok(queries.key_from_text(&store, text)?.into())).collect();
    let outcomes = queries.batch_get(&store.name, keys, &options).await?;
    let mut out = Vec::with_capacity(64 + outcomes.len() * 160);
    out.extend_from_slice(b"{\"store\":");
    write_string(&store.name, &mut out);
    out.extend_from_slice(b",\"results\":[");
    for (index, (text, outcome)) in texts.iter().zip(outcomes).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_outcome(queries, &store, text, outcome, &mut out);
    }
    out.extend_from_slice(b"]}");
    Ok(json_response(out))
}

/// One result of a batch: `{"key","code","value",…,"served"}`, or `{"key","code","reason","detail",…}`.
fn write_outcome(queries: &Queries, store: &StoreInfo, key: &str, outcome: Outcome, out: &mut Vec<u8>) {
    let outcome = outcome.and_then(|answer| {
        let Some(row) = &answer.value else { return Ok((None, answer.served)) };
        let mut members = Vec::with_capacity(96 + row.value.len());
        write_members(queries, store, key, row, &mut members)?;
        Ok((Some(members), answer.served))
    });
    out.push(b'{');
    match outcome {
        Ok((row, served)) => {
            match row {
                Some(members) => {
                    out.extend_from_slice(b"\"code\":\"OK\",");
                    out.extend_from_slice(&members);
                }
                None => {
                    out.extend_from_slice(b"\"code\":\"NOT_FOUND\",\"key\":");
                    write_string(key, out);
                }
            }
            let served = serde_json::json!({
                "by": served.by.to_string(),
                "role": served.role,
                "partition": served.partition,
                "position": crate::query::position_text::format(&served.position),
                "staleness_ms": served.staleness.map(millis),
            });
            out.extend_from_slice(b",\"served\":");
            out.extend_from_slice(served.to_string().as_bytes());
        }
        Err(error) => {
            let failure = error.failure();
            out.extend_from_slice(b"\"key\":");
            write_string(key, out);
            let rest = serde_json::json!({
                "code": failure.code.as_str(),
                "reason": failure.reason.map(|reason| reason.as_str()),
                "detail": failure.detail,
                "retry_after_ms": failure.retry_after.map(millis),
            });
            let rest = rest.to_string();
            out.push(b',');
            out.extend_from_slice(rest.trim_start_matches('{').trim_end_matches('}').as_bytes());
        }
    }
    out.push(b'}');
}

/// `GET /v1/stores/{store}/keys?from=&to=&prefix=&reverse=&limit=&cursor=`.
pub(super) async fn scan(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let queries = api.queries();
    let store = params::store(&parts, queries)?;
    let mut params = Params::read(&parts, &["from", "to", "prefix", "reverse", "limit", "cursor"])?;
    let options = params.options(queries)?;
    let key = |name| params.get(name).map(|text| queries.key_from_text(&store, text)).transpose();
    let scan = ScanRequest {
        from: key("from")?,
        to: key("to")?,
        prefix: key("prefix")?,
        reverse: params.flag("reverse")?,
        limit: params.number("limit")?,
        max_bytes: None,
        cursor: params.get("cursor").map(str::to_owned),
    };
    let page = queries.scan(&store.name, &scan, &options).await?;
    let mut out = Vec::with_capacity(128 + page.rows.len() * 128);
    out.extend_from_slice(b"{\"store\":");
    write_string(&store.name, &mut out);
    out.extend_from_slice(b",\"rows\":[");
    for (index, (key, row)) in page.rows.iter().enumerate() {
        out.extend_from_slice(if index > 0 { b",{" } else { b"{" });
        write_members(queries, &store, &queries.key_text(&store, key)?, row, &mut out)?;
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"cursor\":");
    match &page.cursor {
        Some(cursor) => write_string(cursor, &mut out),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    let mut response = json_response(out);
    headers::put_merged(response.headers_mut(), &page.served);
    Ok(response)
}

/// `GET /v1/stores/{store}/windows/{key}`.
pub(super) async fn windows(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let store = params::store(&parts, api.queries())?;
    params::key(&parts, api.queries(), &store)?;
    Err(QueryError::Unimplemented("windows are not served by this version; stores hold one row per key").into())
}

/// `GET /v1/stores/{store}/keys/{key}/watch`.
pub(super) async fn watch(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let store = params::store(&parts, api.queries())?;
    params::key(&parts, api.queries(), &store)?;
    Err(QueryError::Unimplemented("watching a key is not served by this version; ask again with min_position").into())
}

/// The answer's media type, for rows that are written by hand.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
