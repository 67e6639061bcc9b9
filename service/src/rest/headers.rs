//! The `Holdfast-…` headers: options on the way in, who served on the way out.

use std::{cell::RefCell, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_types::{Endpoint, Position, Role};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::query::{Answer, OptionsBuilder, QueryError, Served, millis, position_text};

/// `host:port` of the instance that read.
pub const SERVED_BY: HeaderName = HeaderName::from_static("holdfast-served-by");
/// Role of the copy that was read.
pub const ROLE: HeaderName = HeaderName::from_static("holdfast-role");
/// Partition that was read; of a scan, all of them with commas between.
pub const PARTITION: HeaderName = HeaderName::from_static("holdfast-partition");
/// Input offsets that the answer reflects: `items-0:42`.
pub const POSITION: HeaderName = HeaderName::from_static("holdfast-position");
/// `host:port` of the instance to ask, in a redirect.
pub const OWNER: HeaderName = HeaderName::from_static("holdfast-owner");
/// Milliseconds since the copy was last known to be caught up.
pub const STALENESS_MS: HeaderName = HeaderName::from_static("holdfast-staleness-ms");

const OPTION_PREFIX: &str = "holdfast-";

/// Takes options from headers (`Holdfast-Max-Staleness: 250`). Others with that prefix are left alone: a caller may pass an
/// answer's headers on.
pub fn options(headers: &HeaderMap, options: &mut OptionsBuilder) -> Result<(), QueryError> {
    for (name, value) in headers {
        let Some(option) = name.as_str().strip_prefix(OPTION_PREFIX) else { continue };
        let text =
            value.to_str().map_err(|_| QueryError::parameter(name.as_str(), "printable ASCII", "other bytes"))?;
        options.set(&option.replace('-', "_"), text)?;
    }
    Ok(())
}

/// Says who served.
pub fn put(headers: &mut HeaderMap, served: &Served) {
    headers.insert(SERVED_BY, endpoint(served));
    headers.insert(ROLE, HeaderValue::from_static(served.role.as_str()));
    headers.insert(PARTITION, HeaderValue::from(served.partition));
    put_kept_position(headers, &served.position);
    if let Some(staleness) = served.staleness {
        headers.insert(STALENESS_MS, HeaderValue::from(millis(staleness)));
    }
}

/// Says who served the parts of an answer: all partitions, the merged position, the oldest staleness.
pub fn put_merged(headers: &mut HeaderMap, parts: &[Served]) {
    let Some(first) = parts.first() else { return };
    let mut by: Vec<String> = parts.iter().map(|part| part.by.to_string()).collect();
    by.sort_unstable();
    by.dedup();
    match by.len() {
        1 => drop(headers.insert(SERVED_BY, endpoint(first))),
        _ => put_text(headers, SERVED_BY, by.join(",")),
    }
    let all_active = parts.iter().all(|part| part.role == Role::Active);
    let role = if all_active { Role::Active } else { Role::Standby };
    headers.insert(ROLE, HeaderValue::from_static(role.as_str()));
    let partitions: Vec<String> = parts.iter().map(|part| part.partition.to_string()).collect();
    put_text(headers, PARTITION, partitions.join(","));
    let mut position = Position::new();
    for part in parts {
        position.merge(&part.position);
    }
    put_position(headers, &position);
    let staleness = parts.iter().map(|part| part.staleness).reduce(|a, b| Some(a?.max(b?))).flatten();
    if let Some(staleness) = staleness {
        headers.insert(STALENESS_MS, HeaderValue::from(millis(staleness)));
    }
}

/// An answer's value, with its headers put.
pub fn unwrap<T>(headers: &mut HeaderMap, answer: Answer<T>) -> T {
    put(headers, &answer.served);
    answer.value
}

fn put_position(headers: &mut HeaderMap, position: &Position) {
    if let Some(value) = position_value(position) {
        headers.insert(POSITION, value);
    }
}

/// The same for a copy's position, which lasts until its next commit: its text is made once per thread and commit.
fn put_kept_position(headers: &mut HeaderMap, position: &Arc<Position>) {
    const SLOTS: usize = 64;
    type Slot = Option<(Arc<Position>, Option<HeaderValue>)>;
    thread_local! {
        static KEPT: RefCell<[Slot; SLOTS]> = const { RefCell::new([const { None }; SLOTS]) };
    }
    let value = KEPT.with_borrow_mut(|kept| {
        // Positions are allocations of some 50 bytes: their addresses differ above the fifth bit.
        let slot = &mut kept[(Arc::as_ptr(position) as usize >> 5) % SLOTS];
        match slot {
            Some((of, value)) if Arc::ptr_eq(of, position) => value.clone(),
            _ => {
                let value = position_value(position);
                *slot = Some((Arc::clone(position), value.clone()));
                value
            }
        }
    });
    if let Some(value) = value {
        headers.insert(POSITION, value);
    }
}

fn position_value(position: &Position) -> Option<HeaderValue> {
    // Many partitions make a header that proxies refuse: the body of a scan has its cursor instead.
    const MAX_BYTES: usize = 4096;
    let text = position_text::format(position);
    if text.is_empty() || text.len() > MAX_BYTES {
        None
    } else {
        HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
    }
}

fn put_text(headers: &mut HeaderMap, name: HeaderName, text: String) {
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(text)) {
        headers.insert(name, value);
    }
}

fn endpoint(served: &Served) -> HeaderValue {
    thread_local! {
        /// An instance names itself in nearly every answer: the text is made once per thread.
        static LAST: RefCell<Option<(Arc<Endpoint>, HeaderValue)>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| {
        if let Some((endpoint, value)) = last
            && Arc::ptr_eq(endpoint, &served.by)
        {
            return value.clone();
        }
        let mut text = BytesMut::with_capacity(32);
        text.put_slice(served.by.to_string().as_bytes());
        let value = HeaderValue::from_maybe_shared(text.freeze()).unwrap_or_else(|_| HeaderValue::from_static("?"));
        *last = Some((Arc::clone(&served.by), value.clone()));
        value
    })
}
