//! What is known of the others at a moment: an immutable snapshot for those who route.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_types::{InstanceInfo, Position, ProcessId, Role, TaskId};

/// How an instance finds another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// It answers.
    Alive,
    /// It does not answer in time, or refused once or twice.
    Slow,
    /// It was asked, and nothing was heard for the time after which a peer is held to be gone.
    Silent,
    /// Nobody listens at its address.
    Refused,
}

impl Condition {
    /// Lower-case name, as answers and logs carry it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::Refused => "refused",
        }
    }

    /// Whether the process is held to be gone, as far as one instance can tell.
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Silent | Self::Refused)
    }
}

/// A copy of a task, as its holder reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldTask {
    /// The task.
    pub id: TaskId,
    /// What the copy is.
    pub role: Role,
    /// Changelog records behind, where known.
    pub lag_records: Option<u64>,
    /// How long ago the copy was last known to be caught up; `None` when it never was.
    pub staleness: Option<Duration>,
    /// Input offsets that it reflects.
    pub position: Position,
    /// Of an active, next offsets of its changelogs at that position, store by store; empty for other copies.
    pub changelog: Vec<i64>,
}

/// What an instance tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerReport {
    /// Whose report this is.
    pub process_id: ProcessId,
    /// Tells one life of the process from the next.
    pub incarnation: u64,
    /// The member id that the coordinator gave it.
    pub member_id: Option<Arc<str>>,
    /// Generation of its assignment; −1 before the first.
    pub generation: i32,
    /// Whether it is about to leave the group.
    pub leaving: bool,
    /// Its transactional ids.
    pub transactional_ids: Vec<String>,
    /// Its copies.
    pub tasks: Vec<HeldTask>,
    /// What it finds of those that do not answer it.
    pub opinions: Vec<(ProcessId, Condition)>,
    /// Who was evicted in the last minute, as far as it knows.
    pub evicted: Vec<Evicted>,
}

/// A process that was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// The process.
    pub process_id: ProcessId,
    /// The life of it that was held to be gone, where known.
    pub incarnation: Option<u64>,
    /// How long ago.
    pub ago: Duration,
}

/// One other member.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Who it is.
    pub instance: Arc<InstanceInfo>,
    /// How it is.
    pub condition: Condition,
    /// When it was heard last.
    pub heard: Option<Instant>,
    /// What it reported last, its copies in order of task.
    pub report: Option<Arc<PeerReport>>,
}

impl PeerView {
    /// Its copy of a task, as it last reported.
    pub fn copy(&self, task: TaskId) -> Option<&HeldTask> {
        // For each look-up that is forwarded, at each peer.
        let tasks = &self.report.as_ref()?.tasks;
        tasks.get(tasks.binary_search_by_key(&task, |held| held.id).ok()?)
    }
}

/// The other members of the group.
#[derive(Clone, Debug, Default)]
pub struct PeersView {
    pub(super) peers: HashMap<ProcessId, PeerView>,
}

impl PeersView {
    /// What is known of a member; `None` for oneself, and for one that has just joined.
    pub fn get(&self, process_id: ProcessId) -> Option<&PeerView> {
        self.peers.get(&process_id)
    }

    /// All others, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &PeerView> {
        self.peers.values()
    }

    /// How a member is. Nothing speaks against one that is not known yet.
    pub fn condition(&self, process_id: ProcessId) -> Condition {
        self.peers.get(&process_id).map_or(Condition::Alive, |peer| peer.condition)
    }

    /// A member that answers reports is found in a worse condition by other means.
    pub fn worsen(&mut self, process_id: ProcessId, condition: Condition) {
        if let Some(peer) = self.peers.get_mut(&process_id)
            && peer.condition == Condition::Alive
        {
            peer.condition = condition;
        }
    }

    /// Members that answer.
    pub fn alive(&self) -> usize {
        self.peers.values().filter(|peer| !peer.condition.is_gone()).count()
    }
}
