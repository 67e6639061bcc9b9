//! The state machine: whom to ask when, who is held to be gone, and whether it is this instance that evicts it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_types::{Endpoint, InstanceInfo, ProcessId};

use super::{
    Condition, Evicted, PeerReport, PeerView, PeersView,
    liveness::{Limits, Liveness, SLOW_AFTER},
};

/// Time between two questions to the same peer: the shortest, in groups of up to four, where a failover takes as long as it
/// takes to be sure; and that of middling groups, of 10 to 25 members.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(250));
/// Each member adds this to the interval, until it is that of a middling group.
const INTERVAL_PER_MEMBER_OF_FEW: Duration = Duration::from_millis(25);
/// Each member adds this to the interval of larger groups: what an instance asks per second stays the same however many there
/// are.
const INTERVAL_PER_MEMBER: Duration = Duration::from_millis(10);
/// Time between questions to a peer that refuses, until that is settled, and to one whose opinion is wanted.
const RETRY: Duration = Duration::from_millis(50);
/// An opinion that is older than this confirms nothing.
const OPINION_HOLDS: Duration = Duration::from_secs(1);
/// How long the others are asked more often than usual whether they find the same.
const DOUBT: Duration = Duration::from_secs(2);
/// How much later each further live member evicts, should those before it not.
const RANK_DELAY: Duration = Duration::from_millis(400);
/// A process that was evicted, and may live all the same, is left alone for this long.
const LEFT_ALONE: Duration = Duration::from_secs(60);
/// Time before an eviction that failed is tried again.
const EVICT_AGAIN: Duration = Duration::from_millis(300);
/// A tick that comes so late means that this process stood still.
const STOOD_STILL: Duration = Duration::from_millis(750);

/// What does not change.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// This instance.
    pub me: ProcessId,
    /// Silence after which a peer is held to be gone.
    pub peer_timeout: Duration,
    /// Whether a process that is evicted by mistake is fenced by its transactions: without that, silence evicts nobody.
    pub exactly_once: bool,
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens, the connection was reset, or somebody else listens there.
    Refused,
    /// No answer in time, or the way is blocked.
    Silent,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The members of a new generation, this instance among them, in the order that all of them know.
    Members {
        /// The generation.
        generation: i32,
        /// The members.
        members: Vec<Arc<InstanceInfo>>,
    },
    /// A peer asked, and told of itself.
    Heard(PeerReport),
    /// A question was answered; without a report where the peer does not talk to this instance (a wrong token).
    Answered {
        /// Who was asked.
        peer: ProcessId,
        /// What it told.
        report: Option<PeerReport>,
    },
    /// A question was not answered.
    Failed {
        /// Who was asked.
        peer: ProcessId,
        /// Why.
        failure: Failure,
    },
    /// An eviction ended.
    Evicted {
        /// Who was to be evicted.
        peer: ProcessId,
        /// Whether it is out of the group and fenced.
        done: bool,
    },
}

/// What has to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Exchange reports, and answer with [`Event::Answered`] or [`Event::Failed`].
    Ask(Arc<InstanceInfo>),
    /// Remove it from the group, fence its transactional ids, and answer with [`Event::Evicted`].
    Evict {
        /// Who is gone.
        peer: Arc<InstanceInfo>,
        /// The member id that it reported last: a later life of the process has another.
        member_id: Option<Arc<str>>,
        /// How it was found.
        condition: Condition,
    },
    /// Ask the coordinator at once whether a new generation begins.
    Confirm,
}

/// One other member.
#[derive(Debug)]
struct Peer {
    instance: Arc<InstanceInfo>,
    liveness: Liveness,
    report: Option<(Instant, Arc<PeerReport>)>,
    /// A question is out.
    asking: bool,
    ask_at: Instant,
    /// Since when it is held to be gone.
    gone: Option<Instant>,
    evicting: bool,
    evict_at: Option<Instant>,
}

/// An eviction that was carried out.
#[derive(Clone, Copy, Debug)]
struct Eviction {
    at: Instant,
    incarnation: Option<u64>,
}

