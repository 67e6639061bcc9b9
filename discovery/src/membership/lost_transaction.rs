//! A transaction of which its producer lost sight: how it ended, and telling that to every partition that it may have reached.
//!
//! A coordinator that shuts down drops the markers for partitions that have no leader at that moment, as if their topics
//! were deleted (seen on a single broker, stopped in the middle of a transaction), and holds the transaction for complete.
//! Offsets then stay unstable, and last stable offsets stay where they are, for ever. The marker of a later transaction of
//! the same producer id ends them too, so an empty one takes all those partitions in, and ends as the lost one did.

use std::{collections::BTreeSet, time::Duration};

use holdfast_types::{GroupError, TopicPartition, TransactionEnd, TransactionReach};
use kafka_protocol::{
    messages::{
        AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, DescribeTransactionsRequest, EndTxnRequest, GroupId,
        InitProducerIdRequest, ProducerId, TopicName, TransactionalId,
        add_partitions_to_txn_request::AddPartitionsToTxnTopic,
    },
    protocol::StrBytes,
};
use tokio::time::{Instant, error::Elapsed, sleep, timeout_at};

use super::fencing;
use crate::wire::{
    cluster::{Cluster, Coordinated},
    connection::Connection,
    error::{WireError, code},
};

/// Newer versions than these leave it to the broker to count epochs and take partitions in as records come (KIP-890): here
/// there are no records.
const NEWEST_ADD: i16 = 3;
const NEWEST_END: i16 = 3;

/// Where a broker keeps groups' offsets.
const OFFSETS_TOPIC: &str = "__consumer_offsets";

const BACKOFF: Duration = Duration::from_millis(50);

/// How the last transaction of `id` ended, or will once somebody fences it; `None` where the broker cannot say.
pub(crate) async fn end_of(
    cluster: &Cluster,
    id: &str,
    deadline: Duration,
) -> Result<Option<TransactionEnd>, GroupError> {
    let patience = Patience::until(deadline, "DescribeTransactions");
    loop {
        let state = match patience.judge(timeout_at(patience.until, describe(cluster, id)).await)? {
            Some(state) => state,
            None => {
                sleep(BACKOFF).await;
                continue;
            }
        };
        match state.as_deref() {
            // Its markers are being written: the outcome is told when it is final.
            Some("PrepareCommit" | "PrepareAbort" | "PrepareEpochFence") => sleep(BACKOFF).await,
            Some("CompleteCommit") => return Ok(Some(TransactionEnd::Committed)),
            Some("Ongoing" | "CompleteAbort") => return Ok(Some(TransactionEnd::Aborted)),
            other => {
                tracing::debug!(transactional_id = id, state = other, "nothing is known of the last transaction");
                return Ok(None);
            }
        }
    }
}

/// Ends everything open within `reach` as `end` says. Fences `id`; may be repeated after an error.
pub(crate) async fn finish(
    cluster: &Cluster,
    id: &str,
    reach: &TransactionReach,
    end: TransactionEnd,
    deadline: Duration,
) -> Result<(), GroupError> {
    let patience = Patience::until(deadline, "ending a lost transaction");
    loop {
        match patience.judge(timeout_at(patience.until, attempt(cluster, id, reach, end)).await)? {
            Some(true) => return Ok(()),
            Some(false) | None => sleep(BACKOFF).await,
        }
    }
}

/// `false` while a partition has no leader: a marker for it could be dropped once more.
async fn attempt(
    cluster: &Cluster,
    id: &str,
    reach: &TransactionReach,
    end: TransactionEnd,
) -> Result<bool, WireError> {
    let Some(partitions) = partitions(cluster, reach).await? else { return Ok(false) };
    end_empty(cluster, id, &partitions, reach, end).await?;
    Ok(true)
}

/// How long something is tried again.
struct Patience {
    until: Instant,
    deadline: Duration,
    what: &'static str,
}

impl Patience {
    fn until(deadline: Duration, what: &'static str) -> Self {
        Self { until: Instant::now() + deadline, deadline, what }
    }

    /// What an attempt brought; `None` where another one may bring more.
    fn judge<T>(&self, outcome: Result<Result<T, WireError>, Elapsed>) -> Result<Option<T>, GroupError> {
        match outcome {
            Err(_) => Err(GroupError::TimedOut(self.deadline)),
            Ok(Ok(value)) => Ok(Some(value)),
            Ok(Err(error)) if fencing::is_passing(&error) => {
                tracing::debug!(%error, what = self.what, "tried again");
                Ok(None)
            }
            Ok(Err(error)) => Err(GroupError::Refused(format!("{}: {error}", self.what))),
        }
    }
}

async fn describe(cluster: &Cluster, id: &str) -> Result<Option<String>, WireError> {
    let mut connection = coordinator(cluster, id).await?;
    let Some(version) = connection.version_of::<DescribeTransactionsRequest>(0) else { return Ok(None) };
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![transactional(id)]);
    let answer = call(cluster, &mut connection, &request, version).await?;
    let Some(state) = answer.transaction_states.first() else { return Ok(None) };
    match state.error_code {
        code::NONE => Ok(Some(state.transaction_state.to_string())),
        code::TRANSACTIONAL_ID_NOT_FOUND => Ok(None),
        code => Err(refused(&connection, "DescribeTransactions", code)),
    }
}

