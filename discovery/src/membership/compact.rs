//! The second form of an assignment's user data: a map that is written once for all members, tasks as gaps, deflated.
//!
//! The broker keeps what all members get in one record, so the map counts once for each of them. With 100 members and 5,000
//! tasks it is a sixth of what the first form takes.

use std::{collections::BTreeMap, io::Read as _};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use holdfast_types::{InstanceInfo, MemberAssignment, TaskId};
use serde::{Deserialize, Serialize};

use super::userdata::{AssignmentData, RefusedData, ReservationData, UserDataError};

/// The most that is inflated.
const MAX_INFLATED: u64 = 16 << 20;

/// An [`AssignmentData`] but for whom it is sent to.
#[derive(Serialize, Deserialize)]
struct Compact {
    members: Vec<CompactMember>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    promised: BTreeMap<TaskId, usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reserved: Vec<ReservationData>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    refused: Vec<RefusedData>,
}

/// A [`MemberAssignment`].
#[derive(Serialize, Deserialize)]
struct CompactMember {
    instance: InstanceInfo,
    #[serde(default, skip_serializing_if = "Gaps::is_empty")]
    active: Gaps,
    #[serde(default, skip_serializing_if = "Gaps::is_empty")]
    standby: Gaps,
    #[serde(default, skip_serializing_if = "Gaps::is_empty")]
    warmup: Gaps,
}

/// Tasks by sub-topology: the first partition, then how much further each next one is.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Gaps(BTreeMap<u32, Vec<i32>>);

impl Gaps {
    fn of(tasks: &[TaskId]) -> Self {
        let mut gaps: BTreeMap<u32, Vec<i32>> = BTreeMap::new();
        let mut sorted = tasks.to_vec();
        sorted.sort_unstable();
        let mut before = TaskId::new(0, 0);
        for task in sorted {
            let from = if before.subtopology == task.subtopology { before.partition } else { 0 };
            gaps.entry(task.subtopology).or_default().push(task.partition - from);
            before = task;
        }
        Self(gaps)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tasks in order.
    fn tasks(&self) -> Result<Vec<TaskId>, UserDataError> {
        let mut tasks = Vec::new();
        for (subtopology, gaps) in &self.0 {
            let mut partition = 0_i32;
            for gap in gaps {
                let next = partition.checked_add(*gap).filter(|next| *next >= partition);
                partition = next.ok_or(UserDataError::Partition { partition, gap: *gap })?;
                tasks.push(TaskId::new(*subtopology, partition));
            }
        }
        Ok(tasks)
    }
}

/// What is the same for all members. The members' tasks come back in order.
pub(super) fn encode(data: &AssignmentData) -> Result<Vec<u8>, UserDataError> {
    let member = |member: &MemberAssignment| CompactMember {
        instance: member.instance.clone(),
        active: Gaps::of(&member.active),
        standby: Gaps::of(&member.standby),
        warmup: Gaps::of(&member.warmup),
    };
    let compact = Compact {
        members: data.members.iter().map(member).collect(),
        promised: data.promised.clone(),
        reserved: data.reserved.clone(),
        refused: data.refused.clone(),
    };
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    serde_json::to_writer(&mut encoder, &compact)?;
    Ok(encoder.finish()?)
}

/// The data for member `you`.
pub(super) fn decode(you: usize, deflated: &[u8]) -> Result<AssignmentData, UserDataError> {
    let mut json = Vec::new();
    DeflateDecoder::new(deflated).take(MAX_INFLATED).read_to_end(&mut json)?;
    let Compact { members, promised, reserved, refused } = serde_json::from_slice(&json)?;
    let member = |CompactMember { instance, active, standby, warmup }| {
        let (active, standby, warmup) = (active.tasks()?, standby.tasks()?, warmup.tasks()?);
        Ok(MemberAssignment { instance, active, standby, warmup })
    };
    let members = members.into_iter().map(member).collect::<Result<_, UserDataError>>()?;
    Ok(AssignmentData { you, members, promised, reserved, refused })
}
