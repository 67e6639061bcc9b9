//! A transaction of which its producer lost sight: how it ended, and telling that to every partition that waits for it.
//!
//! A coordinator that shuts down drops the markers for partitions that have no leader at that moment, as if their topics
//! were deleted (seen on a single broker, stopped in the middle of a transaction), and holds the transaction for complete.
//! Offsets then stay unstable, and last stable offsets stay where they are, until the marker of a later transaction of the
//! same producer id ends them: as that one ends, which may be the other way. So what is open is looked for, and empty
//! transactions end it as its own transaction ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_types::{GroupError, LostTransaction, TopicPartition, TransactionEnd};
use kafka_protocol::{
    messages::{
        AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, DescribeProducersRequest, DescribeTransactionsRequest,
        EndTxnRequest, GroupId, InitProducerIdRequest, ProducerId, TopicName, TransactionalId,
        add_partitions_to_txn_request::AddPartitionsToTxnTopic,
        describe_producers_request::TopicRequest,
        describe_transactions_response::{TopicData, TransactionState},
    },
    protocol::{Request, StrBytes},
};
use tokio::time::{Instant, error::Elapsed, sleep, timeout_at};

use super::fencing;
use crate::wire::{
    address::BrokerAddress,
    cluster::{Cluster, Coordinated},
    connection::Connection,
    error::{WireError, code},
};

/// Newer versions than these leave it to the broker to count epochs and take partitions in as records come (KIP-890): here
/// there are no records.
const NEWEST_ADD: i16 = 3;
const NEWEST_END: i16 = 3;

/// Where a broker keeps groups' offsets.
pub(super) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The coordinator's name for a transaction that has begun and not ended.
const ONGOING: &str = "Ongoing";

pub(super) const BACKOFF: Duration = Duration::from_millis(50);

/// How the last transaction of `id` ended, or will once somebody fences it; `None` where the broker cannot say.
pub(crate) async fn end_of(
    cluster: &Cluster,
    id: &str,
    deadline: Duration,
) -> Result<Option<TransactionEnd>, GroupError> {
    let patience = Patience::until(deadline, "DescribeTransactions");
    loop {
        match patience.judge(timeout_at(patience.until, describe(cluster, id)).await)? {
            None => sleep(BACKOFF).await,
            Some(state) => match standing(state.as_ref()) {
                Standing::Ended(end) => return Ok(Some(end)),
                Standing::UnderWay => return Ok(Some(TransactionEnd::Aborted)),
                // Its markers are being written: the outcome is told when it is final.
                Standing::Ending => sleep(BACKOFF).await,
                Standing::Unknown => {
                    let state = state.as_ref().map_or("not told", |state| state.transaction_state.as_str());
                    tracing::debug!(transactional_id = id, state, "nothing is known of the last transaction");
                    return Ok(None);
                }
            },
        }
    }
}

/// How far the last transaction of an id has come.
pub(super) enum Standing {
    Ended(TransactionEnd),
    /// Its end is decided, and its markers are being written.
    Ending,
    UnderWay,
    /// There was none, or nobody knows any more.
    Unknown,
}

/// What the coordinator's words mean.
pub(super) fn standing(state: Option<&TransactionState>) -> Standing {
    match state.map(|state| state.transaction_state.as_str()) {
        Some("CompleteCommit") => Standing::Ended(TransactionEnd::Committed),
        Some("CompleteAbort") => Standing::Ended(TransactionEnd::Aborted),
        Some("PrepareCommit" | "PrepareAbort" | "PrepareEpochFence") => Standing::Ending,
        Some(ONGOING) => Standing::UnderWay,
        _ => Standing::Unknown,
    }
}

/// Ends everything that is open of `lost`, and of the transactions before it. Fences `id`; may be repeated after an error.
pub(crate) async fn finish(
    cluster: &Cluster,
    id: &str,
    lost: &LostTransaction,
    deadline: Duration,
) -> Result<(), GroupError> {
    let patience = Patience::until(deadline, "ending a lost transaction");
    loop {
        match patience.judge(timeout_at(patience.until, attempt(cluster, id, lost)).await)? {
            Some(true) => return Ok(()),
            Some(false) | None => sleep(BACKOFF).await,
        }
    }
}

/// `false` while a partition has no leader: a marker for it could be dropped once more.
async fn attempt(cluster: &Cluster, id: &str, lost: &LostTransaction) -> Result<bool, WireError> {
    let Some(partitions) = partitions(cluster, lost).await? else { return Ok(false) };
    let under_way = describe(cluster, id).await?.filter(|state| state.transaction_state.as_str() == ONGOING);
    if let Some(state) = under_way {
        let open = open_since(cluster, &partitions, state.producer_id).await?;
        if holds_only_committed(lost, &covered(&state), &open) {
            tracing::debug!(transactional_id = id, ?open, "committing what is open: it is of a committed transaction");
            let address = cluster.find_coordinator(id, Coordinated::Transaction).await?;
            let connection = cluster.connector().open(&address).await?;
            let producer = (state.producer_id, state.producer_epoch);
            Ending { cluster, connection, id, producer }.end_now(TransactionEnd::Committed).await?;
        }
    }
    end_open(cluster, id, lost, &partitions).await?;
    Ok(true)
}