/// The partitions of `reach` that exist; `None` while one of them has no leader.
async fn partitions(cluster: &Cluster, reach: &TransactionReach) -> Result<Option<Vec<TopicPartition>>, WireError> {
    let mut topics: BTreeSet<&str> = reach.partitions.iter().map(|partition| &*partition.topic).collect();
    topics.extend(reach.topics.iter().map(|topic| &**topic));
    if reach.group_id.is_some() {
        topics.insert(OFFSETS_TOPIC);
    }
    let mut reached = Vec::new();
    for (partition, has_leader) in cluster.leaders(&topics).await? {
        let within = reach.topics.contains(&*partition.topic) || reach.partitions.contains(&partition);
        if !has_leader && (within || &*partition.topic == OFFSETS_TOPIC) {
            return Ok(None);
        }
        if within {
            reached.push(partition);
        }
    }
    Ok(Some(reached))
}

async fn end_empty(
    cluster: &Cluster,
    id: &str,
    partitions: &[TopicPartition],
    reach: &TransactionReach,
    end: TransactionEnd,
) -> Result<(), WireError> {
    let mut connection = coordinator(cluster, id).await?;
    let version = connection.require::<InitProducerIdRequest>(fencing::NEWEST_INIT)?;
    let answer = call(cluster, &mut connection, &fencing::init_request(id), version).await?;
    check(&connection, "InitProducerId", answer.error_code)?;
    let (producer_id, epoch) = (answer.producer_id, answer.producer_epoch);

    if !partitions.is_empty() {
        add_partitions(cluster, &mut connection, id, (producer_id, epoch), partitions).await?;
    }
    if let Some(group_id) = &reach.group_id {
        let version = connection.require::<AddOffsetsToTxnRequest>(NEWEST_ADD)?;
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(transactional(id))
            .with_producer_id(producer_id)
            .with_producer_epoch(epoch)
            .with_group_id(GroupId(text(group_id)));
        let answer = call(cluster, &mut connection, &request, version).await?;
        check(&connection, "AddOffsetsToTxn", answer.error_code)?;
    }
    let version = connection.require::<EndTxnRequest>(NEWEST_END)?;
    let request = EndTxnRequest::default()
        .with_transactional_id(transactional(id))
        .with_producer_id(producer_id)
        .with_producer_epoch(epoch)
        .with_committed(end == TransactionEnd::Committed);
    let answer = call(cluster, &mut connection, &request, version).await?;
    check(&connection, "EndTxn", answer.error_code)
}

async fn add_partitions(
    cluster: &Cluster,
    connection: &mut Connection,
    id: &str,
    (producer_id, epoch): (ProducerId, i16),
    partitions: &[TopicPartition],
) -> Result<(), WireError> {
    let version = connection.require::<AddPartitionsToTxnRequest>(NEWEST_ADD)?;
    let topics = partitions.chunk_by(|a, b| a.topic == b.topic).map(|of_topic| {
        let name = of_topic.first().map(|first| text(&first.topic)).unwrap_or_default();
        AddPartitionsToTxnTopic::default()
            .with_name(TopicName(name))
            .with_partitions(of_topic.iter().map(|partition| partition.partition).collect())
    });
    let request = AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(transactional(id))
        .with_v3_and_below_producer_id(producer_id)
        .with_v3_and_below_producer_epoch(epoch)
        .with_v3_and_below_topics(topics.collect());
    let answer = call(cluster, connection, &request, version).await?;
    let results = answer.results_by_topic_v3_and_below.iter().flat_map(|topic| &topic.results_by_partition);
    let codes = results.map(|result| result.partition_error_code);
    // Where one is refused the others say OPERATION_NOT_ATTEMPTED, which explains nothing.
    match codes.filter(|code| *code != code::NONE).min_by_key(|code| *code == code::OPERATION_NOT_ATTEMPTED) {
        None => Ok(()),
        Some(code) => Err(refused(connection, "AddPartitionsToTxn", code)),
    }
}

async fn coordinator(cluster: &Cluster, id: &str) -> Result<Connection, WireError> {
    let address = cluster.find_coordinator(id, Coordinated::Transaction).await?;
    cluster.connector().open(&address).await
}

async fn call<R: kafka_protocol::protocol::Request>(
    cluster: &Cluster,
    connection: &mut Connection,
    request: &R,
    version: i16,
) -> Result<R::Response, WireError> {
    let after = cluster.connector().socket().request_timeout;
    connection.call(request, version, after).await
}

fn check(connection: &Connection, request: &'static str, code: i16) -> Result<(), WireError> {
    if code == code::NONE { Ok(()) } else { Err(refused(connection, request, code)) }
}

fn refused(connection: &Connection, request: &'static str, code: i16) -> WireError {
    WireError::Refused { peer: connection.peer().to_owned(), request, code }
}

fn transactional(id: &str) -> TransactionalId {
    TransactionalId(text(id))
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}
