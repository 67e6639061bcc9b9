//! A transaction whose producer was lost before it said how it ended: finding out, and ending it in all that it reached.
//!
//! A new handle of the same transactional id ends what its coordinator holds for open. But a coordinator that shuts down may
//! have dropped markers of a transaction that it holds for complete; what waits for those would wait for ever, or until
//! another transaction of the same producer ended it the wrong way. So it is ended there as it ended elsewhere.

use std::{sync::Arc, time::Duration};

use holdfast_types::{GroupSession, TransactionEnd, TransactionReach};
use tracing::warn;

use crate::task::Seal;

/// How long one question may take before the journey looks whether it is still wanted.
const STEP: Duration = Duration::from_secs(2);

/// A transaction of one seal. The default one reached nothing.
#[derive(Debug, Default)]
pub(super) struct LostTransaction {
    reach: TransactionReach,
    /// Whether the coordinator was asked to commit it: else it was surely not committed.
    commit_asked: bool,
    /// Once known, never asked again: ending it makes the coordinator forget it.
    end: Option<TransactionEnd>,
}

impl LostTransaction {
    pub(super) fn of_seal(seal: &Seal, group_id: &Arc<str>, commit_asked: bool) -> Self {
        let mut reach = TransactionReach::default();
        for part in &seal.tasks {
            reach.partitions.extend(part.changelogs.iter().flatten().cloned());
            reach.topics.extend(part.sinks.iter().map(|sink| Arc::clone(&sink.topic)));
            reach.topics.extend(part.dead_letters.iter().map(|letter| Arc::clone(&letter.topic)));
            if !part.offsets.is_empty() {
                reach.group_id = Some(Arc::clone(group_id));
            }
        }
        Self { reach, commit_asked, end: None }
    }

    /// Ends it; the transaction's producer is gone, and no other was made. An error says why it did not get that far; it may
    /// be tried again.
    pub(super) fn settle(&mut self, group: &dyn GroupSession, transactional_id: &str) -> Result<(), String> {
        if self.reach.is_empty() {
            return Ok(());
        }
        let end = match self.end {
            Some(end) => end,
            None if !self.commit_asked => TransactionEnd::Aborted,
            None => match group.transaction_end(transactional_id, STEP).map_err(|error| error.to_string())? {
                Some(end) => end,
                None => {
                    // Its parts may count already: it is left to the coordinator, which mostly ends it well.
                    warn!(transactional_id, "the broker cannot say how a lost transaction ended");
                    self.reach = TransactionReach::default();
                    return Ok(());
                }
            },
        };
        self.end = Some(end);
        group.end_transaction(transactional_id, &self.reach, end, STEP).map_err(|error| error.to_string())
    }

    /// How it ended, where that is known.
    pub(super) fn end(&self) -> Option<TransactionEnd> {
        self.end
    }
}
