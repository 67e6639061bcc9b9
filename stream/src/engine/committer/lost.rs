//! A transaction whose producer was lost before it said how it ended: finding out, and ending it in all that it reached.
//!
//! A new handle of the same transactional id ends what its coordinator holds for open. But a coordinator that shuts down may
//! have dropped markers of transactions that it holds for complete: of this one, or of the one before, which was committed
//! and applied. What waits for those would be ended by the next transaction of the same producer, the wrong way perhaps:
//! rows without their offsets, or the other way round. So each is ended as it ended elsewhere, before there is a next one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use holdfast_types::{GroupSession, LostTransaction, TopicPartition, TransactionEnd};
use tracing::{info, warn};

use crate::task::Seal;

/// How long one question may take before the journey looks whether it is still wanted.
const STEP: Duration = Duration::from_secs(2);

/// How far a transaction has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// The offset of each record, once all are acknowledged.
    pub(super) offsets: Vec<i64>,
    /// The last of them in each partition.
    pub(super) written: BTreeMap<TopicPartition, i64>,
    /// The coordinator was asked to take the group's offsets in.
    pub(super) offsets_asked: bool,
    /// It was asked to commit; until then it is surely not committed.
    pub(super) commit_asked: bool,
}

/// What a lost producer leaves to be ended.
#[derive(Debug)]
pub(super) struct Loss {
    /// `false`: the producer had none under way, only what those before it may have left.
    under_way: bool,
    progress: Progress,
    known: LostTransaction,
    /// `known.end` is what the coordinator said. It is never asked again: fencing makes it forget.
    end_known: bool,
}

impl Loss {
    /// Of a transaction that came as far as `progress`; `committed` are the last offsets that those before it wrote, and
    /// `offsets_end` is how the last of them ended that took the group's offsets in: some may still be open.
    pub(super) fn new(
        seal: Option<&Seal>,
        progress: Progress,
        group_id: &Arc<str>,
        committed: &BTreeMap<TopicPartition, i64>,
        offsets_end: TransactionEnd,
    ) -> Self {
        let mut known = LostTransaction {
            end: TransactionEnd::Aborted,
            partitions: Default::default(),
            topics: Default::default(),
            committed: committed.clone(),
            group: None,
        };
        for part in seal.map(|seal| &seal.tasks).into_iter().flatten() {
            known.partitions.extend(part.changelogs.iter().flatten().cloned());
            known.topics.extend(part.sinks.iter().map(|sink| Arc::clone(&sink.topic)));
            known.topics.extend(part.dead_letters.iter().map(|letter| Arc::clone(&letter.topic)));
        }
        known.group = Some((Arc::clone(group_id), offsets_end));
        Self { under_way: seal.is_some(), progress, known, end_known: false }
    }

    /// Ends it; the transaction's producer is gone, and no other was made. Returns how it ended, `None` where nobody knows. An
    /// error says why it did not get that far; it may be tried again.
    pub(super) fn settle(
        &mut self,
        group: &dyn GroupSession,
        transactional_id: &str,
    ) -> Result<Option<TransactionEnd>, String> {
        if !self.end_known && self.progress.commit_asked {
            match group.transaction_end(transactional_id, STEP).map_err(|error| error.to_string())? {
                Some(end) => self.known.end = end,
                None => {
                    // Its parts may count already: it is left to the coordinator, which mostly ends it well.
                    warn!(transactional_id, "the broker cannot say how a lost transaction ended");
                    return Ok(None);
                }
            }
        }
        self.end_known = true;
        if let Some((_, end)) = self.known.group.as_mut().filter(|_| self.progress.offsets_asked) {
            *end = self.known.end;
        }
        group.end_transaction(transactional_id, &self.known, STEP).map_err(|error| error.to_string())?;
        match self.under_way {
            true => info!(end = ?self.known.end, "a lost transaction is ended"),
            false => info!("what committed transactions may have left open is ended"),
        }
        Ok(Some(self.known.end))
    }

    /// How far the transaction had come.
    pub(super) fn into_progress(self) -> Progress {
        self.progress
    }
}
