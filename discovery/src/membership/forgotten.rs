//! What a broker forgot of the last transaction of a dead process, which had ended: see `lost_transaction`. The process was killed
//! along with it, and could not see to it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use holdfast_types::{GroupError, LostTransaction, TopicPartition, TransactionEnd};
use kafka_protocol::messages::ProducerId;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    fencing,
    lost_transaction::{BACKOFF, OFFSETS_TOPIC, Standing, describe, end_open, open_since, partitions, standing},
};
use crate::wire::{address::BrokerAddress, cluster::Cluster, error::WireError};

/// Fences each id; before, what is open of its last transaction, in `topics` and the group's offsets, is ended as that one ended. (Where
/// it has not ended, fencing does that.) An id that has to wait for it holds no other one up. Ids that are not fenced by the deadline
/// can be tried again: once one is fenced, nobody knows any more how it ended.
pub(crate) async fn finish_and_fence(
    cluster: &Cluster,
    ids: &[String],
    topics: &BTreeSet<Arc<str>>,
    group_id: &str,
    deadline: Duration,
) -> Result<(), GroupError> {
    let until = Instant::now() + deadline;
    let mut pending: Vec<(&String, Option<TransactionEnd>)> = ids.iter().map(|id| (id, None)).collect();
    loop {
        let mut waiting = Vec::new();
        for (id, mut begun) in pending {
            match timeout_at(until, finish_now(cluster, id, topics, group_id, &mut begun)).await {
                Err(_) => return Err(GroupError::TimedOut(deadline)),
                Ok(Ok(false)) => waiting.push((id, begun)),
                Ok(Err(error)) if fencing::is_passing(&error) => {
                    tracing::debug!(transactional_id = id, %error, "tried again");
                    waiting.push((id, begun));
                }
                Ok(outcome) => {
                    if let Err(error) = outcome
                        && !error.is_unsupported()
                    {
                        tracing::warn!(
                            transactional_id = id,
                            %error,
                            "cannot see whether a dead process's last transaction has ended everywhere; going on"
                        );
                    }
                    let left = until.saturating_duration_since(Instant::now());
                    fencing::fence(cluster, std::slice::from_ref(id), left).await?;
                }
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        pending = waiting;
        sleep(BACKOFF).await;
    }
}

/// `false` while the transaction is being ended, or a partition has no leader. `begun` keeps how it ended from when its id is fenced
/// for this: then the coordinator knows no more.
async fn finish_now(
    cluster: &Cluster,
    id: &str,
    topics: &BTreeSet<Arc<str>>,
    group_id: &str,
    begun: &mut Option<TransactionEnd>,
) -> Result<bool, WireError> {
    let (end, producer) = match *begun {
        Some(end) => (end, None),
        None => {
            let state = describe(cluster, id).await?;
            match standing(state.as_ref()) {
                Standing::Ended(end) => (end, state.map(|state| state.producer_id)),
                Standing::Ending => return Ok(false),
                Standing::UnderWay | Standing::Unknown => return Ok(true),
            }
        }
    };
    let forgotten = LostTransaction {
        end,
        partitions: BTreeSet::new(),
        topics: topics.clone(),
        committed: Default::default(),
        group: Some((group_id.into(), end)),
    };
    let Some(written) = partitions(cluster, &forgotten).await? else { return Ok(false) };
    if let Some(producer) = producer {
        match may_be_open(cluster, &written, group_id, producer).await? {
            None => return Ok(false),
            Some(false) => return Ok(true),
            Some(true) => *begun = Some(end),
        }
    }
    // What somebody has begun under this id meanwhile is aborted with the rest: it is taken for dead.
    end_open(cluster, id, &forgotten, &written).await?;
    tracing::info!(transactional_id = id, ?end, "what a broker may have forgotten of a dead process is ended");
    Ok(true)
}

/// Whether something in `written`, or in the group's offsets, waits for a marker of `producer`, or this user may not know about the
/// offsets; `None` while they have no leader.
async fn may_be_open(
    cluster: &Cluster,
    written: &[(TopicPartition, BrokerAddress)],
    group_id: &str,
    producer: ProducerId,
) -> Result<Option<bool>, WireError> {
    let found = cluster.leaders(&BTreeSet::from([OFFSETS_TOPIC])).await?;
    let offsets = offsets_partition(group_id, found.len());
    let Some((offsets, leader)) = found.into_iter().find(|(partition, _)| partition.partition == offsets) else {
        return Ok(Some(true));
    };
    let Some(leader) = leader else { return Ok(None) };
    let mut asked = written.to_vec();
    asked.push((offsets.clone(), leader));
    let open = open_since(cluster, &asked, producer).await?;
    Ok(Some(!open.contains_key(&offsets) || open.values().any(|start| *start >= 0)))
}

/// The partition that keeps a group's offsets: `Utils.abs(groupId.hashCode()) % partitions` in Kafka.
fn offsets_partition(group_id: &str, partitions: usize) -> i32 {
    let hash = group_id.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    let partitions = i32::try_from(partitions).unwrap_or(i32::MAX).max(1);
    hash.checked_abs().unwrap_or(0) % partitions
}

#[cfg(test)]
mod tests {
    use super::offsets_partition;

    #[test]
    fn a_groups_offsets_are_where_kafka_keeps_them() {
        // As `GroupCoordinatorService.partitionFor` says.
        for (group_id, partition) in [("holdfast", 17), ("inventory-service", 14), ("größe", 7), ("𝄞", 44), ("", 0)]
        {
            assert_eq!(offsets_partition(group_id, 50), partition, "{group_id}");
        }
        // Its hash code has no magnitude.
        assert_eq!(offsets_partition("polygenelubricants", 50), 0);
        assert_eq!(offsets_partition("holdfast", 0), 0, "no partition is known");
    }
}
