//! The journey of a seal: produced, acknowledged, committed, made visible. One thread beside each stream thread, which
//! goes on processing meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use holdfast_store::{AppliedBatch, CheckpointDelta, RowChange, StoreError};
use holdfast_types::{GroupError, GroupMetadata, GroupSession, OffsetToCommit, TaskId};
use tracing::{debug, info, warn};

use super::{
    config::{EngineConfig, ProcessingGuarantee},
    metrics,
};
use crate::{
    errors::DeadLetter,
    kafka::{BatchProducer, OutRecord, ProduceError, Transactional, Waker, producer::TransactionError},
    task::{Seal, TaskSeal},
};

/// How a seal's journey ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Committed and visible.
    Committed {
        /// From the seal's arrival here until its rows were visible.
        took: Duration,
        /// Records produced.
        records: usize,
    },
    /// This member was removed from the group; nothing of the seal was committed.
    NotAMember,
    /// The generation is over; nothing was committed. Once the next one retains these tasks, the same seal goes again.
    Superseded(Seal),
    /// A record is too large for its topic: nothing was committed.
    TooLarge {
        /// Whose record it was.
        task: TaskId,
        /// What it was.
        what: String,
        /// The seal, for the tasks that are not at fault.
        seal: Seal,
    },
    /// The producer is of no use any more and whether the seal was committed is not known: a new producer, and every task of
    /// the thread restored.
    ProducerLost {
        /// Why.
        reason: String,
    },
    /// The rows are committed, but the store cannot take them.
    Store {
        /// The task whose store failed.
        task: TaskId,
        /// Why.
        error: StoreError,
    },
    /// The broker refuses for good (authorisation, say).
    Refused {
        /// Why.
        reason: String,
    },
}

/// The handle that a stream thread has on its committer.
#[derive(Debug)]
pub(super) struct Committer {
    seals: Option<Sender<Work>>,
    outcomes: Receiver<Outcome>,
    cancel: Arc<AtomicBool>,
    closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Work {
    /// Get the producer ready, so that the first commit need not wait for it.
    Prepare,
    Commit(Seal),
}

/// How long one call to the broker may block before the journey looks whether it is still wanted.
const STEP: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(100);

impl Committer {
    /// Starts the thread, which makes the producer when it is first wanted: by then the group has fenced what an earlier
    /// process left open under the same transactional id.
    pub(super) fn start(
        config: &Arc<EngineConfig>,
        thread_index: usize,
        group: Arc<dyn GroupSession>,
        waker: Arc<Waker>,
    ) -> std::io::Result<Self> {
        let (seals, incoming) = bounded::<Work>(4);
        let (results, outcomes) = bounded(1);
        let cancel = Arc::new(AtomicBool::new(false));
        let closed = Arc::new(AtomicBool::new(false));
        let journey = Journey {
            config: Arc::clone(config),
            transactional_id: config.transactional_id(thread_index),
            group,
            cancel: Arc::clone(&cancel),
            closed: Arc::clone(&closed),
            producer: None,
            told_waiting: false,
        };
        let thread = std::thread::Builder::new().name(format!("commit-{thread_index}")).spawn(move || {
            let mut journey = journey;
            while let Ok(work) = incoming.recv() {
                journey.cancel.store(false, Ordering::Release);
                let Work::Commit(seal) = work else {
                    // What goes wrong here goes wrong again, and is told, at the first commit.
                    let _ = journey.ensure_producer();
                    continue;
                };
                let outcome = journey.run(seal);
                if matches!(outcome, Outcome::ProducerLost { .. }) {
                    // A new handle fences the old one and ends its transaction, before anybody reads offsets and changelogs.
                    let _ = journey.ensure_producer();
                }
                let gone = results.send(outcome).is_err();
                waker.wake();
                if gone {
                    break;
                }
            }
        })?;
        Ok(Self { seals: Some(seals), outcomes, cancel, closed, thread: Some(thread) })
    }

    /// Sends a seal on its way. The caller has none in flight.
    pub(super) fn send(&self, seal: Seal) -> bool {
        self.seals.as_ref().is_some_and(|seals| seals.send(Work::Commit(seal)).is_ok())
    }

    /// Gets the producer ready.
    pub(super) fn prepare(&self) {
        if let Some(seals) = &self.seals {
            // Full means that it is being prepared already.
            let _ = seals.try_send(Work::Prepare);
        }
    }

