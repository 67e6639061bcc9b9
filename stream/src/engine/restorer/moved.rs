//! Offsets that somebody else has committed for the group, while nobody was a member: an operator's reset. They are obeyed, as
//! Kafka Streams obeys them, and told: the rows stay what they are.

use holdfast_store::{AppliedBatch, CheckpointDelta, StoreError, TaskStore};
use holdfast_types::{CommittedOffset, TaskId, TopicPartition};
use tracing::warn;

use crate::engine::offset_metadata;

/// What was done to the offset of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moved {
    /// It was set: from where the state stands, if it knows, to another offset.
    Set { from: Option<i64>, to: i64 },
    /// It is gone, and stood here.
    Deleted { from: i64 },
}

/// Tells of each input that goes on elsewhere than where `store` stands, because somebody else has said so. What is told is noted
/// in the checkpoint: it is said once.
pub(super) fn tell(
    task: TaskId,
    store: &TaskStore,
    inputs: &[TopicPartition],
    offsets: &[Option<CommittedOffset>],
) -> Result<(), StoreError> {
    let checkpoint = store.checkpoint();
    let mut noted = Vec::new();
    for (partition, committed) in inputs.iter().zip(offsets) {
        match moved(checkpoint.input.get(partition).copied(), committed.as_ref()) {
            Some(Moved::Set { from, to }) => {
                warn!(
                    %task, %partition, from, to,
                    "the group's offset was set from outside: going on there; the rows stay, so that records that are read again \
                     count again, and those which are left out never count"
                );
                noted.push((partition.clone(), to));
            }
            Some(Moved::Deleted { from }) => warn!(
                %task, %partition, from,
                "the group's offset was deleted, or has expired: going on by offset_reset; the rows stay"
            ),
            None => {}
        }
    }
    match noted.is_empty() {
        true => Ok(()),
        false => store.apply(AppliedBatch {
            rows: Vec::new(),
            checkpoint: CheckpointDelta { input: noted, ..CheckpointDelta::default() },
        }),
    }
}

/// `own` is where the state stands, which a kill leaves behind what was committed: what was committed by ourselves is right.
fn moved(own: Option<i64>, committed: Option<&CommittedOffset>) -> Option<Moved> {
    let own = own.filter(|next| *next > 0);
    match committed {
        None => own.map(|from| Moved::Deleted { from }),
        Some(CommittedOffset { offset, metadata }) if !offset_metadata::is_ours(metadata) && own != Some(*offset) => {
            Some(Moved::Set { from: own, to: *offset })
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(offset: i64, metadata: &str) -> CommittedOffset {
        CommittedOffset { offset, metadata: metadata.to_owned() }
    }

    #[test]
    fn only_what_somebody_else_set_is_told() {
        let ours = offset_metadata::encode(-1);
        assert_eq!(moved(None, None), None, "the first start");
        assert_eq!(moved(Some(7), Some(&committed(7, &ours))), None);
        assert_eq!(moved(Some(7), Some(&committed(9, &ours))), None, "killed: the state is behind");
        assert_eq!(moved(Some(7), Some(&committed(7, ""))), None, "set to where it was");
        assert_eq!(moved(Some(7), Some(&committed(9, ""))), Some(Moved::Set { from: Some(7), to: 9 }));
        assert_eq!(moved(Some(7), Some(&committed(0, ""))), Some(Moved::Set { from: Some(7), to: 0 }));
        assert_eq!(moved(None, Some(&committed(9, "by hand"))), Some(Moved::Set { from: None, to: 9 }));
        assert_eq!(moved(Some(7), None), Some(Moved::Deleted { from: 7 }));
    }
}