/// Fences `id`, which aborts what its coordinator holds for open, and then ends what is open all the same.
pub(super) async fn end_open(
    cluster: &Cluster,
    id: &str,
    lost: &LostTransaction,
    partitions: &[(TopicPartition, BrokerAddress)],
) -> Result<(), WireError> {
    let address = cluster.find_coordinator(id, Coordinated::Transaction).await?;
    let connection = cluster.connector().open(&address).await?;
    let mut ending = Ending::begin(cluster, connection, id).await?;
    let open = open_since(cluster, partitions, ending.producer.0).await?;
    for end in [TransactionEnd::Committed, TransactionEnd::Aborted] {
        let theirs = partitions.iter().map(|(partition, _)| partition);
        let theirs: Vec<_> = theirs.filter(|partition| ends(lost, partition, &open) == Some(end)).cloned().collect();
        let group = lost.group.as_ref().filter(|(_, offsets_end)| *offsets_end == end).map(|(group_id, _)| &**group_id);
        if !theirs.is_empty() || group.is_some() {
            tracing::debug!(transactional_id = id, ?end, ?theirs, group, "ending what may be open");
            ending.end(&theirs, group, end).await?;
        }
    }
    Ok(())
}

/// How what is open in `partition` ends; `None` where nothing is.
fn ends(
    lost: &LostTransaction,
    partition: &TopicPartition,
    open: &BTreeMap<TopicPartition, i64>,
) -> Option<TransactionEnd> {
    match open.get(partition) {
        Some(start) if *start < 0 => None,
        Some(start) if lost.committed.get(partition).is_some_and(|last| start <= last) => {
            Some(TransactionEnd::Committed)
        }
        // Also where this user may not know.
        _ => Some(lost.end),
    }
}

/// Where the coordinator's transaction may have written.
fn covered(state: &TransactionState) -> Vec<TopicPartition> {
    let of_topic = |topic: &TopicData| {
        let name = topic.topic.as_str().to_owned();
        topic.partitions.clone().into_iter().map(move |index| TopicPartition::new(name.as_str(), index))
    };
    state.topics.iter().flat_map(of_topic).collect()
}

/// Whether an open transaction that covers these partitions has nothing of its own, and some of a committed one, whose end
/// never came there: a coordinator in its last moments may have begun it behind that one, and so may an attempt to end that one
/// have been cut short. To abort it, as fencing does, would take back what was committed.
fn holds_only_committed(
    lost: &LostTransaction,
    covered: &[TopicPartition],
    open: &BTreeMap<TopicPartition, i64>,
) -> bool {
    let end = |partition: &TopicPartition| match &lost.group {
        Some((_, end)) if &*partition.topic == OFFSETS_TOPIC => Some(*end),
        _ => ends(lost, partition, open),
    };
    let ends: Vec<_> = covered.iter().map(end).collect();
    !ends.contains(&Some(TransactionEnd::Aborted)) && ends.contains(&Some(TransactionEnd::Committed))
}

/// The partitions that `lost` and those before it may have written to, as far as they exist, and their leaders; `None` while
/// one of them, or of the groups' offsets, has none.
pub(super) async fn partitions(
    cluster: &Cluster,
    lost: &LostTransaction,
) -> Result<Option<Vec<(TopicPartition, BrokerAddress)>>, WireError> {
    let written = lost.partitions.iter().chain(lost.committed.keys());
    let mut topics: BTreeSet<&str> = written.map(|partition| &*partition.topic).collect();
    topics.extend(lost.topics.iter().map(|topic| &**topic));
    if lost.group.is_some() {
        topics.insert(OFFSETS_TOPIC);
    }
    let mut found = Vec::new();
    for (partition, leader) in cluster.leaders(&topics).await? {
        let written = lost.topics.contains(&*partition.topic)
            || lost.partitions.contains(&partition)
            || lost.committed.contains_key(&partition);
        match leader {
            Some(leader) if written => found.push((partition, leader)),
            None if written || &*partition.topic == OFFSETS_TOPIC => return Ok(None),
            _ => {}
        }
    }
    Ok(Some(found))
}