    /// The outcome of the seal in flight, if it has ended.
    pub(super) fn try_outcome(&self) -> Option<Outcome> {
        self.outcomes.try_recv().ok()
    }

    /// Waits for the outcome of the seal in flight.
    pub(super) fn wait_outcome(&self, deadline: Duration) -> Option<Outcome> {
        self.outcomes.recv_timeout(deadline).ok()
    }

    /// Whether the committer's thread has ended (it panicked: a bug).
    pub(super) fn is_dead(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Gives up on the seal in flight at the next step.
    pub(super) fn cancel(&self) {
        self.cancel.store(true, Ordering::Release);
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        self.seals = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("a commit thread panicked");
        }
    }
}

struct Journey {
    config: Arc<EngineConfig>,
    transactional_id: Option<String>,
    group: Arc<dyn GroupSession>,
    /// The seal in hand is given up.
    cancel: Arc<AtomicBool>,
    /// The thread is to end.
    closed: Arc<AtomicBool>,
    producer: Option<BatchProducer>,
    told_waiting: bool,
}

/// Why a step did not succeed, and what follows.
enum Stop {
    /// Abort if need be, and try the same seal again.
    Again(String),
    /// The journey ends.
    End(Outcome),
    /// The generation is over.
    Superseded,
    /// A record is larger than its topic allows.
    TooLarge { task: TaskId, what: String },
}

impl Journey {
    fn run(&mut self, seal: Seal) -> Outcome {
        let began = Instant::now();
        loop {
            match self.attempt(&seal) {
                Ok(()) => {
                    if std::mem::take(&mut self.told_waiting) {
                        info!("commits go on");
                    }
                    let records = seal.tasks.iter().map(TaskSeal::records).sum();
                    return Outcome::Committed { took: began.elapsed(), records };
                }
                Err(Stop::Superseded) => return Outcome::Superseded(seal),
                Err(Stop::TooLarge { task, what }) => return Outcome::TooLarge { task, what, seal },
                Err(Stop::End(outcome)) => return outcome,
                Err(Stop::Again(reason)) => {
                    metrics::commit_retried();
                    if !self.told_waiting {
                        self.told_waiting = true;
                        warn!(%reason, "a commit waits and is tried again; rows up to the last commit stay readable");
                    }
                    if self.cancelled() {
                        return Outcome::ProducerLost { reason: format!("given up while waiting: {reason}") };
                    }
                    std::thread::park_timeout(RETRY_PAUSE);
                }
            }
        }
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Acquire) || self.closed.load(Ordering::Acquire)
    }

    fn attempt(&mut self, seal: &Seal) -> Result<(), Stop> {
        match self.config.processing_guarantee {
            ProcessingGuarantee::ExactlyOnce => self.exactly_once(seal),
            ProcessingGuarantee::AtLeastOnce => self.at_least_once(seal),
        }
    }

    /// A transaction: changelogs, outputs and input offsets become visible together, or not at all.
    fn exactly_once(&mut self, seal: &Seal) -> Result<(), Stop> {
        let group = self.membership()?;
        self.ensure_producer()?;
        let result = self.transaction(seal, &group);
        match result {
            // The commit marker follows the last row: nobody else writes to this changelog partition.
            Ok(offsets) => apply(seal, &offsets, 1),
            Err(stop) => {
                // A producer that was replaced, or is about to be, has nothing to abort.
                if self.producer.is_some() && !matches!(stop, Stop::End(Outcome::ProducerLost { .. })) {
                    self.abort()?;
                }
                if matches!(stop, Stop::End(Outcome::ProducerLost { .. })) {
                    self.producer = None;
                }
                Err(stop)
            }
        }
    }

    fn transaction(&mut self, seal: &Seal, group: &GroupMetadata) -> Result<Vec<i64>, Stop> {
        self.with_producer(|producer| producer.begin().map_err(transaction_stop))?;
        let offsets = self.produce(seal)?;
        let input: Vec<_> = seal
            .tasks
            .iter()
            .flat_map(|part| part.offsets.iter().map(|(partition, offset)| (partition, *offset, part.stream_time_ms)))
            .map(|(partition, offset, stream_time)| (partition, offset, stream_time_metadata(stream_time)))
            .collect();
        let input: Vec<_> = input
            .iter()
            .map(|(partition, offset, metadata)| {
                (Arc::clone(&partition.topic), partition.partition, *offset, metadata.as_str())
            })
            .collect();
        if !input.is_empty() {
            self.retrying(|producer| producer.send_offsets(&input, group, STEP))?;
        }
        // From here on only the broker knows how it ends: the call is made again until it has said so.
        self.retrying(|producer| producer.commit(STEP))?;
        Ok(offsets)
    }

