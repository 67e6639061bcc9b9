//! What a rebalance weighs, for the benchmark: the bytes that members and leader send each other.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    leader, protocol,
    userdata::{COMPACT, SubscriptionData, VERSION},
};
use crate::assignor::{AssignorSettings, Member};

/// A position that a long-lived changelog has.
const POSITION: u64 = 1_000_000_000;

/// What the members send to join, each under a member id.
///
/// # Errors
/// A subscription is over the bound.
pub fn subscriptions(members: &[Member], compact: bool) -> Result<Vec<(Arc<str>, Bytes)>, String> {
    let of = |member: &Member| {
        let data = SubscriptionData {
            instance: member.instance.clone(),
            subtopologies: member.subtopologies.clone(),
            owned: member.owned.clone(),
            generation: member.generation,
            followed: member.followed.clone(),
            promised: member.promised.clone(),
            follows: member.follows,
            positions: member.lags.iter().map(|(task, lag)| (*task, POSITION.saturating_sub(*lag))).collect(),
            restoring: Default::default(),
            draining: member.draining,
            reserved: Vec::new(),
            reads: if compact { COMPACT } else { VERSION },
        };
        let topics: Vec<&str> = data.subtopologies.iter().flat_map(|spec| &spec.source_topics).map(|t| &**t).collect();
        let user_data = data.encode(0).map_err(|error| error.to_string())?;
        let bytes = protocol::encode_subscription(topics, user_data).map_err(|error| error.to_string())?;
        Ok((member.instance.process_id.to_string().into(), bytes))
    };
    members.iter().map(of).collect()
}

/// What the leader sends for each of them: reads all, assigns, and writes all.
///
/// # Errors
/// An assignment is over the bound.
pub fn lead(subscriptions: Vec<(Arc<str>, Bytes)>, settings: &AssignorSettings) -> Result<Vec<Bytes>, String> {
    let assignments = leader::assign(subscriptions, settings)?;
    Ok(assignments.bytes.into_iter().map(|(_, bytes)| bytes).collect())
}
