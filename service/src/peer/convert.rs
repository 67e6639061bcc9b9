//! Between the messages of instances and the router's types.

use std::{collections::HashMap, ops::Bound, sync::Arc, time::Duration};

use bytes::Bytes;
use holdfast_discovery::peers::{Condition, Evicted, HeldTask, PeerReport};
use holdfast_proto::{
    error::{Code, Failure, Reason},
    holdfast::v1 as pb,
};
use holdfast_store::{Row, ScanRange};
use holdfast_types::{Endpoint, Position, ProcessId, Role};
use uuid::Uuid;

use crate::{
    grpc,
    query::{Answer, Consistency, Outcome, QueryError, ReadOptions, Routing, ScanPart, ScanQuestion, Served, millis},
};

/// Members of errors that travel; see [`Failure::members`].
const MEMBERS: [&str; 6] = ["store", "partition", "task", "remaining_records", "eta_ms", "owner"];

/// A peer's answer that makes no sense.
fn nonsense(what: &str) -> QueryError {
    QueryError::Internal(format!("the instance that was asked answered {what}"))
}

/// A question's options. How it is to be routed does not travel: it is never forwarded again.
pub(super) fn options_to(options: &ReadOptions) -> pb::ReadOptions {
    let (consistency, max_staleness, max_lag) = match options.consistency {
        Consistency::Strong => (pb::Consistency::Strong, None, None),
        Consistency::Any => (pb::Consistency::Any, None, None),
        Consistency::Bounded { max_staleness, max_lag } => (pb::Consistency::Bounded, Some(max_staleness), max_lag),
    };
    pb::ReadOptions {
        consistency: consistency.into(),
        max_staleness_ms: max_staleness.map(millis),
        max_lag,
        min_position: options.min_position.as_ref().map(grpc::position),
        timeout_ms: options.timeout.map(millis),
        routing: pb::Routing::Unspecified.into(),
    }
}

/// The options of a question that came from a peer.
pub(super) fn options_from(options: Option<pb::ReadOptions>) -> Result<ReadOptions, QueryError> {
    let options = options.unwrap_or_default();
    let consistency = match pb::Consistency::try_from(options.consistency) {
        Ok(pb::Consistency::Strong) => Consistency::Strong,
        Ok(pb::Consistency::Any) => Consistency::Any,
        Ok(pb::Consistency::Bounded) => Consistency::Bounded {
            max_staleness: Duration::from_millis(options.max_staleness_ms.unwrap_or_default()),
            max_lag: options.max_lag,
        },
        // Weaker than what a newer build asks for is no answer.
        Ok(pb::Consistency::Unspecified) | Err(_) => {
            let got = options.consistency.to_string();
            return Err(QueryError::parameter("consistency", "strong, bounded or any", &got));
        }
    };
    Ok(ReadOptions {
        consistency,
        min_position: options.min_position.map(grpc::position_from).transpose()?,
        timeout: options.timeout_ms.map(Duration::from_millis),
        routing: Routing::Local,
    })
}

