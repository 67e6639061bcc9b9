//! Bodies of requests, up to a bound.

use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::time;

use crate::query::QueryError;

/// How often the limit is read, and thrown away, of a body that is too large. Most clients write all they have before they
/// listen: whose connection is closed meanwhile never hears why.
const READ_ON: u64 = 16;

/// A whole body of at most `limit` bytes, which has `timeout` to arrive. What is too large is not kept.
pub(super) async fn read(
    mut body: Body,
    headers: &HeaderMap,
    limit: usize,
    timeout: Duration,
) -> Result<Vec<u8>, QueryError> {
    let limit = limit as u64;
    let most = limit.saturating_mul(READ_ON);
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let got = || declared.map_or_else(|| "more".to_owned(), |declared| declared.to_string());
    let too_large = || QueryError::TooLarge { what: "a body", limit, unit: "bytes", got: got() };
    let is_declared_too_large = declared.is_some_and(|declared| declared > limit);
    // Who asks first has sent nothing yet.
    if is_declared_too_large && (declared > Some(most) || headers.contains_key(header::EXPECT)) {
        return Err(too_large());
    }
    let (mut kept, mut read) = (Vec::new(), 0);
    let reading = async {
        while read <= most
            && let Some(frame) = body.frame().await
        {
            // Trailers say nothing here.
            let Ok(data) = frame?.into_data() else { continue };
            read += data.len() as u64;
            if is_declared_too_large || read > limit {
                kept = Vec::new();
            } else {
                kept.extend_from_slice(&data);
            }
        }
        Ok::<_, axum::Error>(())
    };
    let outcome = time::timeout(timeout, reading).await;
    if is_declared_too_large || read > limit {
        return Err(too_large());
    }
    match outcome {
        Ok(Ok(())) => Ok(kept),
        Ok(Err(error)) => Err(QueryError::Body { expected: "a whole body", problem: error.to_string() }),
        Err(_) => Err(QueryError::Deadline { timeout }),
    }
}
