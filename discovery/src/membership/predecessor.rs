//! At the start: removes what is left of this instance's own dead predecessor, so that nobody waits for its session to end.

use std::time::Duration;

use holdfast_types::InstanceInfo;
use kafka_protocol::messages::describe_groups_response::DescribedGroupMember;

use super::{
    forgotten, protocol,
    removal::{describe, remove_members},
    userdata::SubscriptionData,
};
use crate::{
    config::GroupConfig,
    metrics,
    wire::{address::BrokerAddress, cluster::Cluster, error::WireError},
};

/// Longest time for fencing at the start. What is left open after it holds restores back until the transaction times out.
const FENCING_DEADLINE: Duration = Duration::from_secs(15);

/// A member whose process is dead.
#[derive(Debug, PartialEq, Eq)]
struct Dead {
    member_id: String,
    transactional_ids: Vec<String>,
}

/// Removes dead predecessors from the group and, with `fence`, ends their transactions and this instance's own of an earlier life,
/// also in what a broker forgot of them, and fences the ids.
/// A broker that cannot tell who is in the group is left alone.
pub(super) async fn remove(
    cluster: &Cluster,
    coordinator: &BrokerAddress,
    config: &GroupConfig,
    fence: bool,
) -> Result<(), WireError> {
    let (group_id, instance) = (&*config.group_id, &config.instance);
    let mut connection = cluster.connector().open(coordinator).await?;
    let after = cluster.connector().socket().request_timeout;
    let dead = match describe(&mut connection, group_id, after).await {
        Ok(group) => dead_members(&group.members, instance),
        Err(error) if error.is_unsupported() => {
            tracing::debug!(%error, "the broker cannot describe groups: a predecessor leaves with its session");
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    if !dead.is_empty() {
        let members: Vec<&str> = dead.iter().map(|dead| dead.member_id.as_str()).collect();
        remove_members(&mut connection, group_id, &members, "its process was replaced", after).await?;
        metrics::members_removed(dead.len());
        tracing::info!(group = group_id, ?members, "removed dead predecessors of this instance from the group");
    }
    if fence {
        let mut ids = instance.transactional_ids.clone();
        ids.extend(dead.into_iter().flat_map(|dead| dead.transactional_ids));
        ids.sort_unstable();
        ids.dedup();
        let fenced =
            forgotten::finish_and_fence(cluster, &ids, &config.written_topics, group_id, FENCING_DEADLINE).await;
        if let Err(error) = fenced {
            // Each producer's own start fences its id again; only a restore may have to wait.
            tracing::warn!(group = group_id, %error, "could not fence what a predecessor left open; going on");
        }
    }
    Ok(())
}

/// Who is dead, as far as this instance can know: a member with its own process id (its state directory is locked by this
/// process), and a member that advertises its own address (this process listens there).
fn dead_members(members: &[DescribedGroupMember], instance: &InstanceInfo) -> Vec<Dead> {
    let process_id = instance.process_id.to_string();
    let dead = members.iter().filter_map(|member| {
        // Subscriptions are shown while the group is stable only; the client id always is.
        let data = protocol::subscription_user_data(member.member_metadata.clone())
            .ok()
            .and_then(|bytes| SubscriptionData::decode(&bytes).ok());
        let same_address = data.as_ref().is_some_and(|data| {
            data.instance.endpoint == instance.endpoint || data.instance.peer_endpoint == instance.peer_endpoint
        });
        (member.client_id.as_str() == process_id || same_address).then(|| Dead {
            member_id: member.member_id.to_string(),
            transactional_ids: data.map(|data| data.instance.transactional_ids).unwrap_or_default(),
        })
    });
    dead.collect()
}

#[cfg(test)]
mod tests {
    use holdfast_types::{Endpoint, ProcessId};
    use uuid::Uuid;

    use super::{super::removal::text, *};

    fn instance(process: u128, port: u16) -> InstanceInfo {
        InstanceInfo {
            process_id: ProcessId(Uuid::from_u128(process)),
            endpoint: Endpoint::new("127.0.0.1", port),
            peer_endpoint: Endpoint::new("127.0.0.1", port + 1),
            threads: 1,
            tags: Default::default(),
            transactional_ids: vec![format!("tx-{process}")],
        }
    }

    fn member(member_id: &str, client: u128, described_as: Option<InstanceInfo>) -> DescribedGroupMember {
        let member = DescribedGroupMember::default()
            .with_member_id(text(member_id))
            .with_client_id(text(&ProcessId(Uuid::from_u128(client)).to_string()));
        let Some(instance) = described_as else { return member };
        let data = SubscriptionData {
            instance,
            subtopologies: vec![],
            owned: vec![],
            generation: -1,
            followed: vec![],
            promised: vec![],
            follows: false,
            positions: Default::default(),
            restoring: Default::default(),
            draining: false,
            reserved: vec![],
            reads: 1,
        };
        let bytes = protocol::encode_subscription([], data.encode(0).unwrap()).unwrap();
        member.with_member_metadata(bytes)
    }

    #[test]
    fn only_ones_own_dead_are_removed() {
        let members = [
            member("same process, group not stable", 1, None),
            member("same process", 1, Some(instance(1, 7000))),
            member("same address, other process", 2, Some(instance(2, 8000))),
            member("somebody else", 3, Some(instance(3, 9000))),
            member("somebody else, group not stable", 4, None),
        ];
        let dead = dead_members(&members, &instance(1, 8000));
        let ids: Vec<_> = dead.iter().map(|dead| (dead.member_id.as_str(), dead.transactional_ids.clone())).collect();
        assert_eq!(
            ids,
            [
                ("same process, group not stable", vec![]),
                ("same process", vec!["tx-1".to_owned()]),
                ("same address, other process", vec!["tx-2".to_owned()]),
            ]
        );
    }
}
