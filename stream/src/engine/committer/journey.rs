//! The journey itself: a transaction, or writes and then offsets; what goes wrong, and whether it is tried again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use holdfast_types::{GroupError, GroupMetadata, GroupSession, OffsetToCommit, TopicPartition, TransactionEnd};
use tracing::{info, warn};

use super::{
    Outcome,
    letter_topic::LetterTopic,
    lost::{Loss, Progress},
    open_transactions::OpenTransactions,
    producer::Settled,
    records::{apply, produce_part, topics, written},
    stop::{Stop, check_room, produce_stop, transaction_stop},
};
use crate::{
    engine::{
        config::{EngineConfig, ProcessingGuarantee},
        metrics, offset_metadata,
    },
    kafka::{
        BatchProducer, ProduceError,
        producer::{InputOffset, TransactionError},
    },
    task::{Seal, TaskSeal},
};

/// How long a handle may answer that a call is to be made again, before there is a new one.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one call to the broker may block before the journey looks whether it is still wanted.
pub(super) const STEP: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a commit's offsets wait for the generation that a join brings: less than it takes to write all its rows again, as they
/// have to be when the generation that they name ends on the way.
const JOIN_PATIENCE: Duration = Duration::from_millis(100);

pub(super) struct Journey {
    pub(super) config: Arc<EngineConfig>,
    pub(super) thread: usize,
    pub(super) transactional_id: Option<String>,
    pub(super) open_transactions: Arc<OpenTransactions>,
    /// A topic that the thread writes to.
    pub(super) changelog: Option<String>,
    pub(super) group: Arc<dyn GroupSession>,
    /// The seal in hand is given up.
    pub(super) cancel: Arc<AtomicBool>,
    /// The thread is to end.
    pub(super) closed: Arc<AtomicBool>,
    pub(super) producer: Option<BatchProducer>,
    pub(super) told_waiting: bool,
    /// Under at-least-once, what attempts with the seal in hand have written: offsets by record number.
    pub(super) written: Vec<i64>,
    /// The generation of the latest attempt.
    pub(super) generation: i32,
    /// How far the transaction at hand has come.
    pub(super) progress: Progress,
    /// The last offsets that committed transactions wrote.
    pub(super) committed: BTreeMap<TopicPartition, i64>,
    /// How the last transaction ended that took the group's offsets in.
    pub(super) offsets_end: TransactionEnd,
    /// What was lost with a producer, until it is ended.
    pub(super) lost: Option<Loss>,
    pub(super) letters: LetterTopic,
}

impl Journey {
    pub(super) fn run(&mut self, seal: Seal) -> Outcome {
        let began = Instant::now();
        self.written.clear();
        self.progress = Progress::default();
        loop {
            match self.attempt(&seal) {
                Ok(()) => {
                    if std::mem::take(&mut self.told_waiting) {
                        info!("commits go on");
                    }
                    let records = seal.tasks.iter().map(TaskSeal::records).sum();
                    return Outcome::Committed { took: began.elapsed(), records };
                }
                Err(Stop::Superseded) => return Outcome::Superseded { seal, generation: self.generation },
                Err(Stop::RecordRefused { task, what, dead_letter }) => {
                    return Outcome::RecordRefused { task, what, dead_letter, seal };
                }
                Err(Stop::End(outcome)) => {
                    if matches!(outcome, Outcome::ProducerLost { .. } | Outcome::Refused { .. }) {
                        self.lose(Some(&seal));
                    }
                    return outcome;
                }
                Err(stop @ (Stop::Again(_) | Stop::Denied(_))) => {
                    let pause = if matches!(stop, Stop::Denied(_)) { STEP } else { RETRY_PAUSE };
                    let reason = stop.reason();
                    metrics::commit_retried();
                    if let Some(letter) = seal.tasks.iter().find_map(|part| part.dead_letters.first()) {
                        self.letters.look_after(&self.config, &letter.topic);
                    }
                    if !self.told_waiting {
                        self.told_waiting = true;
                        warn!(%reason, "a commit waits and is tried again; rows up to the last commit stay readable");
                    }
                    if self.cancelled() {
                        self.lose(Some(&seal));
                        return Outcome::ProducerLost { reason: format!("given up while waiting: {reason}") };
                    }
                    std::thread::park_timeout(pause);
                }
            }
        }
    }