    /// Repeats a call that librdkafka resumes, until it answers for good or the journey is given up.
    fn retrying(&mut self, call: impl Fn(&BatchProducer) -> Result<(), TransactionError>) -> Result<(), Stop> {
        loop {
            match self.with_producer(|producer| {
                call(producer).map_err(|error| {
                    if error.retriable && !error.fatal && !error.requires_abort {
                        Stop::Again(error.to_string())
                    } else {
                        transaction_stop(error)
                    }
                })
            }) {
                Err(Stop::Again(reason)) if !self.cancelled() => {
                    if !self.told_waiting {
                        self.told_waiting = true;
                        warn!(%reason, "a transaction waits for its coordinator");
                    }
                }
                Err(Stop::Again(reason)) => return Err(Stop::End(Outcome::ProducerLost { reason })),
                other => return other,
            }
        }
    }

    /// Rows first, then the group's offsets: a crash between the two processes some records again.
    fn at_least_once(&mut self, seal: &Seal) -> Result<(), Stop> {
        // Nothing is written for tasks that are not ours any more.
        let group = self.membership()?;
        self.ensure_producer()?;
        self.with_producer(|producer| producer.begin().map_err(transaction_stop))?;
        let offsets = match self.produce(seal) {
            Ok(offsets) => offsets,
            Err(Stop::Again(reason)) => {
                // Records of this attempt may still be queued; a new handle drops them instead of writing them after a retry.
                self.producer = None;
                return Err(Stop::Again(reason));
            }
            Err(stop) => return Err(stop),
        };
        apply(seal, &offsets, 0)?;
        let input: Vec<_> = seal
            .tasks
            .iter()
            .flat_map(|part| {
                part.offsets.iter().map(|(partition, offset)| OffsetToCommit {
                    partition: partition.clone(),
                    offset: *offset,
                    metadata: stream_time_metadata(part.stream_time_ms),
                })
            })
            .collect();
        self.commit_offsets(group, &input)
    }

    fn commit_offsets(&mut self, mut group: GroupMetadata, offsets: &[OffsetToCommit]) -> Result<(), Stop> {
        if offsets.is_empty() {
            return Ok(());
        }
        loop {
            match self.group.commit_offsets(&group, offsets, STEP) {
                Ok(()) => return Ok(()),
                Err(GroupError::NotAMember) => return Err(Stop::End(Outcome::NotAMember)),
                Err(GroupError::Refused(reason)) => return Err(Stop::End(Outcome::Refused { reason })),
                Err(error) => {
                    if self.cancelled() {
                        return Err(Stop::End(Outcome::ProducerLost { reason: error.to_string() }));
                    }
                    if !self.told_waiting
                        && !matches!(error, GroupError::Rebalancing | GroupError::IllegalGeneration { .. })
                    {
                        self.told_waiting = true;
                        warn!(%error, "an offset commit waits for the group coordinator");
                    }
                    std::thread::park_timeout(Duration::from_millis(20));
                    // The rows are written: only the offsets have to follow, under whichever generation is in force. A member
                    // that lost the task meanwhile is told NotAMember, or writes what its successor counts again at most.
                    group = self.membership()?;
                }
            }
        }
    }

    fn membership(&self) -> Result<GroupMetadata, Stop> {
        self.group.metadata().ok_or_else(|| Stop::Again("not a member of the group at the moment".to_owned()))
    }

    fn with_producer<T>(&mut self, call: impl FnOnce(&mut BatchProducer) -> Result<T, Stop>) -> Result<T, Stop> {
        match &mut self.producer {
            Some(producer) => call(producer),
            None => Err(Stop::Again("no producer".to_owned())),
        }
    }

