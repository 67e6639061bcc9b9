//! Between messages and the router's types.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use holdfast_proto::{
    error::{Code, Failure},
    holdfast::v1 as pb,
};
use holdfast_store::Row;
use holdfast_stream::engine::{RestoreStatus, TaskStatus};
use holdfast_types::{Position, Role};
use tonic::{Status, metadata::MetadataMap};

use crate::query::{
    ConsistencyKind, OptionsBuilder, Queries, QueryError, ReadOptions, Routing, Served, StoreInfo, describe, explain,
    millis,
};

/// Read options from a message and `grpc-timeout`, whichever limit is smaller.
pub fn options_from(
    queries: &Queries,
    metadata: &MetadataMap,
    options: Option<pb::ReadOptions>,
) -> Result<ReadOptions, QueryError> {
    let options = options.unwrap_or_default();
    let wrong = |name: &str, number: i32| QueryError::parameter(name, "a known number", &number.to_string());
    let consistency = match pb::Consistency::try_from(options.consistency) {
        Ok(pb::Consistency::Unspecified) => None,
        Ok(pb::Consistency::Strong) => Some(ConsistencyKind::Strong),
        Ok(pb::Consistency::Bounded) => Some(ConsistencyKind::Bounded),
        Ok(pb::Consistency::Any) => Some(ConsistencyKind::Any),
        Err(_) => return Err(wrong("consistency", options.consistency)),
    };
    let routing = match pb::Routing::try_from(options.routing) {
        Ok(pb::Routing::Unspecified) => None,
        Ok(pb::Routing::Proxy) => Some(Routing::Proxy),
        Ok(pb::Routing::Redirect) => Some(Routing::Redirect),
        Err(_) => return Err(wrong("routing", options.routing)),
    };
    let builder = OptionsBuilder {
        consistency,
        max_staleness: options.max_staleness_ms.map(Duration::from_millis),
        max_lag: options.max_lag,
        min_position: options.min_position.map(position_from).transpose()?,
        timeout: options.timeout_ms.map(Duration::from_millis),
        routing,
    };
    let mut options = builder.build(queries.limits())?;
    if let Some(deadline) = metadata.get("grpc-timeout").and_then(|text| grpc_timeout(text.to_str().ok()?)) {
        let deadline = deadline.min(queries.limits().max_timeout);
        options.timeout = Some(options.timeout.map_or(deadline, |timeout| timeout.min(deadline)));
    }
    Ok(options)
}

/// `100m` and the like: up to eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

pub(crate) fn position_from(position: pb::Position) -> Result<Position, QueryError> {
    let mut out = Position::new();
    for entry in position.offsets {
        if entry.topic.is_empty() || entry.partition < 0 || entry.offset < 0 {
            let got = format!("{}-{}:{}", entry.topic, entry.partition, entry.offset);
            return Err(QueryError::parameter("min_position", "topic, partition and offset, none negative", &got));
        }
        out.advance(&Arc::from(entry.topic), entry.partition, entry.offset);
    }
    Ok(out)
}

pub(crate) fn position(position: &Position) -> pb::Position {
    let entry = |(topic, partition, offset): (&Arc<str>, i32, i64)| pb::PartitionOffset {
        topic: topic.to_string(),
        partition,
        offset,
    };
    pb::Position { offsets: position.iter().map(entry).collect() }
}

/// A key's bytes.
pub(super) fn key(queries: &Queries, store: &StoreInfo, key: Option<pb::Key>) -> Result<Vec<u8>, QueryError> {
    match key.and_then(|key| key.form) {
        Some(pb::key::Form::Text(text)) => queries.key_from_text(store, &text),
        Some(pb::key::Form::Encoded(bytes)) => queries.key_from_bytes(store, &bytes),
        None => Err(QueryError::parameter("key", "text or encoded", "neither")),
    }
}

pub(crate) fn role(role: Role) -> pb::Role {
    match role {
        Role::Active => pb::Role::Active,
        Role::Standby => pb::Role::Standby,
        Role::Restoring => pb::Role::Restoring,
    }
}

/// Who served, as a message.
pub fn served_by(served: &Served) -> pb::Served {
    pb::Served {
        served_by: served.by.to_string(),
        role: role(served.role).into(),
        partition: served.partition,
        position: Some(position(&served.position)),
        staleness_ms: served.staleness.map(millis),
    }
}

pub(super) fn row(queries: &Queries, store: &StoreInfo, key: &[u8], row: Row) -> Result<pb::Row, QueryError> {
    let mut json = Vec::with_capacity(row.value.len());
    queries.write_value(store, &row.value, &mut json)?;
    let value_json = String::from_utf8(json).map_err(|error| QueryError::Value {
        store: store.name.clone(),
        format: store.value.name().to_owned(),
        problem: error.to_string(),
    })?;
    Ok(pb::Row {
        key: queries.key_text(store, key)?,
        key_encoded: Bytes::copy_from_slice(key),
        value_json,
        value_encoded: row.value,
        timestamp_ms: row.timestamp_ms,
        offset: row.offset,
    })
}

/// The status of a key that a copy says is not there.
pub fn not_found(store: &str, key: &str, served: &Served) -> Status {
    let failure = Failure::new(Code::NotFound, format!("store {store} has no row for this key"))
        .with("store", store)
        .with("key", key)
        .with("served_by", served.by.to_string())
        .with("partition", served.partition.to_string())
        .with("role", served.role.as_str());
    Status::from(failure)
}

