//! The membership as a state machine: takes the time and events, gives actions, does no I/O.
//!
//! ```text
//!             coordinator found             answered                assignments answered
//!   JoinDue ──────────────────► Joining ────────────────► Syncing ───────────────────────► Stable
//!      ▲  ▲                        │ refused                 │ refused                        │ heartbeat says 27,
//!      │  └────────────────────────┴─────────────────────────┘                                │ or somebody asks
//!      └──────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! Beside it runs the *link*, whether the coordinator is known and answers. A broken link does not end a membership: the
//! session timeout does, or the coordinator's word. Heartbeats go on in every state in which a generation is held.

mod copies;
mod heartbeat;
mod join_due;
mod joining;
mod link;
mod ownership;
#[cfg(test)]
mod simulation;
mod stable;
mod syncing;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_types::{Confirmed, GroupMetadata, InstanceInfo, SubtopologySpec, TaskId};

use self::{copies::Following, heartbeat::Heartbeat, link::Link, ownership::Ownership};
use crate::{
    GroupConfig, GroupEvent,
    assignor::{AssignorSettings, Copies},
    wire::error::code_name,
};

/// Time from the end of a surrender to the rebalance that levels the load again: twice what an instance waits for user code.
const LEVEL_AFTER: Duration = Duration::from_secs(120);

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// Time passed.
    Tick,
    /// The coordinator is known.
    CoordinatorFound,
    /// Nobody could say who the coordinator is.
    CoordinatorMissing { reason: String },
    /// JoinGroup was answered.
    Joined { ticket: Ticket, answer: Result<Joined, Refusal> },
    /// SyncGroup was answered, with the bytes of this member's assignment.
    Synced { ticket: Ticket, answer: Result<Bytes, Refusal> },
    /// A heartbeat was answered.
    HeartbeatAnswered { ticket: Ticket, answer: Result<(), Refusal> },
    /// A commit was refused as if the generation were over: ask soon.
    Suspicion,
    /// Somebody wants a rebalance.
    Rejoin { reason: String },
    /// A copy here has caught up: the group may have more for it.
    CaughtUp { reason: String },
    /// Somebody waits for a heartbeat that is sent from now on.
    ConfirmationWanted,
    /// Of what was assigned up to `generation`, only `kept` is still processed here.
    Acknowledged { tenure: u64, generation: i32, kept: Vec<TaskId> },
    /// The instance gives up all that was assigned to it in a tenure, or since.
    Surrendered { tenure: u64, reason: String },
    /// What was given up is let go of.
    Resumed,
    /// How far the instance's copies of tasks are, for the next time that it joins.
    Reported { copies: Copies },
    /// The instance is about to leave: a rebalance moves its tasks away and keeps its standby slots.
    Drain,
    /// The instance is stopping.
    Leave,
}

/// Tells an answer that is waited for from one that came too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// The coordinator's answer to JoinGroup.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) generation: i32,
    pub(super) member_id: Arc<str>,
    /// The subscriptions of all members, for the leader; `None` for the others.
    pub(super) lead: Option<Vec<(Arc<str>, Bytes)>>,
}

/// Why a request did not do what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// An error code.
    Code(i16),
    /// MEMBER_ID_REQUIRED, with the id to use.
    MemberIdRequired(Arc<str>),
    /// No answer.
    Broken(String),
}

/// What has to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Look for the coordinator, and answer with `CoordinatorFound` or `CoordinatorMissing`.
    FindCoordinator,
    /// Send JoinGroup.
    Join { ticket: Ticket, member_id: Arc<str>, subscription: Bytes, reason: String },
    /// Send SyncGroup; the leader's carries everybody's assignment.
    Sync { ticket: Ticket, generation: i32, member_id: Arc<str>, assignments: Vec<(Arc<str>, Bytes)> },
    /// Send Heartbeat.
    Heartbeat { ticket: Ticket, generation: i32, member_id: Arc<str> },
    /// Send LeaveGroup. After [`Event::Leave`] nothing else follows; else the machine joins again later, under another id.
    Leave { member_id: Arc<str> },
    /// Tell the instance.
    Emit(GroupEvent),
}

/// Where the membership stands.
#[derive(Debug)]
enum State {
    /// JoinGroup goes out at `at`, once the link is up. `held` is the generation under which commits go on meanwhile.
    JoinDue { at: Instant, held: Option<i32> },
    /// JoinGroup is out.
    Joining { ticket: Ticket, held: Option<i32> },
    /// The generation began; SyncGroup is out.
    Syncing { ticket: Ticket, generation: i32, sent_at: Instant },
    /// Assigned.
    Stable { generation: i32 },
    /// Over.
    Left,
}

/// Why the instance waits; a new kind is told even though the instance waits already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitKind {
    /// No coordinator answers.
    Unreachable,
    /// The coordinator does not let the member in.
    Refused,
}

/// What does not change in a machine's life.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) group_id: Arc<str>,
    pub(super) instance: InstanceInfo,
    pub(super) subtopologies: Vec<SubtopologySpec>,
    pub(super) session_timeout: Duration,
    pub(super) heartbeat_interval: Duration,
    pub(super) assignor: AssignorSettings,
    /// Whether the instance can follow tasks.
    pub(super) follows: bool,
    /// First and longest wait between attempts.
    pub(super) backoff: (Duration, Duration),
}