    fn ensure_producer(&mut self) -> Result<(), Stop> {
        if self.producer.is_some() {
            return Ok(());
        }
        let id = self.transactional_id.as_deref();
        let transaction = id.map(|id| Transactional { id, timeout: self.config.transaction_timeout });
        let producer = BatchProducer::new(&self.config.connection, transaction.as_ref(), self.config.message_timeout())
            .map_err(|error| Stop::End(Outcome::Refused { reason: error.to_string() }))?;
        loop {
            match producer.init_transactions(STEP) {
                Ok(()) => break,
                Err(error) if error.fatal => return Err(Stop::End(Outcome::Refused { reason: error.to_string() })),
                Err(error) if self.cancelled() => {
                    return Err(Stop::End(Outcome::ProducerLost { reason: error.to_string() }));
                }
                Err(error) => {
                    if !self.told_waiting {
                        self.told_waiting = true;
                        warn!(%error, "a producer waits for the transaction coordinator");
                    }
                }
            }
        }
        debug!(transactional_id = id, "producer ready");
        self.producer = Some(producer);
        Ok(())
    }

    fn abort(&mut self) -> Result<(), Stop> {
        loop {
            let Some(producer) = &self.producer else { return Ok(()) };
            match producer.abort(STEP) {
                Ok(()) => return Ok(()),
                Err(error) if error.fatal => {
                    self.producer = None;
                    return Err(Stop::End(Outcome::ProducerLost { reason: error.to_string() }));
                }
                // Nothing was begun, or the abort is already done.
                Err(error) if !error.retriable => {
                    debug!(%error, "abort");
                    return Ok(());
                }
                Err(error) if self.cancelled() => {
                    self.producer = None;
                    return Err(Stop::End(Outcome::ProducerLost { reason: error.to_string() }));
                }
                Err(_) => {}
            }
        }
    }

    /// Produces everything and waits for the acknowledgements; the offsets come in the order produced.
    fn produce(&mut self, seal: &Seal) -> Result<Vec<i64>, Stop> {
        let (cancel, closed) = (Arc::clone(&self.cancel), Arc::clone(&self.closed));
        let cancelled = move || cancel.load(Ordering::Acquire) || closed.load(Ordering::Acquire);
        let message_timeout = self.config.message_timeout();
        self.with_producer(|producer| {
            for part in &seal.tasks {
                produce_part(producer, part).map_err(|error| produce_stop(&error, seal))?;
            }
            let began = Instant::now();
            loop {
                match producer.flush(STEP) {
                    Ok(()) => return Ok(producer.take_offsets()),
                    // Each record times out by itself; past that the queue is stuck.
                    Err(ProduceError::TimedOut(_)) if began.elapsed() < message_timeout + STEP && !cancelled() => {}
                    Err(error) => return Err(produce_stop(&error, seal)),
                }
            }
        })
    }
}

fn produce_part(producer: &mut BatchProducer, part: &TaskSeal) -> Result<(), ProduceError> {
    for (rows, changelog) in part.rows.iter().zip(part.changelogs.iter()) {
        let Some(changelog) = changelog else { continue };
        for row in rows {
            producer.produce(&OutRecord {
                topic: &changelog.topic,
                partition: Some(changelog.partition),
                key: Some(&row.key),
                value: row.value.as_deref(),
                timestamp_ms: row.timestamp_ms,
                headers: &[],
            })?;
        }
    }
    for output in &part.outputs {
        let Some(sink) = part.sinks.get(output.sink) else { continue };
        producer.produce(&OutRecord {
            topic: &sink.topic,
            partition: None,
            key: output.key.as_deref(),
            value: output.value.as_deref(),
            timestamp_ms: output.timestamp_ms,
            headers: &output.headers,
        })?;
    }
    for DeadLetter { topic, key, value, timestamp_ms, headers } in &part.dead_letters {
        producer.produce(&OutRecord {
            topic,
            partition: None,
            key: key.as_deref(),
            value: value.as_deref(),
            timestamp_ms: *timestamp_ms,
            headers,
        })?;
    }
    Ok(())
}

