//! Holdfast's own bytes inside the standard subscription and assignment.
//!
//! Both are a version byte, then JSON; the subscription has a counter byte between the two, because the broker starts no
//! rebalance for a re-join whose bytes are unchanged (KAFKA-10455). Unknown JSON fields are ignored and absent ones have
//! defaults, so that a field can be added without a new version; the version changes only when older members would misread
//! the rest. The tests keep the bytes of earlier builds.
//!
//! An assignment has a second form, far smaller (`compact`): the version, `you` in 4 bytes, the deflated rest. Members say in
//! their subscriptions whether they read it, and the leader writes what each of them reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_types::{InstanceInfo, MemberAssignment, ProcessId, SubtopologySpec, TaskId};
use serde::{Deserialize, Serialize};

use super::compact;
use crate::assignor::Reservation;

/// The first version: that of subscriptions, and of assignments to members of builds that read no other.
pub(crate) const VERSION: u8 = 1;

/// The second form of assignments.
pub(crate) const COMPACT: u8 = 2;

/// The longest user data that is written or read. The broker keeps all members' in one record of `__consumer_offsets`, which
/// `message.max.bytes` (1 MiB by default) bounds.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// What a member tells the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubscriptionData {
    /// Who it is.
    pub(crate) instance: InstanceInfo,
    /// What it can run.
    pub(crate) subtopologies: Vec<SubtopologySpec>,
    /// Tasks that it may still be processing: nobody else may get them before it joins without them.
    pub(crate) owned: Vec<TaskId>,
    /// The generation in which it got them; −1 where it owns none.
    pub(crate) generation: i32,
    /// Tasks that it follows, as standby or warm-up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) followed: Vec<TaskId>,
    /// Tasks that it gets as soon as their owners have released them, as its last assignment said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) promised: Vec<TaskId>,
    /// Whether it can follow tasks; builds before standbys cannot.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) follows: bool,
    /// How far its copies are: sums of changelog offsets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) positions: BTreeMap<TaskId, u64>,
    /// Of the tasks that it owns, those that still replay their changelogs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) restoring: BTreeSet<TaskId>,
    /// Whether it is about to leave.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) draining: bool,
    /// The reservations of its last assignment, with what is left of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) reserved: Vec<ReservationData>,
    /// The newest version of assignments that it reads.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub(crate) reads: u8,
}

/// What the leader tells each member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AssignmentData {
    /// Which of `members` the receiver is.
    pub(crate) you: usize,
    /// All members with all they hold.
    pub(crate) members: Vec<MemberAssignment>,
    /// To which member each task is on its way that its owner releases now. Members repeat their own when they join.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) promised: BTreeMap<TaskId, usize>,
    /// Slots that are kept for drained processes. Members repeat them when they join, so that the next leader knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) reserved: Vec<ReservationData>,
    /// What members have that the group does not run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<RefusedData>,
}

/// A [`Reservation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReservationData {
    pub(crate) process_id: ProcessId,
    pub(crate) tasks: Vec<TaskId>,
    /// Time left, counted from when the bytes are written: the members' clocks may differ.
    pub(crate) left_ms: u64,
}

/// Why a member gets no tasks of a sub-topology that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedData {
    /// Which of the members.
    pub(crate) member: usize,
    pub(crate) reason: String,
}

impl From<Reservation> for ReservationData {
    fn from(Reservation { process_id, tasks, left }: Reservation) -> Self {
        Self { process_id, tasks, left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl From<ReservationData> for Reservation {
    fn from(ReservationData { process_id, tasks, left_ms }: ReservationData) -> Self {
        Self { process_id, tasks, left: Duration::from_millis(left_ms) }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_false(value: &bool) -> bool {
    !value
}

fn first() -> u8 {
    VERSION
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_first(version: &u8) -> bool {
    *version == VERSION
}

/// User data that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserDataError {
    #[error(
        "expected user data version {VERSION} or, of assignments, {COMPACT}, got {0}: the members run builds that cannot work together"
    )]
    Version(u8),
    #[error("no user data: the member is not a Holdfast instance")]
    Missing,
    #[error("user data of {0} bytes is over the bound of {MAX_BYTES}")]
    TooLong(usize),
    #[error("user data is not what its version says: {0}")]
    Json(#[from] serde_json::Error),
    #[error("user data cannot be inflated: {0}")]
    Deflate(#[from] std::io::Error),
    #[error("expected a partition that is further than {partition}, got {gap} further")]
    Partition { partition: i32, gap: i32 },
    #[error("the assignment names member {you} of {members}")]
    NoSuchMember { you: usize, members: usize },
}

impl SubscriptionData {
    pub(crate) fn encode(&self, counter: u8) -> Result<Vec<u8>, UserDataError> {
        encode(vec![VERSION, counter], self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, UserDataError> {
        let [_counter, json @ ..] = versioned(bytes)? else { return Err(UserDataError::Missing) };
        Ok(serde_json::from_slice(json)?)
    }
}

impl AssignmentData {
    /// The bytes for each member, by the newest version that each reads.
    pub(crate) fn encode_for_all(mut self, reads: impl IntoIterator<Item = u8>) -> Result<Vec<Vec<u8>>, UserDataError> {
        let mut compact: Option<Vec<u8>> = None;
        let mut all = Vec::new();
        for (you, reads) in reads.into_iter().enumerate() {
            if reads < COMPACT {
                self.you = you;
                all.push(encode(vec![VERSION], &self)?);
                continue;
            }
            let rest = match &compact {
                Some(rest) => rest,
                None => compact.insert(compact::encode(&self)?),
            };
            let index =
                u32::try_from(you).map_err(|_| UserDataError::NoSuchMember { you, members: self.members.len() })?;
            all.push(bounded([&[COMPACT][..], &index.to_be_bytes(), rest].concat())?);
        }
        Ok(all)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, UserDataError> {
        let data: Self = match bytes {
            [COMPACT, a, b, c, d, rest @ ..] if bytes.len() <= MAX_BYTES => {
                // An index that is no usize is no member's either.
                let you = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
                compact::decode(you, rest)?
            }
            _ => serde_json::from_slice(versioned(bytes)?)?,
        };
        if data.you >= data.members.len() {
            return Err(UserDataError::NoSuchMember { you: data.you, members: data.members.len() });
        }
        Ok(data)
    }
}

fn encode(mut bytes: Vec<u8>, data: &impl Serialize) -> Result<Vec<u8>, UserDataError> {
    serde_json::to_writer(&mut bytes, data)?;
    bounded(bytes)
}

fn bounded(bytes: Vec<u8>) -> Result<Vec<u8>, UserDataError> {
    if bytes.len() > MAX_BYTES { Err(UserDataError::TooLong(bytes.len())) } else { Ok(bytes) }
}

fn versioned(bytes: &[u8]) -> Result<&[u8], UserDataError> {
    if bytes.len() > MAX_BYTES {
        return Err(UserDataError::TooLong(bytes.len()));
    }
    match bytes {
        [] => Err(UserDataError::Missing),
        [VERSION, rest @ ..] => Ok(rest),
        [version, ..] => Err(UserDataError::Version(*version)),
    }
}

#[cfg(test)]
mod tests;
