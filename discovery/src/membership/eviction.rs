//! Removes a peer whose process is gone, and fences what it left open, so that nobody waits for its session to end.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use holdfast_types::{GroupError, InstanceInfo};
use kafka_protocol::messages::describe_groups_response::DescribedGroupMember;
use tokio::time::timeout;

use super::{
    forgotten,
    removal::{describe, remove_members},
};
use crate::{
    metrics,
    wire::{
        cluster::{Cluster, Coordinated},
        error::WireError,
    },
};

/// What came of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// The member is removed, its transactional ids are fenced.
    Removed,
    /// It was out of the group already.
    AlreadyGone,
    /// The process is a member again, in a later life, which is left alone.
    CameBack,
}

/// LeaveGroup for the member, then InitProducerId for each of its transactional ids: the coordinator begins the rebalance while
/// the ids are fenced, and the new owners wait for their offsets until the transactions are aborted.
///
/// `member_id` is the one that the process was last known by; without it every member of that process is removed. With `fence`,
/// what a broker forgot of its last transactions in the topics `written` is ended, too.
pub(crate) async fn evict(
    cluster: &Cluster,
    group_id: &str,
    dead: &InstanceInfo,
    member_id: Option<&str>,
    fence: bool,
    written: &BTreeSet<Arc<str>>,
    deadline: Duration,
) -> Result<Eviction, GroupError> {
    let removal = remove(cluster, group_id, dead, member_id);
    let outcome = timeout(deadline, removal).await.map_err(|_| GroupError::TimedOut(deadline))?;
    let outcome = outcome.map_err(|error| GroupError::Unavailable(error.to_string()))?;
    // The ids are the later life's, too.
    if fence && outcome != Eviction::CameBack {
        forgotten::finish_and_fence(cluster, &dead.transactional_ids, written, group_id, deadline).await?;
    }
    Ok(outcome)
}

async fn remove(
    cluster: &Cluster,
    group_id: &str,
    dead: &InstanceInfo,
    member_id: Option<&str>,
) -> Result<Eviction, WireError> {
    let coordinator = cluster.find_coordinator(group_id, Coordinated::Group).await?;
    let mut connection = cluster.connector().open(&coordinator).await?;
    let after = cluster.connector().socket().request_timeout;
    let group = describe(&mut connection, group_id, after).await?;
    let (of_the_dead, later) = members_of(&group.members, dead, member_id);
    if of_the_dead.is_empty() {
        return Ok(if later { Eviction::CameBack } else { Eviction::AlreadyGone });
    }
    remove_members(&mut connection, group_id, &of_the_dead, "its process is gone, as its peers found", after).await?;
    metrics::members_removed(of_the_dead.len());
    Ok(if later { Eviction::CameBack } else { Eviction::Removed })
}

/// The members that the dead process left, and whether a later life of it is a member.
fn members_of<'a>(
    members: &'a [DescribedGroupMember],
    dead: &InstanceInfo,
    member_id: Option<&str>,
) -> (Vec<&'a str>, bool) {
    // The client id of the group connections is the process id.
    let process_id = dead.process_id.to_string();
    let of_process = members.iter().filter(|member| member.client_id.as_str() == process_id);
    let (dead, later): (Vec<&str>, Vec<&str>) = of_process
        .map(|member| member.member_id.as_str())
        .partition(|member| member_id.is_none_or(|known| known == *member));
    (dead, !later.is_empty())
}

#[cfg(test)]
mod tests {
    use holdfast_types::{Endpoint, ProcessId};
    use uuid::Uuid;

    use super::{super::removal::text, *};

    #[test]
    fn a_later_life_of_the_process_is_left_alone() {
        let process_id = ProcessId(Uuid::from_u128(7));
        let dead = InstanceInfo {
            process_id,
            endpoint: Endpoint::new("127.0.0.1", 7000),
            peer_endpoint: Endpoint::new("127.0.0.1", 7001),
            threads: 1,
            tags: Default::default(),
            transactional_ids: Vec::new(),
        };
        let member = |id: &str, client: &str| {
            DescribedGroupMember::default().with_member_id(text(id)).with_client_id(text(client))
        };
        let (own, other) = (process_id.to_string(), Uuid::from_u128(8).to_string());
        for (members, known, expected, later) in [
            (vec![], Some("a"), vec![], false),
            (vec![member("x", &other)], Some("x"), vec![], false),
            (vec![member("a", &own), member("x", &other)], Some("a"), vec!["a"], false),
            (vec![member("a", &own), member("b", &own)], Some("a"), vec!["a"], true),
            (vec![member("b", &own)], Some("a"), vec![], true),
            (vec![member("b", &own)], None, vec!["b"], false),
        ] {
            assert_eq!(members_of(&members, &dead, known), (expected, later), "{known:?}");
        }
    }
}
