//! Who processes which task, and who follows it: pure functions of plain data, run by the group's leader.
//!
//! [`assign`] goes the way that Kafka Streams' `HighAvailabilityTaskAssignor` goes (KIP-441), with sticky targets:
//!
//! 1. `topology`: which form of each sub-topology the group runs, and who can run it. What cannot run beside it is refused.
//! 2. `balance`: the *target*, sticky and balanced, as if state cost nothing.
//! 3. `warm_up`: the *home* of each active task now. A target that has not caught up warms up first while somebody who has
//!    caught up does the work, and a follow-up rebalance is wanted.
//! 4. `standby`: the copies beside the homes, spread over racks and zones, sticky and balanced too.
//! 5. `hand_over`: what may be given out now. A task that another member may still be processing is withheld until that
//!    member has joined without it (KIP-429); tasks that stay are not touched.
//!
//! Every leader finds the same for the same group, whatever order the members come in. Unlike Kafka Streams' assignor for
//! racks, active tasks are not placed near their partitions: the group protocol does not tell where those are.

mod balance;
mod candidates;
mod group;
mod hand_over;
mod lag;
mod load;
mod reserve;
mod standby;
#[cfg(test)]
mod tests;
mod topology;
mod warm_up;

use std::{collections::BTreeMap, time::Duration};

use holdfast_types::{InstanceInfo, ProcessId, SubtopologySpec, TaskId};
pub use lag::{Copies, lags};

use self::group::Group;

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is. Members are told apart by their process ids, which survive a restart.
    pub instance: InstanceInfo,
    /// What it can run.
    pub subtopologies: Vec<SubtopologySpec>,
    /// What it may be processing now.
    pub owned: Vec<TaskId>,
    /// The generation in which it got that.
    pub generation: i32,
    /// What it follows now, as standby or warm-up.
    pub followed: Vec<TaskId>,
    /// What was withheld for it in its last generation.
    pub promised: Vec<TaskId>,
    /// Records that its copy of a task is behind, for each task of which it has one. An owner that is not listed counts as
    /// caught up; anybody else that is not listed has nothing.
    pub lags: BTreeMap<TaskId, u64>,
    /// Whether it can follow tasks. One that cannot gets no standbys, and tasks without warming up.
    pub follows: bool,
    /// Whether it is about to leave: it gets nothing, and its standby slots stay reserved for it.
    pub draining: bool,
}

impl Member {
    /// A member that comes for the first time, can follow tasks, and has nothing.
    pub fn new(instance: InstanceInfo, subtopologies: Vec<SubtopologySpec>) -> Self {
        Self {
            instance,
            subtopologies,
            owned: Vec::new(),
            generation: -1,
            followed: Vec::new(),
            promised: Vec::new(),
            lags: BTreeMap::new(),
            follows: true,
            draining: false,
        }
    }
}

/// What the leader goes by. The names are Kafka Streams'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignorSettings {
    /// Copies of each stateful task beside the active one.
    pub num_standby_replicas: usize,
    /// Copies at a time, in the whole group, that warm up to become active or standby elsewhere; at least 1 is used.
    pub max_warmup_replicas: usize,
    /// A copy that is at most this many records behind has caught up.
    pub acceptable_recovery_lag: u64,
    /// Time after which the leader asks for a follow-up rebalance that nobody else has asked for.
    pub probing_rebalance_interval: Duration,
    /// Tags of instances in which the copies of a task should differ, the most important first.
    pub rack_aware_assignment_tags: Vec<String>,
    /// How long the standby slots of a drained process are kept for it; zero: not at all.
    pub drained_slot_retention: Duration,
}

impl Default for AssignorSettings {
    fn default() -> Self {
        Self {
            num_standby_replicas: 0,
            max_warmup_replicas: 2,
            acceptable_recovery_lag: 10_000,
            probing_rebalance_interval: Duration::from_secs(600),
            rack_aware_assignment_tags: vec!["zone".to_owned(), "rack".to_owned()],
            drained_slot_retention: Duration::from_secs(300),
        }
    }
}

/// Tasks of which a drained process has a copy: no other member builds one in its place while time is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The process that will come back.
    pub process_id: ProcessId,
    /// What it had, in order.
    pub tasks: Vec<TaskId>,
    /// How much longer.
    pub left: Duration,
}

/// Tasks of one member, each list in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberTasks {
    /// Tasks that it processes.
    pub active: Vec<TaskId>,
    /// Tasks that it follows to take over when their owner fails.
    pub standby: Vec<TaskId>,
    /// Tasks that it follows to get them as active or standby as soon as it has caught up.
    pub warmup: Vec<TaskId>,
    /// Tasks that it gets as active as soon as another member has released them: that one then joins again. The next leader
    /// gives them out as promised, so that a task which moves does not change its mind on the way.
    pub promised: Vec<TaskId>,
}

/// A sub-topology that a member has and gets no tasks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Index of the member.
    pub member: usize,
    /// What differs, and what the group runs instead.
    pub reason: String,
}

/// What a rebalance comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What each member gets now, in the order of the members.
    pub tasks: Vec<MemberTasks>,
    /// Whether copies are warming up: another rebalance is wanted when they have caught up.
    pub follow_up: bool,
    /// When that is wanted at the latest, though nobody says so; also because a reservation ends.
    pub follow_up_in: Option<Duration>,
    /// What members have that the group does not run.
    pub refused: Vec<Refused>,
    /// Slots that are kept for drained processes.
    pub reserved: Vec<Reservation>,
}

/// Assigns all tasks of all sub-topologies that the members have.
///
/// `reserved` are the slots that earlier outcomes kept, with the time that is left of them now.
pub fn assign(members: &[Member], reserved: &[Reservation], settings: &AssignorSettings) -> Outcome {
    let (forms, refused) = topology::choose(members);
    let group = Group::new(members, forms, settings);
    let reserved = reserve::reserve(&group, reserved, settings);

    let target = balance::balance(&group);
    let mut plan = warm_up::homes(&group, &target);
    standby::standbys(&group, &target, &reserved, settings, &mut plan);
    // While a process is awaited, nothing is built that its return makes needless.
    let follow_up = plan.limit_warm_ups(&group, settings.max_warmup_replicas.max(1), !reserved.is_empty());
    let reservation_ends = reserved.iter().map(|reservation| reservation.left).min();
    let probe = follow_up.then_some(settings.probing_rebalance_interval);
    let follow_up_in = probe.into_iter().chain(reservation_ends).min();

    let tasks = hand_over::hand_over(&group, &plan);
    Outcome { tasks, follow_up, follow_up_in, refused, reserved }
}

impl Outcome {
    /// Tasks that nobody gets as active in this generation.
    pub fn withheld(&self) -> Vec<TaskId> {
        let mut withheld: Vec<TaskId> = self.tasks.iter().flat_map(|tasks| &tasks.promised).copied().collect();
        withheld.sort_unstable();
        withheld
    }
}