pub(super) fn failure_to(error: &QueryError) -> pb::PeerFailure {
    let Failure { code, reason, detail, retry_after, members } = error.failure();
    pb::PeerFailure {
        code: code.as_str().to_owned(),
        reason: reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
        message: detail,
        retry_after_ms: retry_after.map(millis),
        members: members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}

pub(super) fn failure_from(failure: pb::PeerFailure) -> QueryError {
    let Some(code) = Code::parse(&failure.code) else { return nonsense("with an unknown error code") };
    let reason = Reason::ALL.into_iter().find(|reason| reason.as_str() == failure.reason);
    let mut given: HashMap<String, String> = failure.members;
    let members = MEMBERS.into_iter().filter_map(|name| given.remove(name).map(|value| (name, value)));
    QueryError::Remote(Box::new(Failure {
        code,
        reason,
        detail: failure.message,
        retry_after: failure.retry_after_ms.map(Duration::from_millis),
        members: members.collect(),
    }))
}

fn role_from(role: i32) -> Result<Role, QueryError> {
    match pb::Role::try_from(role) {
        Ok(pb::Role::Active) => Ok(Role::Active),
        Ok(pb::Role::Standby) => Ok(Role::Standby),
        Ok(pb::Role::Restoring) => Ok(Role::Restoring),
        Ok(pb::Role::Unspecified) | Err(_) => Err(nonsense("without the role of its copy")),
    }
}

/// Who served, as the peer at `endpoint` says.
fn served_from(served: pb::Served, endpoint: &Arc<Endpoint>) -> Result<Served, QueryError> {
    Ok(Served {
        by: Arc::clone(endpoint),
        role: role_from(served.role)?,
        partition: served.partition,
        position: Arc::new(served.position.map(grpc::position_from).transpose()?.unwrap_or_default()),
        staleness: served.staleness_ms.map(Duration::from_millis),
    })
}

pub(super) fn outcome_to(outcome: Outcome) -> pb::PeerOutcome {
    match outcome {
        Ok(answer) => pb::PeerOutcome {
            served: Some(grpc::served_by(&answer.served)),
            row: answer.value.map(|row| row_to(Bytes::new(), row)),
            failure: None,
        },
        Err(error) => pb::PeerOutcome { served: None, row: None, failure: Some(failure_to(&error)) },
    }
}

pub(super) fn outcome_from(outcome: pb::PeerOutcome, endpoint: &Arc<Endpoint>) -> Outcome {
    answer_from(outcome.row, outcome.served.map(|served| served_from(served, endpoint)), outcome.failure)
}

/// An outcome for each key of a batch. Most keys of one were read from the same few copies.
pub(super) fn outcomes_to(generation: i32, outcomes: Vec<Outcome>) -> pb::PeerBatchGetResponse {
    let mut served: Vec<Served> = Vec::new();
    let mut last_of: HashMap<i32, usize> = HashMap::new();
    let outcomes = outcomes.into_iter().map(|outcome| match outcome {
        Ok(answer) => {
            let partition = answer.served.partition;
            let known = last_of.get(&partition).copied();
            let index = match known.filter(|index| served.get(*index).is_some_and(|known| known.is(&answer.served))) {
                Some(index) => index,
                None => {
                    served.push(answer.served);
                    last_of.insert(partition, served.len() - 1);
                    served.len() - 1
                }
            };
            pb::PeerBatchOutcome {
                served: u32::try_from(index).ok(),
                row: answer.value.map(|row| row_to(Bytes::new(), row)),
                failure: None,
            }
        }
        Err(error) => pb::PeerBatchOutcome { served: None, row: None, failure: Some(failure_to(&error)) },
    });
    let outcomes = outcomes.collect();
    pb::PeerBatchGetResponse { generation, outcomes, served: served.iter().map(grpc::served_by).collect() }
}

/// The outcomes of a batch, one per key.
pub(super) fn outcomes_from(response: pb::PeerBatchGetResponse, endpoint: &Arc<Endpoint>) -> Vec<Outcome> {
    let served: Vec<_> = response.served.into_iter().map(|served| served_from(served, endpoint)).collect();
    let outcomes = response.outcomes.into_iter().map(|outcome| {
        let by = outcome.served.and_then(|index| served.get(usize::try_from(index).ok()?).cloned());
        answer_from(outcome.row, by, outcome.failure)
    });
    outcomes.collect()
}

fn answer_from(
    row: Option<pb::PeerRow>,
    served: Option<Result<Served, QueryError>>,
    failure: Option<pb::PeerFailure>,
) -> Outcome {
    match (failure, served) {
        (Some(failure), _) => Err(failure_from(failure)),
        // Without a witness, "no row" could be anything.
        (None, None) => Err(nonsense("without saying who served")),
        (None, Some(served)) => Ok(Answer { value: row.map(|row| row_from(row).1), served: served? }),
    }
}

pub(super) fn row_to(key: Bytes, row: Row) -> pb::PeerRow {
    pb::PeerRow { key, value: row.value, timestamp_ms: row.timestamp_ms, offset: row.offset }
}

fn row_from(row: pb::PeerRow) -> (Bytes, Row) {
    (row.key, Row { value: row.value, timestamp_ms: row.timestamp_ms, offset: row.offset })
}

pub(super) fn scan_to(store: &str, question: &ScanQuestion, options: &ReadOptions) -> pb::PeerScanRequest {
    let bound = |bound: &Bound<Vec<u8>>| match bound {
        Bound::Unbounded => None,
        Bound::Included(key) => Some(pb::PeerBound { key: Bytes::copy_from_slice(key), inclusive: true }),
        Bound::Excluded(key) => Some(pb::PeerBound { key: Bytes::copy_from_slice(key), inclusive: false }),
    };
    pb::PeerScanRequest {
        store: store.to_owned(),
        partitions: question.partitions.clone(),
        from: bound(&question.range.from),
        to: bound(&question.range.to),
        reverse: question.range.reverse,
        limit: u32::try_from(question.limit).unwrap_or(u32::MAX),
        max_bytes: question.max_bytes as u64,
        options: Some(options_to(options)),
    }
}

pub(super) fn scan_from(request: &pb::PeerScanRequest) -> ScanQuestion {
    let bound = |bound: &Option<pb::PeerBound>| match bound {
        None => Bound::Unbounded,
        Some(bound) if bound.inclusive => Bound::Included(bound.key.to_vec()),
        Some(bound) => Bound::Excluded(bound.key.to_vec()),
    };
    ScanQuestion {
        partitions: request.partitions.clone(),
        range: ScanRange { from: bound(&request.from), to: bound(&request.to), reverse: request.reverse },
        limit: request.limit.max(1) as usize,
        max_bytes: usize::try_from(request.max_bytes).unwrap_or(usize::MAX),
    }
}

pub(super) fn part_to(generation: i32, part: Result<ScanPart, QueryError>) -> pb::PeerScanResponse {
    match part {
        Ok(part) => pb::PeerScanResponse {
            generation,
            rows: part.rows.into_iter().map(|(key, row)| row_to(key, row)).collect(),
            more: part.more,
            served: part.served.iter().map(grpc::served_by).collect(),
            failure: None,
        },
        Err(error) => {
            pb::PeerScanResponse { generation, failure: Some(failure_to(&error)), ..pb::PeerScanResponse::default() }
        }
    }
}

/// The part of the partitions that were asked for: one that is not served by name might be missing in it.
pub(super) fn part_from(
    response: pb::PeerScanResponse,
    endpoint: &Arc<Endpoint>,
    partitions: &[i32],
) -> Result<ScanPart, QueryError> {
    if let Some(failure) = response.failure {
        return Err(failure_from(failure));
    }
    let served = response.served.into_iter().map(|served| served_from(served, endpoint));
    let served = served.collect::<Result<Vec<_>, _>>()?;
    if !partitions.iter().all(|partition| served.iter().any(|served| served.partition == *partition)) {
        return Err(nonsense("for other partitions than it was asked for"));
    }
    Ok(ScanPart { rows: response.rows.into_iter().map(row_from).collect(), more: response.more, served })
}

/// A report, and what only its sender can add to it.
pub(super) fn report_to(report: &PeerReport, application_id: &str, own: [&Endpoint; 2]) -> pb::PeerReport {
    let condition = |condition: Condition| match condition {
        Condition::Alive => pb::PeerCondition::Alive,
        Condition::Slow => pb::PeerCondition::Slow,
        Condition::Silent => pb::PeerCondition::Silent,
        Condition::Refused => pb::PeerCondition::Refused,
    };
    pb::PeerReport {
        process_id: report.process_id.to_string(),
        incarnation: report.incarnation,
        application_id: application_id.to_owned(),
        member_id: report.member_id.as_deref().unwrap_or_default().to_owned(),
        generation: report.generation,
        leaving: report.leaving,
        endpoint: own[0].to_string(),
        peer_endpoint: own[1].to_string(),
        transactional_ids: report.transactional_ids.clone(),
        tasks: report.tasks.iter().map(task_to).collect(),
        peers: report
            .opinions
            .iter()
            .map(|(id, of)| pb::PeerOpinion { process_id: id.to_string(), condition: condition(*of).into() })
            .collect(),
        evicted: report
            .evicted
            .iter()
            .map(|evicted| pb::PeerEviction {
                process_id: evicted.process_id.to_string(),
                incarnation: evicted.incarnation,
                ago_ms: millis(evicted.ago),
            })
            .collect(),
    }
}

/// A report of an instance of this application; `None` for anything else.
pub(super) fn report_from(report: pb::PeerReport, application_id: &str) -> Option<PeerReport> {
    if report.application_id != application_id {
        return None;
    }
    let opinion = |opinion: pb::PeerOpinion| {
        let condition = match pb::PeerCondition::try_from(opinion.condition).ok()? {
            pb::PeerCondition::Unspecified => return None,
            pb::PeerCondition::Alive => Condition::Alive,
            pb::PeerCondition::Slow => Condition::Slow,
            pb::PeerCondition::Silent => Condition::Silent,
            pb::PeerCondition::Refused => Condition::Refused,
        };
        Some((process_id(&opinion.process_id)?, condition))
    };
    let evicted = |evicted: pb::PeerEviction| {
        let ago = Duration::from_millis(evicted.ago_ms);
        Some(Evicted { process_id: process_id(&evicted.process_id)?, incarnation: evicted.incarnation, ago })
    };
    Some(PeerReport {
        process_id: process_id(&report.process_id)?,
        incarnation: report.incarnation,
        member_id: Some(report.member_id).filter(|id| !id.is_empty()).map(Into::into),
        generation: report.generation,
        leaving: report.leaving,
        transactional_ids: report.transactional_ids,
        tasks: report.tasks.into_iter().filter_map(task_from).collect(),
        opinions: report.peers.into_iter().filter_map(opinion).collect(),
        evicted: report.evicted.into_iter().filter_map(evicted).collect(),
    })
}

fn process_id(text: &str) -> Option<ProcessId> {
    Uuid::parse_str(text).ok().map(ProcessId)
}

fn task_to(held: &HeldTask) -> pb::PeerTask {
    pb::PeerTask {
        id: held.id.to_string(),
        role: grpc::role(held.role).into(),
        lag_records: held.lag_records,
        staleness_ms: held.staleness.map(millis),
        position: Some(grpc::position(&held.position)),
        changelog: held.changelog.clone(),
    }
}

fn task_from(task: pb::PeerTask) -> Option<HeldTask> {
    let position = task.position.map(grpc::position_from).transpose().ok()?;
    Some(HeldTask {
        id: task.id.parse().ok()?,
        role: role_from(task.role).ok()?,
        lag_records: task.lag_records,
        staleness: task.staleness_ms.map(Duration::from_millis),
        position: position.unwrap_or_else(Position::new),
        changelog: task.changelog,
    })
}
