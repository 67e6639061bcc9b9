//! The journey's producer: made, given up and replaced, and how what a lost one left open turned out.

use std::sync::atomic::Ordering;

use holdfast_types::TransactionEnd;
use tracing::{debug, warn};

use super::{
    Outcome,
    journey::{Journey, STEP},
    lost::{Loss, Progress},
    stop::Stop,
};
use crate::{
    kafka::{BatchProducer, Transactional},
    task::Seal,
};

/// Steps that a new producer's handle has to get its id and epoch.
const INIT_ATTEMPTS: usize = 15;

/// How what was lost turned out.
pub(super) enum Settled {
    /// Or nothing was lost.
    NotCommitted,
    /// Its offsets are in `progress`.
    Committed,
    Unknown,
}

impl Journey {
    pub(super) fn with_producer<T>(
        &mut self,
        call: impl FnOnce(&mut BatchProducer) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        match &mut self.producer {
            Some(producer) => call(producer),
            None => Err(Stop::Again("no producer".to_owned())),
        }
    }

    /// Makes the producer, unless there is one; `init_transactions` ends what an earlier handle left open.
    pub(super) fn ensure_producer(&mut self) -> Result<(), Stop> {
        self.make_producer(Self::cancelled)
    }

    /// Makes a new producer after a loss, however long that takes: until then nobody knows how the lost transaction ends.
    pub(super) fn renew_producer(&mut self) {
        self.producer = None;
        let closed = |journey: &Self| journey.closed.load(Ordering::Acquire);
        let mut told = false;
        loop {
            let settled = self.settle();
            let result = settled.and_then(|_| self.make_producer(closed).map_err(|stop| stop.reason()));
            let Err(reason) = result else { break };
            if closed(self) {
                return;
            }
            if !std::mem::replace(&mut told, true) {
                warn!(reason, "a lost transaction cannot be ended yet; tried again until it is");
            }
            std::thread::park_timeout(STEP);
        }
        self.open_transactions.ended(self.thread);
    }

    /// Between two commits: what a broken connection may have left open is ended, and nobody restores before. The broker may have
    /// dropped markers of transactions whose commits it had answered, and nobody knows when there is a next commit. With `make`, a
    /// producer is made where there is none yet. Once there is something to do instead, `wanted`, that goes first.
    pub(super) fn look_after(&mut self, make: bool, wanted: impl Fn() -> bool) {
        self.producer.iter().for_each(BatchProducer::listen);
        if self.transactional_id.is_some() && self.producer.as_ref().is_some_and(BatchProducer::is_troubled) {
            self.open_transactions.left_open(self.thread);
            self.progress = Progress::default();
            self.lose(None);
        }
        if !make && self.lost.is_none() && !self.open_transactions.may_be_open(self.thread) {
            return;
        }
        if let Err(reason) = self.settle() {
            if !std::mem::replace(&mut self.told_waiting, true) {
                warn!(reason, "what a transaction may have left open cannot be ended yet; tried again until it is");
            }
            return;
        }
        // What goes wrong here goes wrong again, and is told, at the next commit.
        let _ = self.make_producer(|journey| journey.closed.load(Ordering::Acquire) || wanted());
    }

    pub(super) fn is_troubled(&self) -> bool {
        self.producer.as_ref().is_none_or(BatchProducer::is_troubled)
    }

    /// Drops the producer, and with it what it has not written; what it leaves is ended before there is another one.
    pub(super) fn lose(&mut self, seal: Option<&Seal>) {
        self.producer = None;
        if self.transactional_id.is_some() && self.lost.is_none() {
            let progress = std::mem::take(&mut self.progress);
            self.lost = Some(Loss::new(seal, progress, &self.config.application_id, &self.committed, self.offsets_end));
        }
    }

    /// Ends what was lost, if anything was.
    pub(super) fn settle(&mut self) -> Result<Settled, String> {
        let Some(id) = &self.transactional_id else { return Ok(Settled::NotCommitted) };
        let Some(loss) = &mut self.lost else { return Ok(Settled::NotCommitted) };
        let end = loss.settle(&*self.group, id)?;
        if let Some(loss) = self.lost.take() {
            self.progress = loss.into_progress();
        }
        let Some(end) = end else { return Ok(Settled::Unknown) };
        self.offsets_ended(end);
        if end == TransactionEnd::Aborted {
            self.progress = Progress::default();
            return Ok(Settled::NotCommitted);
        }
        self.committed.append(&mut self.progress.written);
        Ok(Settled::Committed)
    }

    fn make_producer(&mut self, given_up: impl Fn(&Self) -> bool) -> Result<(), Stop> {
        if self.producer.is_some() {
            return Ok(());
        }
        let id = self.transactional_id.as_deref();
        let transaction = id.map(|id| Transactional { id, timeout: self.config.transaction_timeout });
        loop {
            let producer =
                BatchProducer::new(&self.config.connection, transaction.as_ref(), self.config.message_timeout())
                    .map_err(|error| Stop::End(Outcome::Refused { reason: error.to_string() }))?;
            if let Some(changelog) = &self.changelog {
                producer.warm_up(changelog, STEP);
            }
            // A handle that got nowhere for long is replaced: another one asks again for coordinator, id and epoch.
            for _ in 0..INIT_ATTEMPTS {
                match producer.init_transactions(STEP) {
                    Ok(()) => {
                        debug!(transactional_id = id, "producer ready");
                        self.producer = Some(producer);
                        if self.lost.is_none() {
                            self.open_transactions.ended(self.thread);
                        }
                        return Ok(());
                    }
                    Err(error) if error.fatal => {
                        return Err(Stop::End(Outcome::Refused { reason: error.to_string() }));
                    }
                    Err(error) if given_up(self) => {
                        return Err(Stop::End(Outcome::ProducerLost { reason: error.to_string() }));
                    }
                    Err(error) => {
                        if !self.told_waiting {
                            self.told_waiting = true;
                            warn!(%error, "a producer waits for the transaction coordinator");
                        }
                        if !error.retriable {
                            std::thread::park_timeout(STEP);
                            break;
                        }
                    }
                }
            }
            debug!(transactional_id = id, "a producer's handle is replaced");
        }
    }

    pub(super) fn abort(&mut self, seal: &Seal, stop: &Stop) -> Result<(), Stop> {
        loop {
            let Some(producer) = &self.producer else { return Ok(()) };
            match producer.abort(STEP) {
                Ok(()) => return Ok(()),
                Err(error) if error.fatal => {
                    self.producer = None;
                    let reason = format!("{}; and the abort failed: {error}", stop.reason());
                    return Err(Stop::End(Outcome::ProducerLost { reason }));
                }
                // Nothing was begun, or the abort is already done; or librdkafka is at a loss.
                Err(error) if !error.retriable => {
                    debug!(%error, "abort");
                    self.lose(Some(seal));
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
}