/// Where the open transaction of `producer` began in each partition, negative where there is none. Partitions of which the
/// broker, or a permission, does not let this be known are left out.
pub(super) async fn open_since(
    cluster: &Cluster,
    partitions: &[(TopicPartition, BrokerAddress)],
    producer: ProducerId,
) -> Result<BTreeMap<TopicPartition, i64>, WireError> {
    let mut by_leader: BTreeMap<&BrokerAddress, Vec<&TopicPartition>> = BTreeMap::new();
    for (partition, leader) in partitions {
        by_leader.entry(leader).or_default().push(partition);
    }
    let mut open = BTreeMap::new();
    for (leader, partitions) in by_leader {
        let mut connection = cluster.connector().open(leader).await?;
        let Some(version) = connection.version_of::<DescribeProducersRequest>(0) else { continue };
        let topics = partitions.chunk_by(|a, b| a.topic == b.topic).map(|of_topic| {
            let (name, indexes) = topic_and_indexes(of_topic.iter().copied());
            TopicRequest::default().with_name(name).with_partition_indexes(indexes)
        });
        let request = DescribeProducersRequest::default().with_topics(topics.collect());
        let answer = call(cluster, &mut connection, &request, version).await?;
        for topic in &answer.topics {
            for partition in &topic.partitions {
                match partition.error_code {
                    code::NONE => {
                        let ours = partition.active_producers.iter().find(|state| state.producer_id == producer);
                        let start = ours.map_or(-1, |state| state.current_txn_start_offset);
                        open.insert(TopicPartition::new(topic.name.as_str(), partition.partition_index), start);
                    }
                    code::TOPIC_AUTHORIZATION_FAILED => {}
                    code => return Err(refused(&connection, "DescribeProducers", code)),
                }
            }
        }
    }
    Ok(open)
}

/// Empty transactions of an id, one after the other.
struct Ending<'a> {
    cluster: &'a Cluster,
    connection: Connection,
    id: &'a str,
    producer: (ProducerId, i16),
}

impl<'a> Ending<'a> {
    /// Fences the id, and ends what its coordinator holds for open.
    async fn begin(cluster: &'a Cluster, mut connection: Connection, id: &'a str) -> Result<Self, WireError> {
        let version = connection.require::<InitProducerIdRequest>(fencing::NEWEST_INIT)?;
        let answer = call(cluster, &mut connection, &fencing::init_request(id), version).await?;
        check(&connection, "InitProducerId", answer.error_code)?;
        Ok(Self { cluster, connection, id, producer: (answer.producer_id, answer.producer_epoch) })
    }

    async fn end(
        &mut self,
        partitions: &[TopicPartition],
        group_id: Option<&str>,
        end: TransactionEnd,
    ) -> Result<(), WireError> {
        if !partitions.is_empty() {
            self.add_partitions(partitions).await?;
        }
        if let Some(group_id) = group_id {
            self.add_offsets(group_id).await?;
        }
        self.end_now(end).await
    }

    /// Ends the transaction at hand.
    async fn end_now(&mut self, end: TransactionEnd) -> Result<(), WireError> {
        let version = self.connection.require::<EndTxnRequest>(NEWEST_END)?;
        let request = EndTxnRequest::default()
            .with_transactional_id(transactional(self.id))
            .with_producer_id(self.producer.0)
            .with_producer_epoch(self.producer.1)
            .with_committed(end == TransactionEnd::Committed);
        let answer = call(self.cluster, &mut self.connection, &request, version).await?;
        check(&self.connection, "EndTxn", answer.error_code)
    }

    async fn add_partitions(&mut self, partitions: &[TopicPartition]) -> Result<(), WireError> {
        let version = self.connection.require::<AddPartitionsToTxnRequest>(NEWEST_ADD)?;
        let topics = partitions.chunk_by(|a, b| a.topic == b.topic).map(|of_topic| {
            let (name, indexes) = topic_and_indexes(of_topic.iter());
            AddPartitionsToTxnTopic::default().with_name(name).with_partitions(indexes)
        });
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(transactional(self.id))
            .with_v3_and_below_producer_id(self.producer.0)
            .with_v3_and_below_producer_epoch(self.producer.1)
            .with_v3_and_below_topics(topics.collect());
        loop {
            let answer = call(self.cluster, &mut self.connection, &request, version).await?;
            let results = answer.results_by_topic_v3_and_below.iter().flat_map(|topic| &topic.results_by_partition);
            let codes = results.map(|result| result.partition_error_code).filter(|code| *code != code::NONE);
            // Where one is refused the others say OPERATION_NOT_ATTEMPTED, which explains nothing.
            match codes.min_by_key(|code| *code == code::OPERATION_NOT_ATTEMPTED) {
                None => return Ok(()),
                // The markers of the one before are being written.
                Some(code::CONCURRENT_TRANSACTIONS) => sleep(BACKOFF).await,
                Some(code) => return Err(refused(&self.connection, "AddPartitionsToTxn", code)),
            }
        }
    }

