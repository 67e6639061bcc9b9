//! A group coordinator as Kafka's (classic protocol), without I/O: requests and time in, answers out.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_types::TaskId;

use super::super::{Joined, Refusal};
use crate::wire::error::code;

/// Whose request it is, and which: what the answer is sent back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    pub(super) process: usize,
    pub(super) incarnation: u32,
    pub(super) number: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Request {
    Find,
    Join { member_id: Arc<str>, subscription: Bytes },
    Sync { member_id: Arc<str>, generation: i32, assignments: Vec<(Arc<str>, Bytes)> },
    Heartbeat { member_id: Arc<str>, generation: i32 },
    Commit { member_id: Arc<str>, generation: i32, tasks: Vec<TaskId> },
    Leave { member_id: Arc<str> },
}

#[derive(Debug)]
pub(super) enum Answer {
    Found(bool),
    Joined(Result<Joined, Refusal>),
    Synced(Result<Bytes, Refusal>),
    Heartbeat(Result<(), Refusal>),
    Committed,
    Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Empty,
    /// Waits for all to join, or this long.
    Preparing {
        until: Instant,
    },
    /// Waits for the leader's assignments, and for all to fetch theirs, or this long.
    Completing {
        until: Instant,
    },
    Stable,
}

#[derive(Debug)]
struct Member {
    process: usize,
    subscription: Bytes,
    assignment: Bytes,
    session_until: Instant,
    joining: Option<Call>,
    syncing: Option<Call>,
}

/// The group as the coordinator keeps it in `__consumer_offsets`: as of its last stable generation.
#[derive(Debug, Default)]
struct Stored {
    generation: i32,
    leader: Arc<str>,
    /// Process, subscription and assignment.
    members: BTreeMap<Arc<str>, (usize, Bytes, Bytes)>,
}

/// The coordinator.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) generation: i32,
    phase: Phase,
    leader: Arc<str>,
    members: BTreeMap<Arc<str>, Member>,
    stored: Stored,
    /// Ids that were given to members that have not joined with them yet.
    pending: BTreeMap<Arc<str>, (usize, Instant)>,
    session: Duration,
    rebalance: Duration,
    ids: u64,
    /// While it moves to another broker nobody is the coordinator.
    pub(super) away_until: Option<Instant>,
    /// Who committed a task first in a generation.
    committed: BTreeMap<(i32, TaskId), Arc<str>>,
}

type Answers = Vec<(Call, Answer)>;

fn refused<T>(code: i16) -> Result<T, Refusal> {
    Err(Refusal::Code(code))
}

impl Broker {
    pub(super) fn new(session: Duration, rebalance: Duration) -> Self {
        Self {
            generation: 0,
            phase: Phase::Empty,
            leader: "".into(),
            members: BTreeMap::new(),
            stored: Stored::default(),
            pending: BTreeMap::new(),
            session,
            rebalance,
            ids: 0,
            away_until: None,
            committed: BTreeMap::new(),
        }
    }

    /// Whether a commit of this member would be accepted now, as one in a transaction is: between join and sync, too.
    pub(super) fn accepts(&self, member_id: &str, generation: i32) -> bool {
        self.members.contains_key(member_id) && generation == self.generation
    }

    pub(super) fn is_stable(&self) -> bool {
        self.phase == Phase::Stable
    }

    pub(super) fn processes(&self) -> Vec<usize> {
        let mut processes: Vec<usize> = self.members.values().map(|member| member.process).collect();
        processes.sort_unstable();
        processes
    }