/// Makes the rows visible and moves the checkpoint: they are committed, and survive this process in the changelog.
///
/// `markers` is the number of control records after the last row: with them in the checkpoint, a restart finds itself at the
/// changelog's end without reading.
fn apply(seal: &Seal, offsets: &[i64], markers: i64) -> Result<(), Stop> {
    let mut offsets = offsets.iter().copied();
    for part in &seal.tasks {
        let mut checkpoint =
            CheckpointDelta { stream_time_ms: Some(part.stream_time_ms), ..CheckpointDelta::default() };
        let mut stores = Vec::with_capacity(part.rows.len());
        for (rows, changelog) in part.rows.iter().zip(part.changelogs.iter()) {
            let mut changes = Vec::with_capacity(rows.len());
            let mut last = None;
            for row in rows {
                let offset = if changelog.is_some() { offsets.next().unwrap_or(-1) } else { -1 };
                last = last.max(Some(offset));
                changes.push(RowChange {
                    key: row.key.clone(),
                    value: row.value.clone(),
                    timestamp_ms: row.timestamp_ms,
                    offset,
                });
            }
            if let (Some(changelog), Some(last)) = (changelog, last)
                && last >= 0
            {
                checkpoint.changelog.push((changelog.clone(), last + 1 + markers));
            }
            stores.push(changes);
        }
        // Outputs and dead letters have offsets too, that nobody here needs.
        for _ in 0..part.outputs.len() + part.dead_letters.len() {
            offsets.next();
        }
        checkpoint.input = part.offsets.iter().map(|(partition, offset)| (partition.clone(), *offset)).collect();
        part.store
            .apply(AppliedBatch { rows: stores, checkpoint })
            .map_err(|error| Stop::End(Outcome::Store { task: part.task, error }))?;
        part.view.publish(part.position.clone());
    }
    Ok(())
}

fn transaction_stop(error: TransactionError) -> Stop {
    use rdkafka::error::RDKafkaErrorCode as Code;
    match error.code {
        Code::IllegalGeneration => Stop::Superseded,
        Code::UnknownMemberId | Code::FencedInstanceId => Stop::End(Outcome::NotAMember),
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => Stop::End(Outcome::Refused { reason: error.to_string() }),
        _ if error.fatal => Stop::End(Outcome::ProducerLost { reason: error.to_string() }),
        _ => Stop::Again(error.to_string()),
    }
}

fn produce_stop(error: &ProduceError, seal: &Seal) -> Stop {
    use rdkafka::error::RDKafkaErrorCode as Code;
    if let ProduceError::Transaction(error) = error {
        return transaction_stop(error.clone());
    }
    if error.is_fatal() {
        return Stop::End(Outcome::ProducerLost { reason: error.to_string() });
    }
    let ProduceError::Record { index, code } = error else { return Stop::Again(error.to_string()) };
    let (task, what) = locate(seal, *index);
    match code {
        _ if error.is_too_large() => Stop::TooLarge { task, what: format!("{what}: {code}") },
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => Stop::End(Outcome::Refused { reason: format!("{what}: {code}") }),
        _ => Stop::Again(format!("{what}: {code}")),
    }
}

/// Whose record number `index` of the batch is, in words.
fn locate(seal: &Seal, index: usize) -> (TaskId, String) {
    let mut before = 0;
    for part in &seal.tasks {
        let mut position = index.saturating_sub(before);
        if position < produced(part) {
            for (rows, changelog) in part.rows.iter().zip(part.changelogs.iter()) {
                let Some(changelog) = changelog else { continue };
                if let Some(row) = rows.get(position) {
                    let bytes = row.value.as_ref().map_or(0, |value| value.len());
                    return (part.task, format!("a row of {bytes} bytes for changelog {changelog}"));
                }
                position -= rows.len();
            }
            if let Some(output) = part.outputs.get(position) {
                let topic = part.sinks.get(output.sink).map_or("?", |sink| &sink.topic);
                return (part.task, format!("a record for {topic}"));
            }
            return (part.task, "a dead letter".to_owned());
        }
        before += produced(part);
    }
    (seal.tasks.first().map_or(TaskId::new(0, 0), |part| part.task), "a record".to_owned())
}

/// Records that a part produces: rows of stores without a changelog are not among them.
fn produced(part: &TaskSeal) -> usize {
    let rows: usize = part
        .rows
        .iter()
        .zip(part.changelogs.iter())
        .filter(|(_, changelog)| changelog.is_some())
        .map(|(rows, _)| rows.len())
        .sum();
    rows + part.outputs.len() + part.dead_letters.len()
}

/// Kafka Streams keeps stream time in the committed offset's metadata (`TopicPartitionMetadata`): version byte 2, i64 stream
/// time, then the processors' metadata (none); in Base64.
fn stream_time_metadata(stream_time_ms: i64) -> String {
    use base64::Engine as _;
    let mut bytes = [0; 9];
    bytes[0] = 2;
    bytes[1..].copy_from_slice(&stream_time_ms.to_be_bytes());
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