pub(super) fn failure(error: &QueryError) -> pb::Failure {
    let failure = error.failure();
    pb::Failure {
        code: failure.code.as_str().to_owned(),
        reason: failure.reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
        message: failure.detail,
        retry_after_ms: failure.retry_after.map(millis),
    }
}

pub(super) fn store(store: describe::StoreDescription) -> pb::Store {
    pb::Store {
        name: store.name,
        r#type: store.kind.to_owned(),
        storage: store.storage.to_owned(),
        key_format: store.key_format,
        value_format: store.value_format,
        partitions: store.partitions,
        subtopology: store.subtopology,
    }
}

pub(super) fn route(route: explain::RouteExplanation) -> pb::ExplainRouteResponse {
    let local = route.local.as_ref();
    pb::ExplainRouteResponse {
        store: route.store,
        key: route.key,
        partition: route.partition,
        task: route.task.to_string(),
        active: route.active.unwrap_or_default(),
        standbys: route.standbys,
        would_ask: route.would_ask.unwrap_or_default(),
        generation: route.generation,
        local_role: local.map_or(pb::Role::Unspecified, |copy| role(copy.role)).into(),
        local_lag_records: local.and_then(|copy| copy.lag_records),
        others: route.others.into_iter().map(route_copy).collect(),
        answers: route.answers.unwrap_or_default(),
        here: route.here.as_str().to_owned(),
        not_asked: route.not_asked.into_iter().map(route_copy).collect(),
        error: route.error.map(|error| pb::Failure {
            code: error.code.to_owned(),
            reason: error.reason.unwrap_or_default().to_owned(),
            message: error.detail,
            retry_after_ms: error.retry_after_ms,
        }),
    }
}

fn route_copy(copy: explain::RemoteCopy) -> pb::RouteCopy {
    pb::RouteCopy {
        instance: copy.instance,
        condition: copy.condition.to_owned(),
        role: copy.copy.as_ref().map_or(pb::Role::Unspecified, |copy| role(copy.role)).into(),
        lag_records: copy.copy.as_ref().and_then(|copy| copy.lag_records),
        staleness_ms: copy.copy.as_ref().and_then(|copy| copy.staleness_ms),
        why: copy.why.as_str().to_owned(),
    }
}

pub(super) fn member_tasks(member: describe::MemberTasks) -> pb::MemberTasks {
    let task = |task: describe::MemberTask| pb::MemberTask {
        id: task.id.to_string(),
        role: role(task.copy.role).into(),
        lag_records: task.copy.lag_records,
        staleness_ms: task.copy.staleness_ms,
        position: task.copy.position,
    };
    pb::MemberTasks {
        instance: member.instance,
        heard_ms_ago: member.heard_ms_ago,
        tasks: member.tasks.into_iter().map(task).collect(),
    }
}

pub(super) fn instance(instance: describe::InstanceDescription) -> pb::Instance {
    pb::Instance {
        process_id: instance.process_id,
        endpoint: instance.endpoint,
        peer_endpoint: instance.peer_endpoint,
        threads: instance.threads,
        active: instance.active.iter().map(ToString::to_string).collect(),
        standby: instance.standby.iter().map(ToString::to_string).collect(),
        warmup: instance.warmup.iter().map(ToString::to_string).collect(),
        condition: instance.condition.to_owned(),
        heard_ms_ago: instance.heard_ms_ago,
        self_: instance.is_self,
        tags: instance.tags.into_iter().collect(),
    }
}

pub(super) fn task(task: &TaskStatus) -> pb::Task {
    pb::Task {
        id: task.id.to_string(),
        role: role(task.role).into(),
        stores: task.stores.iter().map(ToString::to_string).collect(),
        committed: task.committed.clone().into_iter().collect(),
        lag_records: task.lag_records.clone().into_iter().collect(),
        stream_time_ms: task.stream_time_ms,
        restore: task.restore.as_ref().map(restore),
        waiting_for: task.waiting_for.clone().unwrap_or_default(),
        thread: task.thread.and_then(|thread| u32::try_from(thread).ok()),
        assigned: task.assigned.to_string(),
        changelog_lag: task.changelog_lag,
        staleness_ms: task.staleness_ms,
    }
}

fn restore(restore: &RestoreStatus) -> pb::Restore {
    pb::Restore {
        restored_records: restore.restored_records,
        total_records: restore.total_records,
        remaining_records: restore.remaining_records,
        eta_ms: restore.eta.map(millis),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_time_limit_holds() {
        let queries = crate::query::testing::FakeView::new().queries();
        let timeout = |header: Option<&'static str>, field: Option<u64>| {
            let mut metadata = MetadataMap::new();
            if let Some(header) = header {
                metadata.insert("grpc-timeout", header.parse().unwrap());
            }
            let options = pb::ReadOptions { timeout_ms: field, ..Default::default() };
            options_from(&queries, &metadata, Some(options)).unwrap().timeout.map(|timeout| timeout.as_millis())
        };
        assert_eq!(timeout(None, None), None);
        assert_eq!(timeout(Some("30m"), None), Some(30));
        assert_eq!(timeout(Some("30m"), Some(20)), Some(20));
        assert_eq!(timeout(Some("30m"), Some(40)), Some(30));
        assert_eq!(timeout(Some("5H"), None), Some(60_000), "bounded");
    }

    #[test]
    fn timeouts_are_grpcs() {
        for (text, expected) in [
            ("100m", Some(Duration::from_millis(100))),
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("123456789m", None),
            ("m", None),
            ("", None),
            ("5", None),
            ("-5S", None),
            ("5€", None),
        ] {
            assert_eq!(grpc_timeout(text), expected, "{text}");
        }
    }
}
