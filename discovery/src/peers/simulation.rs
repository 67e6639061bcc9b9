//! Several machines on a network that tests break: processes are killed and paused, links are cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_types::{Endpoint, InstanceInfo, ProcessId};
use uuid::Uuid;

use super::{Action, Event, Failure, PeerReport, Peers, Settings};

pub(super) const TIMEOUT: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(10);
/// From the removal of a member to the next generation.
const REBALANCE: Duration = Duration::from_millis(80);
const QUESTION: Duration = Duration::from_secs(1);

pub(super) fn instance(number: usize) -> Arc<InstanceInfo> {
    let port = 7000 + 2 * u16::try_from(number).unwrap();
    Arc::new(InstanceInfo {
        process_id: ProcessId(Uuid::from_u128(number as u128 + 1)),
        endpoint: Endpoint::new("127.0.0.1", port),
        peer_endpoint: Endpoint::new("127.0.0.1", port + 1),
        threads: 1,
        tags: BTreeMap::new(),
        transactional_ids: vec![format!("tx-{number}")],
    })
}

pub(super) fn report(number: usize, generation: i32) -> PeerReport {
    PeerReport {
        process_id: instance(number).process_id,
        incarnation: 1,
        member_id: Some(format!("member-{number}").into()),
        generation,
        leaving: false,
        transactional_ids: Vec::new(),
        tasks: Vec::new(),
        opinions: Vec::new(),
        evicted: Vec::new(),
    }
}

/// What happens later, and to whom.
#[derive(Debug)]
enum Later {
    Question { from: usize, to: usize },
    Event(usize, Event),
    Remove { by: usize, peer: usize },
    Generation,
}

/// The world: which process runs, which link works, who is a member.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    begun: Instant,
    machines: Vec<Peers>,
    generation: i32,
    members: Vec<usize>,
    pub(super) dead: BTreeSet<usize>,
    paused: BTreeMap<usize, Instant>,
    cut: BTreeSet<(usize, usize)>,
    /// Nobody is at the address that it advertises.
    pub(super) wrong_addresses: bool,
    later: Vec<(Instant, Later)>,
    /// Who evicted whom, and when.
    pub(super) evictions: Vec<(usize, usize, Duration)>,
}

impl World {
    /// Members that have heard of each other.
    pub(super) fn new(count: usize, exactly_once: bool) -> Self {
        let mut world = Self::begin(count, exactly_once);
        world.run(Duration::from_secs(2));
        world
    }

    /// Members that have just joined.
    pub(super) fn begin(count: usize, exactly_once: bool) -> Self {
        let now = Instant::now();
        let settings =
            |number: usize| Settings { me: instance(number).process_id, peer_timeout: TIMEOUT, exactly_once };
        Self {
            now,
            begun: now,
            machines: (0..count).map(|number| Peers::new(settings(number), now)).collect(),
            generation: 0,
            members: (0..count).collect(),
            dead: BTreeSet::new(),
            paused: BTreeMap::new(),
            cut: BTreeSet::new(),
            wrong_addresses: false,
            later: vec![(now, Later::Generation)],
            evictions: Vec::new(),
        }
    }

    pub(super) fn kill(&mut self, number: usize) {
        self.dead.insert(number);
    }

    pub(super) fn pause(&mut self, number: usize, time: Duration) {
        self.paused.insert(number, self.now + time);
    }

    /// Whatever one of the two sends the other is lost, silently.
    pub(super) fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    pub(super) fn mend(&mut self) {
        self.cut.clear();
    }

    pub(super) fn evicted(&self) -> BTreeSet<usize> {
        self.evictions.iter().map(|(_, peer, _)| *peer).collect()
    }

    pub(super) fn machine(&self, number: usize) -> &Peers {
        &self.machines[number]
    }

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += STEP;
            self.paused.retain(|_, until| *until > self.now);
            let now = self.now;
            let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= now);
            self.later = later;
            let due: Vec<(Instant, Later)> = due;
            for (at, later) in due {
                self.happen(at, later);
            }
            for number in 0..self.machines.len() {
                if self.runs(number) && self.machines[number].next_tick() <= now {
                    self.step(number, Event::Tick);
                }
            }
        }
    }

    fn runs(&self, number: usize) -> bool {
        !self.dead.contains(&number) && !self.paused.contains_key(&number)
    }

    fn happen(&mut self, at: Instant, later: Later) {
        match later {
            Later::Question { from, to } => self.question(at, from, to),
            Later::Event(to, event) if self.runs(to) => self.step(to, event),
            // It reads what came when it goes on.
            Later::Event(to, event) if !self.dead.contains(&to) => self.later.push((at, Later::Event(to, event))),
            Later::Event(..) => {}
            Later::Remove { by, peer } => {
                self.evictions.push((by, peer, self.now - self.begun));
                self.members.retain(|member| *member != peer);
                self.later.push((self.now + REBALANCE, Later::Generation));
                let event = Event::Evicted { peer: instance(peer).process_id, done: true };
                self.later.push((self.now, Later::Event(by, event)));
                // It learns that it was evicted, and joins again.
                if !self.dead.contains(&peer) {
                    self.members.push(peer);
                    self.members.sort_unstable();
                    self.later.push((self.now + 3 * REBALANCE, Later::Generation));
                }
            }
            Later::Generation => {
                self.generation += 1;
                let members: Vec<_> = self.members.iter().map(|member| instance(*member)).collect();
                for to in self.members.clone() {
                    let event = Event::Members { generation: self.generation, members: members.clone() };
                    self.later.push((self.now, Later::Event(to, event)));
                }
            }
        }
    }

    fn question(&mut self, sent: Instant, from: usize, to: usize) {
        let peer = instance(to).process_id;
        let silent = self.cut.contains(&(from.min(to), from.max(to)));
        if (self.dead.contains(&to) || self.wrong_addresses) && !silent {
            let event = Event::Failed { peer, failure: Failure::Refused };
            self.later.push((self.now, Later::Event(from, event)));
        } else if silent || !self.runs(to) {
            if self.now >= sent + QUESTION {
                let event = Event::Failed { peer, failure: Failure::Silent };
                self.later.push((self.now, Later::Event(from, event)));
            } else {
                self.later.push((sent, Later::Question { from, to }));
            }
        } else {
            let (asker, answerer) = (self.report(from), self.report(to));
            self.step(to, Event::Heard(asker));
            self.later.push((self.now, Later::Event(from, Event::Answered { peer, report: Some(answerer) })));
        }
    }

    fn report(&self, number: usize) -> PeerReport {
        let machine = &self.machines[number];
        PeerReport {
            opinions: machine.opinions(self.now),
            evicted: machine.evicted(self.now),
            ..report(number, self.generation)
        }
    }

    fn step(&mut self, number: usize, event: Event) {
        for action in self.machines[number].handle(self.now, event) {
            match action {
                Action::Ask(peer) => {
                    let to = usize::try_from(peer.process_id.0.as_u128() - 1).unwrap();
                    self.later.push((self.now, Later::Question { from: number, to }));
                }
                Action::Evict { peer, .. } => {
                    let peer = usize::try_from(peer.process_id.0.as_u128() - 1).unwrap();
                    self.later.push((self.now, Later::Remove { by: number, peer }));
                }
                Action::Confirm => {}
            }
        }
    }
}