    /// When something happens by itself.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Preparing { until } | Phase::Completing { until } => Some(until),
            Phase::Empty | Phase::Stable => None,
        };
        let sessions = self.members.values().filter(|member| !member.is_waiting()).map(|member| member.session_until);
        let pending = self.pending.values().map(|(_, until)| *until);
        sessions.chain(pending).chain(phase).chain(self.away_until).min()
    }

    pub(super) fn tick(&mut self, now: Instant) -> Answers {
        let mut out = Vec::new();
        self.away_until = self.away_until.filter(|until| now < *until);
        self.pending.retain(|_, (_, until)| now < *until);
        let silent = self.members.iter().filter(|(_, member)| !member.is_waiting() && member.session_until <= now);
        for id in silent.map(|(id, _)| Arc::clone(id)).collect::<Vec<_>>() {
            self.remove(now, &id, &mut out);
        }
        match self.phase {
            Phase::Preparing { until } if now >= until => self.complete_join(now, &mut out),
            // Who did not fetch its assignment in time is removed.
            Phase::Completing { until } if now >= until => {
                let late = self.members.iter().filter(|(_, member)| member.syncing.is_none());
                for id in late.map(|(id, _)| Arc::clone(id)).collect::<Vec<_>>() {
                    self.remove(now, &id, &mut out);
                }
            }
            Phase::Preparing { .. } => self.try_complete_join(now, &mut out),
            _ => {}
        }
        out
    }

    /// Another broker takes over: it knows the group as it was stored, so a generation that was not synced yet never was, and
    /// its number comes again. Requests that waited are refused.
    pub(super) fn move_away(&mut self, now: Instant, until: Instant) -> Answers {
        self.away_until = Some(until.max(now));
        let mut out = Vec::new();
        for member in std::mem::take(&mut self.members).into_values() {
            out.extend(member.joining.map(|call| (call, Answer::Joined(refused(code::NOT_COORDINATOR)))));
            out.extend(member.syncing.map(|call| (call, Answer::Synced(refused(code::NOT_COORDINATOR)))));
        }
        let Stored { generation, leader, members } = &self.stored;
        (self.generation, self.leader) = (*generation, Arc::clone(leader));
        self.pending.clear();
        self.members = members
            .iter()
            .map(|(id, (process, subscription, assignment))| {
                let member = Member {
                    process: *process,
                    subscription: subscription.clone(),
                    assignment: assignment.clone(),
                    session_until: until + self.session,
                    joining: None,
                    syncing: None,
                };
                (Arc::clone(id), member)
            })
            .collect();
        self.phase = if self.members.is_empty() { Phase::Empty } else { Phase::Stable };
        self.committed.clear();
        out
    }

    fn store(&mut self) {
        let member = |(id, member): (&Arc<str>, &Member)| {
            (Arc::clone(id), (member.process, member.subscription.clone(), member.assignment.clone()))
        };
        self.stored = Stored {
            generation: self.generation,
            leader: Arc::clone(&self.leader),
            members: self.members.iter().map(member).collect(),
        };
    }

    pub(super) fn handle(&mut self, now: Instant, call: Call, request: Request) -> Answers {
        let mut out = self.tick(now);
        if self.away_until.is_some() {
            out.push((call, away(&request)));
            return out;
        }
        match request {
            Request::Find => out.push((call, Answer::Found(true))),
            Request::Join { member_id, subscription } => self.join(now, call, member_id, subscription, &mut out),
            Request::Sync { member_id, generation, assignments } => {
                self.sync(now, call, &member_id, generation, assignments, &mut out);
            }
            Request::Heartbeat { member_id, generation } => {
                let code = self.heartbeat(now, &member_id, generation);
                let answer = if code == code::NONE { Ok(()) } else { refused(code) };
                out.push((call, Answer::Heartbeat(answer)));
            }
            Request::Commit { member_id, generation, tasks } => {
                self.commit(now, &member_id, generation, tasks);
                out.push((call, Answer::Committed));
            }
            Request::Leave { member_id } => {
                self.remove(now, &member_id, &mut out);
                out.push((call, Answer::Left));
            }
        }
        out
    }

    /// What a restarting process does before it joins: its earlier members leave.
    pub(super) fn remove_predecessors(&mut self, now: Instant, process: usize) -> Answers {
        let mut out = Vec::new();
        let own = self.members.iter().filter(|(_, member)| member.process == process);
        for id in own.map(|(id, _)| Arc::clone(id)).collect::<Vec<_>>() {
            self.remove(now, &id, &mut out);
        }
        out
    }

    fn join(&mut self, now: Instant, call: Call, member_id: Arc<str>, subscription: Bytes, out: &mut Answers) {
        if member_id.is_empty() {
            self.ids += 1;
            let id: Arc<str> = format!("m{}-{}", call.process, self.ids).into();
            self.pending.insert(Arc::clone(&id), (call.process, now + self.session));
            out.push((call, Answer::Joined(Err(Refusal::MemberIdRequired(id)))));
            return;
        }
        if self.pending.remove(&member_id).is_some() {
            let member = Member {
                process: call.process,
                subscription,
                assignment: Bytes::new(),
                session_until: now + self.session,
                joining: Some(call),
                syncing: None,
            };
            self.members.insert(member_id, member);
            self.prepare(now, out);
            return self.try_complete_join(now, out);
        }
        let is_leader = self.leader == member_id;
        let Some(member) = self.members.get_mut(&member_id) else {
            out.push((call, Answer::Joined(refused(code::UNKNOWN_MEMBER_ID))));
            return;
        };
        let unchanged = member.subscription == subscription;
        let rebalance = match self.phase {
            Phase::Preparing { .. } | Phase::Empty => true,
            Phase::Completing { .. } => !unchanged,
            Phase::Stable => is_leader || !unchanged,
        };
        member.subscription = subscription;
        member.session_until = now + self.session;
        if rebalance {
            member.joining = Some(call);
            self.prepare(now, out);
            self.try_complete_join(now, out);
        } else {
            let joined = self.joined(&member_id);
            out.push((call, Answer::Joined(Ok(joined))));
        }
    }

    fn joined(&self, member_id: &Arc<str>) -> Joined {
        let all = || self.members.iter().map(|(id, member)| (Arc::clone(id), member.subscription.clone())).collect();
        let lead = (self.leader == *member_id).then(all);
        Joined { generation: self.generation, member_id: Arc::clone(member_id), lead }
    }

    fn prepare(&mut self, now: Instant, out: &mut Answers) {
        if let Phase::Preparing { .. } = self.phase {
            return;
        }
        for member in self.members.values_mut() {
            if let Some(call) = member.syncing.take() {
                out.push((call, Answer::Synced(refused(code::REBALANCE_IN_PROGRESS))));
            }
        }
        self.phase = Phase::Preparing { until: now + self.rebalance };
    }

    fn try_complete_join(&mut self, now: Instant, out: &mut Answers) {
        let preparing = matches!(self.phase, Phase::Preparing { .. });
        if preparing && self.pending.is_empty() && self.members.values().all(|member| member.joining.is_some()) {
            self.complete_join(now, out);
        }
    }

    fn complete_join(&mut self, now: Instant, out: &mut Answers) {
        self.members.retain(|_, member| member.joining.is_some());
        self.generation += 1;
        let Some(first) = self.members.keys().next().cloned() else {
            self.phase = Phase::Empty;
            self.store();
            return;
        };
        if !self.members.contains_key(&self.leader) {
            self.leader = first;
        }
        self.phase = Phase::Completing { until: now + self.rebalance };
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.session_until = now + self.session;
                member.assignment = Bytes::new();
                out.extend(member.joining.take().map(|call| (call, Answer::Joined(Ok(joined)))));
            }
        }
    }

    fn sync(
        &mut self,
        now: Instant,
        call: Call,
        member_id: &Arc<str>,
        generation: i32,
        assignments: Vec<(Arc<str>, Bytes)>,
        out: &mut Answers,
    ) {
        let Some(member) = self.members.get_mut(member_id) else {
            return out.push((call, Answer::Synced(refused(code::UNKNOWN_MEMBER_ID))));
        };
        if generation != self.generation {
            return out.push((call, Answer::Synced(refused(code::ILLEGAL_GENERATION))));
        }
        member.session_until = now + self.session;
        match self.phase {
            Phase::Empty | Phase::Preparing { .. } => {
                out.push((call, Answer::Synced(refused(code::REBALANCE_IN_PROGRESS))));
            }
            Phase::Stable => out.push((call, Answer::Synced(Ok(member.assignment.clone())))),
            Phase::Completing { .. } => {
                member.syncing = Some(call);
                if self.leader != *member_id {
                    return;
                }
                for (id, bytes) in assignments {
                    if let Some(member) = self.members.get_mut(&id) {
                        member.assignment = bytes;
                    }
                }
                for member in self.members.values_mut() {
                    member.session_until = now + self.session;
                    let assignment = member.assignment.clone();
                    out.extend(member.syncing.take().map(|call| (call, Answer::Synced(Ok(assignment)))));
                }
                self.phase = Phase::Stable;
                self.store();
            }
        }
    }

    fn heartbeat(&mut self, now: Instant, member_id: &str, generation: i32) -> i16 {
        let current = self.generation;
        let Some(member) = self.members.get_mut(member_id) else { return code::UNKNOWN_MEMBER_ID };
        if generation != current {
            return code::ILLEGAL_GENERATION;
        }
        member.session_until = now + self.session;
        match self.phase {
            Phase::Preparing { .. } => code::REBALANCE_IN_PROGRESS,
            _ => code::NONE,
        }
    }

    fn commit(&mut self, now: Instant, member_id: &Arc<str>, generation: i32, tasks: Vec<TaskId>) {
        if !self.accepts(member_id, generation) {
            return;
        }
        if let Some(member) = self.members.get_mut(member_id) {
            member.session_until = now + self.session;
        }
        for task in tasks {
            let first = self.committed.entry((generation, task)).or_insert_with(|| Arc::clone(member_id));
            assert_eq!(first, member_id, "task {task} was committed by two members in generation {generation}");
        }
        self.committed.retain(|(of, _), _| *of == generation);
    }

    fn remove(&mut self, now: Instant, member_id: &Arc<str>, out: &mut Answers) {
        self.pending.remove(member_id);
        let Some(member) = self.members.remove(member_id) else { return };
        out.extend(member.joining.map(|call| (call, Answer::Joined(refused(code::UNKNOWN_MEMBER_ID)))));
        out.extend(member.syncing.map(|call| (call, Answer::Synced(refused(code::UNKNOWN_MEMBER_ID)))));
        if !matches!(self.phase, Phase::Empty) {
            self.prepare(now, out);
            self.try_complete_join(now, out);
        }
    }
}

impl Member {
    /// While the broker owes it an answer, its session does not end.
    fn is_waiting(&self) -> bool {
        self.joining.is_some() || self.syncing.is_some()
    }
}

fn away(request: &Request) -> Answer {
    match request {
        Request::Find => Answer::Found(false),
        Request::Join { .. } => Answer::Joined(refused(code::NOT_COORDINATOR)),
        Request::Sync { .. } => Answer::Synced(refused(code::NOT_COORDINATOR)),
        Request::Heartbeat { .. } => Answer::Heartbeat(refused(code::NOT_COORDINATOR)),
        Request::Commit { .. } => Answer::Committed,
        Request::Leave { .. } => Answer::Left,
    }
}