/// The machine.
#[derive(Debug)]
pub struct Peers {
    settings: Settings,
    generation: i32,
    /// All members, this instance included.
    order: Vec<ProcessId>,
    peers: HashMap<ProcessId, Peer>,
    evicted: HashMap<ProcessId, Eviction>,
    /// Who was evicted though nothing was ever heard of it, and at which address. Once is enough: if it is back, it lives.
    unheard: HashSet<(ProcessId, Endpoint)>,
    /// The newest generation that a confirmation was asked for.
    confirmed_for: i32,
    last: Instant,
    due: Instant,
}

impl Peers {
    /// A machine that knows of nobody.
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            settings,
            generation: -1,
            order: Vec::new(),
            peers: HashMap::new(),
            evicted: HashMap::new(),
            unheard: HashSet::new(),
            confirmed_for: -1,
            last: now,
            due: now,
        }
    }

    /// Takes an event in.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let late = now.saturating_duration_since(self.due.max(self.last));
        if late >= STOOD_STILL {
            self.peers.values_mut().for_each(|peer| peer.liveness.forgive(late));
        }
        self.last = now;
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Members { generation, members } => self.members(now, generation, members),
            Event::Heard(report) => {
                if let Some(peer) = self.peers.get_mut(&report.process_id) {
                    peer.liveness.heard(now);
                }
                self.learn_of(now, report, &mut actions);
            }
            Event::Answered { peer, report } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.asking = false;
                    peer.liveness.answered(now);
                    peer.ask_at = now + interval(self.order.len());
                }
                if let Some(report) = report {
                    self.learn_of(now, report, &mut actions);
                }
            }
            Event::Failed { peer, failure } => {
                let (pause, limits) = (interval(self.order.len()), self.limits());
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.asking = false;
                    if failure == Failure::Refused {
                        peer.liveness.refused(now);
                    }
                    let gone = peer.liveness.condition(now, limits).is_gone();
                    let settled = gone || !peer.liveness.answers();
                    peer.ask_at = now + if settled { pause } else { RETRY };
                }
            }
            Event::Evicted { peer, done } => self.was_evicted(now, peer, done, &mut actions),
        }
        self.evict(now, &mut actions);
        self.ask(now, &mut actions);
        self.due = self.next_tick();
        actions
    }

    /// When to call again at the latest.
    pub fn next_tick(&self) -> Instant {
        let asks = self.peers.values().filter(|peer| !peer.asking).map(|peer| peer.ask_at);
        // Conditions change with time alone, too.
        asks.min().unwrap_or(self.last + SLOW_AFTER).clamp(self.last, self.last + SLOW_AFTER)
    }

    /// What is known now.
    pub fn view(&self, now: Instant) -> PeersView {
        let view = |peer: &Peer| PeerView {
            instance: Arc::clone(&peer.instance),
            condition: self.condition(peer, now),
            heard: peer.liveness.last_heard(),
            report: peer.report.as_ref().map(|(_, report)| Arc::clone(report)),
        };
        PeersView { peers: self.peers.iter().map(|(id, peer)| (*id, view(peer))).collect() }
    }

    /// What this instance finds of those that do not answer, for its own report.
    pub fn opinions(&self, now: Instant) -> Vec<(ProcessId, Condition)> {
        let opinions = self.peers.iter().map(|(id, peer)| (*id, self.condition(peer, now)));
        opinions.filter(|(_, condition)| *condition != Condition::Alive).collect()
    }

    /// Who was evicted in the last minute, for its own report.
    pub fn evicted(&self, now: Instant) -> Vec<Evicted> {
        let evicted = self.evicted.iter().map(|(id, eviction)| Evicted {
            process_id: *id,
            incarnation: eviction.incarnation,
            ago: now.saturating_duration_since(eviction.at),
        });
        evicted.filter(|evicted| evicted.ago < LEFT_ALONE).collect()
    }

    fn limits(&self) -> Limits {
        Limits { silent: self.settings.peer_timeout, refused: interval(self.order.len()) + RETRY }
    }

    fn condition(&self, peer: &Peer, now: Instant) -> Condition {
        peer.liveness.condition(now, self.limits())
    }

    fn members(&mut self, now: Instant, generation: i32, members: Vec<Arc<InstanceInfo>>) {
        self.generation = generation;
        self.order = members.iter().map(|member| member.process_id).collect();
        let mut known = std::mem::take(&mut self.peers);
        for instance in members.into_iter().filter(|member| member.process_id != self.settings.me) {
            let id = instance.process_id;
            let peer = match known.remove(&id) {
                // At another address it is another life, of which nothing is known.
                Some(mut peer) if peer.instance.peer_endpoint == instance.peer_endpoint => {
                    peer.instance = instance;
                    peer
                }
                _ => Peer {
                    instance,
                    liveness: Liveness::default(),
                    report: None,
                    asking: false,
                    ask_at: now,
                    gone: None,
                    evicting: false,
                    evict_at: None,
                },
            };
            self.peers.insert(id, peer);
        }
        self.evicted.retain(|_, eviction| now.saturating_duration_since(eviction.at) < 2 * LEFT_ALONE);
    }

    /// Takes a report in.
    fn learn_of(&mut self, now: Instant, mut report: PeerReport, actions: &mut Vec<Action>) {
        report.tasks.sort_by_key(|held| held.id);
        let newer = report.generation > self.generation.max(self.confirmed_for);
        if self.learn(now, &report.evicted) || newer {
            self.confirmed_for = self.confirmed_for.max(report.generation);
            actions.push(Action::Confirm);
        }
        // Somebody is in doubt about a third one: it is looked at now, so that the two can agree.
        for (id, _) in report.opinions.iter().filter(|(_, condition)| condition.is_gone()) {
            if let Some(doubted) = self.peers.get_mut(id)
                && doubted.gone.is_none()
            {
                doubted.ask_at = now;
            }
        }
        // A new life of a process that was evicted in its former one.
        if self.evicted.get(&report.process_id).is_some_and(|evicted| evicted.incarnation != Some(report.incarnation)) {
            self.evicted.remove(&report.process_id);
        }
        if let Some(peer) = self.peers.get_mut(&report.process_id) {
            peer.report = Some((now, Arc::new(report)));
        }
    }

    /// Takes over who was evicted by others; whether any of it is new.
    fn learn(&mut self, now: Instant, evicted: &[Evicted]) -> bool {
        let mut learnt = false;
        for Evicted { process_id, incarnation, ago } in evicted {
            let lives = self.peers.get(process_id).and_then(|peer| peer.report.as_ref());
            // It is about an earlier life.
            let over = lives.is_some_and(|(_, report)| Some(report.incarnation) != *incarnation);
            let Some(at) = now.checked_sub(*ago) else { continue };
            let known = self.evicted.get(process_id).is_some_and(|known| at < known.at + OPINION_HOLDS);
            if *process_id != self.settings.me && !over && *ago < LEFT_ALONE && !known {
                self.evicted.insert(*process_id, Eviction { at, incarnation: *incarnation });
                learnt = true;
            }
        }
        learnt
    }

    fn was_evicted(&mut self, now: Instant, id: ProcessId, done: bool, actions: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.evicting = false;
        if !done {
            peer.evict_at = Some(now + EVICT_AGAIN);
            return;
        }
        if peer.liveness.refuses_unheard() {
            self.unheard.insert((id, peer.instance.peer_endpoint.clone()));
        }
        let incarnation = peer.report.as_ref().map(|(_, report)| report.incarnation);
        self.evicted.insert(id, Eviction { at: now, incarnation });
        // The others learn of the new generation from this instance sooner than from their next heartbeat.
        self.peers.values_mut().filter(|peer| peer.gone.is_none()).for_each(|peer| peer.ask_at = now);
        actions.push(Action::Confirm);
    }

    fn evict(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let limits = self.limits();
        let mut candidates = Vec::new();
        for (id, peer) in &mut self.peers {
            let condition = peer.liveness.condition(now, limits);
            if condition.is_gone() {
                let since = *peer.gone.get_or_insert(now);
                candidates.push((*id, condition, since));
            } else {
                peer.gone = None;
            }
        }
        for (id, condition, since) in candidates {
            if !self.may_evict(now, id, condition) {
                continue;
            }
            let live: Vec<ProcessId> = self.live_besides(id).collect();
            let confirmed = live.iter().any(|other| self.agrees(now, *other, id));
            let rank = self.order.iter().take_while(|member| **member != self.settings.me);
            let rank = rank.filter(|member| live.contains(member)).count();
            let unheard = self.died_unheard(id);
            if !confirmed && (!live.is_empty() || (condition == Condition::Silent && !unheard)) {
                // Those who can tell take a look of their own when they hear of the doubt.
                if now.saturating_duration_since(since) < DOUBT {
                    live.into_iter().for_each(|other| self.ask_soon(now, other));
                }
                continue;
            }
            let delay = RANK_DELAY * u32::try_from(rank).unwrap_or(u32::MAX);
            let since = self.evicted.get(&id).map_or(since, |evicted| since.max(evicted.at + LEFT_ALONE));
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            if now < since + delay || peer.evict_at.is_some_and(|at| now < at) {
                continue;
            }
            peer.evicting = true;
            let member_id = peer.report.as_ref().and_then(|(_, report)| report.member_id.clone());
            actions.push(Action::Evict { peer: Arc::clone(&peer.instance), member_id, condition });
        }
    }

    /// Whether anything speaks against evicting a peer that is gone.
    fn may_evict(&self, now: Instant, id: ProcessId, condition: Condition) -> bool {
        let Some(peer) = self.peers.get(&id) else { return false };
        // One that leaves removes itself, unless it was killed while it did.
        let leaving = condition == Condition::Silent && peer.report.as_ref().is_some_and(|(_, report)| report.leaving);
        let left_alone =
            self.evicted.get(&id).is_some_and(|evicted| now.saturating_duration_since(evicted.at) < LEFT_ALONE);
        let silent_too_few = condition == Condition::Silent
            && (!self.settings.exactly_once || (self.order.len() <= 2 && !self.died_unheard(id)));
        let member = self.order.contains(&self.settings.me);
        member && !peer.evicting && !leaving && !left_alone && !silent_too_few
    }

    /// Whether a peer of which nothing was ever heard seems to have died before it answered. The other one of two cannot be asked
    /// about it; so this is held against it once only.
    fn died_unheard(&self, id: ProcessId) -> bool {
        let Some(peer) = self.peers.get(&id) else { return false };
        let known = || self.unheard.contains(&(id, peer.instance.peer_endpoint.clone()));
        peer.liveness.refuses_unheard() && !known()
    }

    /// Other members that answer.
    fn live_besides(&self, id: ProcessId) -> impl Iterator<Item = ProcessId> + '_ {
        let others = self.peers.iter().filter(move |(other, _)| **other != id);
        others.filter(|(_, peer)| peer.gone.is_none()).map(|(other, _)| *other)
    }

    /// Whether `other` finds that `id` is gone, too.
    fn agrees(&self, now: Instant, other: ProcessId, id: ProcessId) -> bool {
        let Some((at, report)) = self.peers.get(&other).and_then(|peer| peer.report.as_ref()) else { return false };
        let fresh = now.saturating_duration_since(*at) < OPINION_HOLDS;
        fresh && report.opinions.iter().any(|(of, condition)| *of == id && condition.is_gone())
    }

    fn ask_soon(&mut self, now: Instant, id: ProcessId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let heard = peer.liveness.last_heard().unwrap_or(now);
            peer.ask_at = peer.ask_at.min((heard + RETRY).max(now));
        }
    }

    fn ask(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for peer in self.peers.values_mut().filter(|peer| !peer.asking && peer.ask_at <= now) {
            peer.asking = true;
            peer.liveness.asked(now);
            actions.push(Action::Ask(Arc::clone(&peer.instance)));
        }
    }
}

/// Time between two questions to the same peer, in a group of so many members.
pub fn interval(members: usize) -> Duration {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    let of_few = INTERVAL_PER_MEMBER_OF_FEW.saturating_mul(members).clamp(INTERVALS.0, INTERVALS.1);
    of_few.max(INTERVAL_PER_MEMBER.saturating_mul(members))
}