    /// What is given up is not committed, even if nothing stands in its way any more: somebody waits for its end.
    fn check_wanted(&self) -> Result<(), Stop> {
        match self.cancelled() {
            true => Err(Stop::End(Outcome::ProducerLost { reason: "given up before it was committed".to_owned() })),
            false => Ok(()),
        }
    }

    pub(super) fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Acquire) || self.closed.load(Ordering::Acquire)
    }

    fn attempt(&mut self, seal: &Seal) -> Result<(), Stop> {
        check_room(seal)?;
        self.check_wanted()?;
        match self.config.processing_guarantee {
            ProcessingGuarantee::ExactlyOnce => self.exactly_once(seal),
            ProcessingGuarantee::AtLeastOnce => self.at_least_once(seal),
        }
    }

    /// A transaction: changelogs, outputs and input offsets become visible together, or not at all.
    fn exactly_once(&mut self, seal: &Seal) -> Result<(), Stop> {
        self.membership(seal)?;
        if self.producer.as_ref().is_some_and(BatchProducer::is_troubled) {
            self.progress = Progress::default();
            self.lose(None);
        }
        match self.settle().map_err(Stop::Again)? {
            Settled::NotCommitted => seal.tasks.iter().for_each(|part| part.view.commit_ends()),
            // The attempt before, with the same seal: no other outcome lets a commit that was asked for be tried again.
            Settled::Committed => return apply(seal, &self.progress.offsets, 1),
            Settled::Unknown => {
                let reason = "the broker cannot say how a transaction ended".to_owned();
                return Err(Stop::End(Outcome::ProducerLost { reason }));
            }
        }
        self.ensure_producer()?;
        match self.transaction(seal) {
            // The commit marker follows the last row: nobody else writes to this changelog partition.
            Ok(()) => {
                self.committed.append(&mut self.progress.written);
                self.offsets_ended(TransactionEnd::Committed);
                apply(seal, &self.progress.offsets, 1)
            }
            Err(stop) => Err(self.leave(seal, stop)),
        }
    }

    /// Ends a transaction that was not committed, and says what follows.
    fn leave(&mut self, seal: &Seal, stop: Stop) -> Stop {
        match stop {
            Stop::Denied(reason) => {
                // The broker refused to begin the transaction, and then refuses to abort it, which librdkafka does not get over.
                // A new handle ends whatever there was.
                self.producer = None;
                let topics: Vec<_> = topics(seal).into_iter().collect();
                Stop::Denied(format!("{reason}; the commit writes to {}", topics.join(", ")))
            }
            // Its successor ends it.
            Stop::End(Outcome::ProducerLost { .. }) => stop,
            _ if self.progress.commit_asked || self.producer.as_ref().is_none_or(BatchProducer::is_troubled) => {
                self.lose(Some(seal));
                stop
            }
            _ => match self.abort(seal, &stop) {
                Ok(()) => {
                    self.offsets_ended(TransactionEnd::Aborted);
                    stop
                }
                Err(lost) => lost,
            },
        }
    }

    pub(super) fn offsets_ended(&mut self, end: TransactionEnd) {
        if self.progress.offsets_asked {
            self.offsets_end = end;
        }
    }

    fn transaction(&mut self, seal: &Seal) -> Result<(), Stop> {
        self.progress = Progress::default();
        self.with_producer(|producer| producer.begin().map_err(transaction_stop))?;
        self.progress.offsets = self.produce(seal)?;
        let partitions = self.with_producer(|producer| Ok(producer.take_partitions()))?;
        self.progress.written = written(seal, &self.progress.offsets, &partitions);
        let input: Arc<[InputOffset]> = seal
            .tasks
            .iter()
            .flat_map(|part| part.offsets.iter().map(|(partition, next)| (partition, *next, part.stream_time_ms)))
            .map(|(partition, next, stream_time)| InputOffset {
                topic: Arc::clone(&partition.topic),
                partition: partition.partition,
                next,
                metadata: offset_metadata::encode(stream_time),
            })
            .collect();
        self.check_wanted()?;
        if !input.is_empty() {
            self.send_offsets(seal, &input)?;
        }
        self.check_wanted()?;
        seal.tasks.iter().for_each(|part| part.view.commit_begins());
        // From here on only the broker knows how it ends: the call is made again until it has said so.
        self.progress.commit_asked = true;
        self.retrying(|producer| producer.commit(STEP))
    }

    fn send_offsets(&mut self, seal: &Seal, input: &Arc<[InputOffset]>) -> Result<(), Stop> {
        let session = Arc::clone(&self.group);
        let mut sent = Ok(());
        session.name_generation(JOIN_PATIENCE, &mut || {
            // A generation that began while the rows were written is the one to name: the tasks are still this member's, or the
            // membership would be another one, and the former generation's number would be refused, and all rows written again.
            sent = self.membership(seal).and_then(|group| {
                self.generation = group.generation;
                self.progress.offsets_asked = true;
                self.retrying(|producer| producer.send_offsets(input, &group, STEP))
            });
        });
        sent
    }

    /// Repeats a call that librdkafka resumes, until it answers for good or the journey is given up. A handle that does not get
    /// over it in time is lost, too: some were seen to answer `CoordinatorLoadInProgress` long after the coordinator had loaded.
    fn retrying(&mut self, call: impl Fn(&BatchProducer) -> Result<(), TransactionError>) -> Result<(), Stop> {
        let began = Instant::now();
        loop {
            let Some(producer) = &self.producer else { return Err(Stop::Again("no producer".to_owned())) };
            let Err(error) = call(producer) else { return Ok(()) };
            let reason = error.to_string();
            let commit_asked = self.progress.commit_asked;
            if !error.retriable || error.fatal || error.requires_abort {
                // Once a commit was asked for, only the broker knows what came of it.
                let lost = || Stop::End(Outcome::ProducerLost { reason });
                return Err(if commit_asked { lost() } else { transaction_stop(error) });
            }
            // Before the commit is asked for, nothing may reach a broker that was away; see `is_troubled`.
            if !commit_asked && self.is_troubled() {
                return Err(Stop::Again(reason));
            }
            if !commit_asked && began.elapsed() > PATIENCE {
                self.producer.iter().for_each(BatchProducer::give_up);
                return Err(Stop::Again(reason));
            }
            if self.cancelled() {
                return Err(Stop::End(Outcome::ProducerLost { reason }));
            }
            std::thread::park_timeout(RETRY_PAUSE);
            if !std::mem::replace(&mut self.told_waiting, true) {
                warn!(%reason, "a transaction waits for its coordinator");
            }
        }
    }

    /// Rows first, then the group's offsets: a crash between the two processes some records again.
    fn at_least_once(&mut self, seal: &Seal) -> Result<(), Stop> {
        // Nothing is written for tasks that are not ours any more, or may not be: this process may have stood still.
        let group = self.membership(seal)?;
        if self.group.last_confirmed().is_none_or(|confirmed| confirmed.at.elapsed() > self.config.session_timeout) {
            return Err(Stop::Again("the group has confirmed nothing for longer than the session time-out".to_owned()));
        }
        self.ensure_producer()?;
        // What is written is committed.
        seal.tasks.iter().for_each(|part| part.view.commit_begins());
        let written = std::mem::take(&mut self.written);
        self.with_producer(|producer| {
            producer.begin().map_err(transaction_stop)?;
            producer.resume(written);
            Ok(())
        })?;
        let offsets = match self.produce(seal) {
            Ok(offsets) => offsets,
            Err(stop @ (Stop::Again(_) | Stop::Denied(_))) => {
                // What is written stays written: the next attempt goes on from there, instead of doubling it each time.
                self.written = self.producer.as_ref().map(BatchProducer::take_offsets).unwrap_or_default();
                // Records of this attempt may still be queued; a new handle drops them instead of writing them after a retry.
                self.producer = None;
                return Err(stop);
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
                    metadata: offset_metadata::encode(part.stream_time_ms),
                })
            })
            .collect();
        self.commit_offsets(seal, group, &input)
    }

    fn commit_offsets(
        &mut self,
        seal: &Seal,
        mut group: GroupMetadata,
        offsets: &[OffsetToCommit],
    ) -> Result<(), Stop> {
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
                    group = self.membership(seal)?;
                }
            }
        }
    }

    /// Whom the seal is committed for.
    fn membership(&self, seal: &Seal) -> Result<GroupMetadata, Stop> {
        match self.group.metadata() {
            Some(group) if group.tenure == seal.tenure => Ok(group),
            // The coordinator would take it: it knows members and generations, not whose tasks these offsets are. Somebody else
            // may have counted these records meanwhile.
            Some(_) if self.lost.is_none() => Err(Stop::End(Outcome::NotAMember)),
            Some(_) => {
                let reason = "the membership was lost before a commit was known to have ended".to_owned();
                Err(Stop::End(Outcome::ProducerLost { reason }))
            }
            None => Err(Stop::Again("not a member of the group at the moment".to_owned())),
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
