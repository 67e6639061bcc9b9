//! Going in small steps: how a task finds the one record that cannot be committed, and leaves a known one behind.
//!
//! An interval that cannot be committed is gone through again in halves: what commits is behind, what does not is halved
//! again, until a single record is left. A record that is known to be at fault is passed with a commit right behind it, so
//! that no other one takes the records before it back again.

use super::{ActiveTask, Burial, Mark, MarkedRecord, TaskError};
use crate::errors::Failure;

/// Records per seal while there is no need to be careful.
const NO_STEP: u64 = u64::MAX;

/// How large the steps are.
#[derive(Debug)]
pub(super) struct Steps {
    records: u64,
    /// Records of the last seal, or of the one that is being made.
    sealed: u64,
}

impl Steps {
    pub(super) const fn new() -> Self {
        Self { records: NO_STEP, sealed: 0 }
    }

    /// A seal of `records` is being made.
    pub(super) fn sealing(&mut self, records: u64) {
        self.sealed = records;
    }

    /// Whether what cannot be committed is one record.
    pub(super) fn is_single(&self) -> bool {
        self.sealed == 1
    }
}

impl ActiveTask {
    /// Whether the task goes in steps, each of which is committed before the next.
    pub fn is_careful(&self) -> bool {
        self.inputs.iter().any(|input| input.careful_until > 0)
    }

    /// Whether a step ends here.
    pub(super) fn step_ends(&self) -> bool {
        self.is_careful()
            && self.unsealed_records > 0
            && (self.unsealed_records >= self.steps.records
                || self.inputs.iter().all(|input| input.next >= input.careful_until))
    }

    /// Marks the task to go back to its last commit. One record that is at fault is treated as its mark says from then on;
    /// where none is known, the task goes in smaller steps until one is. Until it is back it neither processes nor seals.
    pub fn condemn(&mut self, marked: Option<MarkedRecord>) {
        self.condemned = true;
        match marked {
            Some(MarkedRecord { partition, offset, mark }) => {
                let found = self.inputs.iter_mut().find(|input| *input.queue.partition() == partition);
                if let Some(input) = found {
                    input.careful_until = input.careful_until.max(offset + 1);
                }
                self.marked.insert((partition, offset), mark);
            }
            None => {
                for input in &mut self.inputs {
                    input.careful_until = input.careful_until.max(input.next);
                }
                self.steps.records = (self.steps.records.min(self.steps.sealed) / 2).max(1);
            }
        }
    }

    /// What follows a result that cannot be committed: by policy the end, or back to the last commit and on in smaller steps
    /// until the record that made it is found.
    pub(crate) fn refused(&mut self, failure: Failure) -> TaskError {
        let Some(burial) = Burial::by(self.handlers.policy(failure.kind).last()) else {
            return TaskError::Fatal {
                task: self.id,
                record: "results of the last interval".to_owned(),
                error: failure.message,
            };
        };
        let reason = failure.message.clone();
        let culprit = self.last_record.clone().filter(|_| self.is_careful() && self.steps.is_single());
        let marked = culprit.map(|(partition, offset)| {
            self.report.failed(&partition, offset, &failure);
            Box::new(MarkedRecord { partition, offset, mark: Mark { poison: Some(failure), burial } })
        });
        TaskError::RollBack { task: self.id, marked, reason }
    }

    /// What follows a dead letter that its topic refuses: the record that it tells of is found, and gets a smaller one.
    pub(crate) fn refused_letter(&mut self, reason: String) -> TaskError {
        let culprit = self.last_record.clone().filter(|_| self.is_careful() && self.steps.is_single());
        let marked = culprit.map(|record| {
            let poison = self.marked.get(&record).and_then(|mark| mark.poison.clone());
            let burial = match self.marked.get(&record).map(|mark| mark.burial) {
                None | Some(Burial::Letter) => Burial::BareLetter,
                Some(Burial::BareLetter | Burial::Skip) => {
                    self.report.lost(&record.0, record.1, &reason);
                    Burial::Skip
                }
            };
            Box::new(MarkedRecord { partition: record.0, offset: record.1, mark: Mark { poison, burial } })
        });
        TaskError::RollBack { task: self.id, marked, reason }
    }

    /// A step is committed: the next one may be larger.
    pub(super) fn step_committed(&mut self) {
        self.steps.records = if self.is_careful() { self.steps.records.saturating_mul(2) } else { NO_STEP };
    }
}