    async fn add_offsets(&mut self, group_id: &str) -> Result<(), WireError> {
        let version = self.connection.require::<AddOffsetsToTxnRequest>(NEWEST_ADD)?;
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(transactional(self.id))
            .with_producer_id(self.producer.0)
            .with_producer_epoch(self.producer.1)
            .with_group_id(GroupId(text(group_id)));
        loop {
            let answer = call(self.cluster, &mut self.connection, &request, version).await?;
            match answer.error_code {
                code::CONCURRENT_TRANSACTIONS => sleep(BACKOFF).await,
                code => return check(&self.connection, "AddOffsetsToTxn", code),
            }
        }
    }
}

/// What the coordinator knows of the last transaction of `id`; `None` where it knows none, or cannot say.
pub(super) async fn describe(cluster: &Cluster, id: &str) -> Result<Option<TransactionState>, WireError> {
    let address = cluster.find_coordinator(id, Coordinated::Transaction).await?;
    let mut connection = cluster.connector().open(&address).await?;
    let Some(version) = connection.version_of::<DescribeTransactionsRequest>(0) else { return Ok(None) };
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![transactional(id)]);
    let answer = call(cluster, &mut connection, &request, version).await?;
    match answer.transaction_states.into_iter().next() {
        Some(state) if state.error_code == code::NONE => Ok(Some(state)),
        Some(state) if state.error_code != code::TRANSACTIONAL_ID_NOT_FOUND => {
            Err(refused(&connection, "DescribeTransactions", state.error_code))
        }
        _ => Ok(None),
    }
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

async fn call<R: Request>(
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

fn topic_and_indexes<'a>(of_topic: impl Iterator<Item = &'a TopicPartition>) -> (TopicName, Vec<i32>) {
    let mut name = TopicName::default();
    let indexes = of_topic.map(|partition| {
        name = TopicName(text(&partition.topic));
        partition.partition
    });
    let indexes = indexes.collect();
    (name, indexes)
}

fn transactional(id: &str) -> TransactionalId {
    TransactionalId(text(id))
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that is aborted; those before it wrote up to offset 41.
    fn aborted(partition: &TopicPartition) -> LostTransaction {
        LostTransaction {
            end: TransactionEnd::Aborted,
            partitions: [partition.clone()].into(),
            topics: BTreeSet::new(),
            committed: [(partition.clone(), 41)].into(),
            group: None,
        }
    }

    #[test]
    fn what_was_committed_is_not_taken_back_by_an_empty_transaction_behind_it() {
        let [hangs, other] = [0, 1].map(|index| TopicPartition::new("t", index));
        let holds = |lost: &LostTransaction, open: &[(&TopicPartition, i64)]| {
            let open = open.iter().map(|(partition, start)| ((*partition).clone(), *start)).collect();
            holds_only_committed(lost, &[hangs.clone(), other.clone()], &open)
        };
        let lost = aborted(&hangs);
        assert!(holds(&lost, &[(&hangs, 30), (&other, -1)]));
        assert!(!holds(&lost, &[(&hangs, -1), (&other, -1)]), "nothing hangs: it may as well be aborted");
        assert!(!holds(&lost, &[(&hangs, 30), (&other, 7)]), "it has written elsewhere");
        assert!(!holds(&lost, &[(&hangs, 42), (&other, -1)]), "it has written, and nothing hangs");
        assert!(!holds(&lost, &[(&hangs, 30)]), "nobody may say whether it has written elsewhere");
        assert!(holds(&LostTransaction { end: TransactionEnd::Committed, ..lost.clone() }, &[(&hangs, 42)]));

        // The group's offsets hang, too, unless the lost one has sent its own.
        let covered = [hangs.clone(), TopicPartition::new(OFFSETS_TOPIC, 3)];
        let open = [(hangs.clone(), 30)].into();
        for (end, holds) in [(TransactionEnd::Committed, true), (TransactionEnd::Aborted, false)] {
            let lost = LostTransaction { group: Some(("group".into(), end)), ..aborted(&hangs) };
            assert_eq!(holds_only_committed(&lost, &covered, &open), holds, "{end:?}");
        }
    }

    #[test]
    fn what_is_open_ends_as_its_own_transaction_did() {
        let partition = TopicPartition::new("t", 0);
        let lost = aborted(&partition);
        let ends = |start: Option<i64>| {
            let open = start.map(|start| (partition.clone(), start)).into_iter().collect();
            super::ends(&lost, &partition, &open)
        };
        assert_eq!(ends(Some(-1)), None, "nothing is open");
        assert_eq!(ends(Some(30)), Some(TransactionEnd::Committed), "the marker of the one before is missing");
        assert_eq!(ends(Some(41)), Some(TransactionEnd::Committed));
        assert_eq!(ends(Some(43)), Some(TransactionEnd::Aborted), "what the lost one wrote");
        assert_eq!(ends(None), Some(TransactionEnd::Aborted), "nobody may say what is open");
    }
}