impl Settings {
    pub(super) fn new(config: &GroupConfig, backoff: (Duration, Duration)) -> Self {
        Self {
            group_id: config.group_id.as_str().into(),
            instance: config.instance.clone(),
            subtopologies: config.subtopologies.clone(),
            session_timeout: config.session_timeout,
            heartbeat_interval: config.heartbeat_interval,
            assignor: config.assignor.clone(),
            follows: config.follows_tasks,
            backoff,
        }
    }

    /// The wait before attempt number `failures` + 1.
    fn backoff(&self, failures: u32) -> Duration {
        let (first, longest) = self.backoff;
        first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(longest.max(first))
    }
}

/// The membership.
#[derive(Debug)]
pub(super) struct Machine {
    settings: Settings,
    state: State,
    link: Link,
    heartbeat: Heartbeat,
    ownership: Ownership,
    following: Following,
    /// About to leave.
    draining: bool,
    /// Something here still holds what was given up: no tasks until it does not.
    surrendered: bool,
    /// How many members the latest assignment knew, this one included.
    members: usize,
    /// When the leader asks for the follow-up rebalance that its assignment needs, unless somebody does before.
    probe_at: Option<Instant>,
    /// When this member asks for its share again after a surrender, unless it joins for another reason before.
    level_at: Option<Instant>,
    /// As the coordinator gave it; empty before that and after a removal.
    member_id: Arc<str>,
    /// Changes when a re-join has to be noticed.
    counter: u8,
    /// Why a rebalance is wanted. One that is asked for while another is going on is remembered here, and starts when that
    /// one has ended (KAFKA-14382).
    wanted: Option<String>,
    /// Joins refused in a row.
    join_failures: u32,
    /// When the coordinator was last known to count this member in: the time at which the request was sent that it confirmed.
    confirmed_at: Option<Instant>,
    waiting: Option<WaitKind>,
    /// What the group does not run of this member's, as the operator was told.
    refused: Vec<String>,
    tickets: u64,
    /// Memberships that were lost.
    tenure: u64,
}

impl Machine {
    pub(super) fn new(settings: Settings, now: Instant) -> Self {
        Self {
            settings,
            state: State::JoinDue { at: now, held: None },
            link: Link::new(now),
            heartbeat: Heartbeat::new(now),
            ownership: Ownership::default(),
            following: Following::default(),
            draining: false,
            surrendered: false,
            members: 0,
            probe_at: None,
            level_at: None,
            member_id: "".into(),
            counter: 0,
            wanted: None,
            join_failures: 0,
            confirmed_at: None,
            waiting: None,
            refused: Vec::new(),
            tickets: 0,
            tenure: 0,
        }
    }

    /// Takes an event and gives what is to be done about it, and about the time.
    pub(super) fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        if matches!(self.state, State::Left) {
            return out;
        }
        match event {
            Event::Tick => {}
            Event::CoordinatorFound => self.on_coordinator_found(now),
            Event::CoordinatorMissing { reason } => self.on_link_failure(now, reason, &mut out),
            Event::Joined { ticket, answer } => self.on_joined(now, ticket, answer, &mut out),
            Event::Synced { ticket, answer } => self.on_synced(now, ticket, answer, &mut out),
            Event::HeartbeatAnswered { ticket, answer } => self.on_heartbeat(now, ticket, answer, &mut out),
            Event::Suspicion | Event::ConfirmationWanted => self.heartbeat.hurry(now),
            Event::Rejoin { reason } => self.want_rejoin(reason),
            // Another rebalance while tasks change hands would only hold up those who release them, and one comes anyway.
            Event::CaughtUp { reason } => match self.following.handing_over_until(now) {
                Some(until) => self.probe_at = Some(self.probe_at.map_or(until, |at| at.min(until))),
                None => self.want_rejoin(reason),
            },
            Event::Acknowledged { tenure, generation, kept } => {
                // A generation's number may come twice.
                if tenure == self.tenure && self.ownership.acknowledge(generation, &kept) {
                    self.want_rejoin("tasks were released".to_owned());
                }
            }
            Event::Surrendered { tenure, reason } => {
                // Also of a membership that was lost meanwhile: what came since waits behind the same user code.
                if tenure <= self.tenure {
                    self.surrendered = true;
                    self.level_at = None;
                    self.lose(now, reason, &mut out);
                }
            }
            Event::Resumed => {
                if std::mem::take(&mut self.surrendered) {
                    if self.members <= 1 {
                        self.want_rejoin("what was given up is let go of".to_owned());
                    } else {
                        // Whoever has the tasks now may be at the very record that took so long here: to ask for them back at
                        // once would take them from one to the other for ever.
                        self.level_at = Some(now + LEVEL_AFTER);
                    }
                }
            }
            Event::Reported { copies } => self.following.copies = copies,
            Event::Drain => {
                if !self.draining {
                    self.draining = true;
                    self.want_rejoin("the instance is about to leave".to_owned());
                }
            }
            Event::Leave => {
                self.leave(&mut out);
                return out;
            }
        }
        self.expire_session(now, &mut out);
        self.drive_link(now, &mut out);
        self.drive_probe(now);
        self.drive_join(now, &mut out);
        self.drive_heartbeat(now, &mut out);
        out
    }

    /// When `Tick` is due, if nothing else happens before.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        if matches!(self.state, State::Left) {
            return None;
        }
        let join = match self.state {
            State::JoinDue { at, .. } if self.link.is_up() => Some(at),
            _ => None,
        };
        let session = self.held().and(self.confirmed_at).map(|at| at + self.settings.session_timeout);
        let heartbeat = if self.link.is_up() { self.held().and(self.heartbeat.due_at()) } else { None };
        [join, session, heartbeat, self.probe_due_at(), self.link.retry_at()].into_iter().flatten().min()
    }

    /// Whom commits are for: this member, in the generation that the coordinator accepts now.
    pub(super) fn metadata(&self) -> Option<GroupMetadata> {
        let (group_id, member_id) = (Arc::clone(&self.settings.group_id), Arc::clone(&self.member_id));
        let tenure = self.tenure;
        self.held().map(|generation| GroupMetadata { group_id, generation, member_id, tenure })
    }

    /// Whether the generation that is held may end at any moment, because the coordinator waits for nobody here.
    pub(super) fn is_joining(&self) -> bool {
        matches!(self.state, State::Joining { held: Some(_), .. })
    }

    pub(super) fn confirmed(&self) -> Option<Confirmed> {
        self.confirmed_at().map(|at| Confirmed { at, tenure: self.tenure })
    }

    fn confirmed_at(&self) -> Option<Instant> {
        self.held().and(self.confirmed_at)
    }

    /// The generation in force for this member, if there is one.
    fn held(&self) -> Option<i32> {
        match self.state {
            State::JoinDue { held, .. } | State::Joining { held, .. } => held,
            State::Syncing { generation, .. } | State::Stable { generation } => Some(generation),
            State::Left => None,
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn want_rejoin(&mut self, reason: String) {
        self.counter = self.counter.wrapping_add(1);
        self.wanted = Some(reason);
    }

    /// The membership is gone: whatever was assigned is no longer this member's.
    fn lose(&mut self, now: Instant, reason: String, out: &mut Vec<Action>) {
        if matches!(self.state, State::Joining { .. }) && !self.ownership.claimed().is_empty() {
            // The claim that is on its way holds tasks back for a member that has dropped them: they stay without an owner
            // unless it joins once more.
            self.want_rejoin("tasks were lost while the group was joined".to_owned());
        }
        if self.ownership.forget() || self.held().is_some() {
            // Whoever gets the event tells the operator, here as below.
            tracing::debug!(group = %self.settings.group_id, member_id = %self.member_id, reason, "group membership lost");
            out.push(Action::Emit(GroupEvent::Lost { reason }));
        }
        self.tenure += 1;
        self.following.forget();
        self.confirmed_at = None;
        self.probe_at = None;
        match &mut self.state {
            // The request that is out cannot be called back; its answer decides.
            State::Joining { held, .. } => *held = None,
            state => *state = State::JoinDue { at: now, held: None },
        }
    }

    /// As [`Machine::lose`], when the coordinator does not know the member any more: it needs a new id.
    fn removed(&mut self, now: Instant, reason: String, out: &mut Vec<Action>) {
        self.lose(now, reason, out);
        self.member_id = "".into();
        self.state = State::JoinDue { at: now, held: None };
    }

    fn expire_session(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(confirmed_at) = self.confirmed_at() else { return };
        let silent = now.saturating_duration_since(confirmed_at);
        if silent >= self.settings.session_timeout {
            let reason = format!(
                "the group coordinator has confirmed nothing for {silent:.1?}, longer than the session timeout of {:?}",
                self.settings.session_timeout
            );
            self.lose(now, reason, out);
        }
    }

    fn wait(&mut self, kind: WaitKind, reason: String, out: &mut Vec<Action>) {
        if self.waiting == Some(kind) {
            tracing::debug!(group = %self.settings.group_id, reason, "still waiting for the group");
            return;
        }
        self.waiting = Some(kind);
        tracing::debug!(group = %self.settings.group_id, reason, "waiting for the group");
        out.push(Action::Emit(GroupEvent::Waiting { reason }));
    }

    fn recovered(&mut self, out: &mut Vec<Action>) {
        if self.waiting.take().is_some() {
            tracing::debug!(group = %self.settings.group_id, "the group is reachable again");
            out.push(Action::Emit(GroupEvent::Recovered));
        }
    }

    fn leave(&mut self, out: &mut Vec<Action>) {
        if !self.member_id.is_empty() {
            out.push(Action::Leave { member_id: Arc::clone(&self.member_id) });
        }
        self.state = State::Left;
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => f.write_str(&code_name(*code)),
            Self::MemberIdRequired(id) => write!(f, "MEMBER_ID_REQUIRED (79), use {id}"),
            Self::Broken(reason) => f.write_str(reason),
        }
    }
}
