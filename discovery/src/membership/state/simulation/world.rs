//! Processes, a coordinator, and a network that loses, delays and reorders: a discrete simulation.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_types::{Endpoint, InstanceInfo, ProcessId, SubtopologySpec, TaskId};
use uuid::Uuid;

use super::{
    super::{Action, Event, Machine, Refusal, Settings, Ticket},
    broker::{Answer, Broker, Call, Request},
    chance::Chance,
    process::Process,
};
use crate::assignor::AssignorSettings;

const SESSION: Duration = Duration::from_secs(6);
const REBALANCE: Duration = Duration::from_secs(8);
const HEARTBEAT: Duration = Duration::from_millis(1500);
/// How often engines commit, and copies catch up.
const COMMIT: Duration = Duration::from_secs(1);

/// What a schedule is like.
#[derive(Clone, Debug)]
pub(super) struct Climate {
    /// Of 100 requests, and of 100 answers, this many are lost.
    pub(super) loss: u64,
    /// The longest way of a message, in milliseconds.
    pub(super) latency: u64,
    pub(super) standbys: usize,
    pub(super) follows: bool,
}

/// What happens at a time.
#[derive(Debug)]
enum Happening {
    Tick { process: usize, incarnation: u32 },
    Work { process: usize, incarnation: u32 },
    Commit { process: usize, incarnation: u32 },
    Said { process: usize, incarnation: u32, event: Event },
    Arrives { call: Call, request: Request },
    Answered { call: Call, answer: Answer },
    GivenUp { call: Call },
    Broker,
}

pub(super) struct World {
    pub(super) now: Instant,
    start: Instant,
    pub(super) broker: Broker,
    pub(super) processes: Vec<Process>,
    pub(super) climate: Climate,
    pub(super) chance: Chance,
    /// Where the changelogs end, of all tasks that any topology keeps state in.
    pub(super) ends: BTreeMap<TaskId, u64>,
    /// What processes can run that are started from now on.
    pub(super) specs: Vec<SubtopologySpec>,
    /// What is to happen, in order; at one time, in the order of asking.
    queue: BTreeMap<(Instant, u64), Happening>,
    broker_at: Option<Instant>,
    /// What the answer to a call is for; commits and departures are for nobody.
    waiting: BTreeMap<Call, Waiting>,
    numbers: u64,
    /// What happened, for when it went wrong.
    pub(super) story: Vec<String>,
    pub(super) steps: usize,
}

#[derive(Clone, Copy, Debug)]
enum Waiting {
    Find,
    Join(Ticket),
    Sync(Ticket),
    Heartbeat(Ticket),
}

impl World {
    pub(super) fn new(seed: u64, climate: Climate) -> Self {
        let start = Instant::now();
        let spec = |id: u32, stores: &[&str], partitions| SubtopologySpec {
            id,
            fingerprint: format!("f{id}"),
            source_topics: vec![format!("items-{id}").into()],
            stores: stores.iter().map(|store| (*store).into()).collect(),
            partitions,
        };
        let specs = vec![spec(0, &["stock"], 6), spec(1, &[], 3)];
        Self {
            now: start,
            start,
            broker: Broker::new(SESSION, REBALANCE),
            processes: Vec::new(),
            climate,
            chance: Chance::new(seed),
            ends: (0..2).flat_map(|id| (0..6).map(move |partition| (TaskId::new(id, partition), 100_000))).collect(),
            specs,
            queue: BTreeMap::new(),
            broker_at: None,
            waiting: BTreeMap::new(),
            numbers: 0,
            story: Vec::new(),
            steps: 0,
        }
    }

    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        let at = self.now - self.start;
        self.story.push(format!("{at:>10.3?} {}", line()));
    }

    fn at(&mut self, time: Instant, happening: Happening) {
        self.numbers += 1;
        self.queue.insert((time, self.numbers), happening);
    }

    /// Starts a process that was never there or is down.
    pub(super) fn start(&mut self, process: usize) {
        if process == self.processes.len() {
            self.processes.push(Process::new());
        }
        let settings = self.settings(process);
        let machine = Machine::new(settings, self.now);
        self.processes[process].start(machine, self.specs.clone());
        let incarnation = self.processes[process].incarnation;
        self.tell(|| format!("p{process} starts"));
        self.at(self.now, Happening::Tick { process, incarnation });
        self.at(self.now + COMMIT, Happening::Commit { process, incarnation });
    }

    fn settings(&self, process: usize) -> Settings {
        let instance = InstanceInfo {
            process_id: ProcessId(Uuid::from_u128(process as u128 + 1)),
            endpoint: Endpoint::new("h", 1),
            peer_endpoint: Endpoint::new("h", 2),
            threads: 1,
            tags: BTreeMap::new(),
            transactional_ids: Vec::new(),
        };
        let assignor = AssignorSettings {
            num_standby_replicas: self.climate.standbys,
            probing_rebalance_interval: Duration::from_secs(20),
            ..AssignorSettings::default()
        };
        Settings {
            group_id: "group".into(),
            instance,
            subtopologies: self.specs.clone(),
            session_timeout: SESSION,
            heartbeat_interval: HEARTBEAT,
            assignor,
            follows: self.climate.follows,
            backoff: (Duration::from_millis(100), Duration::from_secs(2)),
        }
    }

    pub(super) fn kill(&mut self, process: usize) {
        self.tell(|| format!("p{process} is killed"));
        self.processes[process].kill();
    }

    pub(super) fn pause(&mut self, process: usize, time: Duration) {
        self.tell(|| format!("p{process} stands still for {time:?}"));
        self.processes[process].paused_until = Some(self.now + time);
    }

    /// The process stops in an orderly way; with a rebalance that moves its tasks away before, or without.
    pub(super) fn stop(&mut self, process: usize, drain: bool) {
        self.tell(|| format!("p{process} stops, drains first: {drain}"));
        if drain {
            self.processes[process].leaving = true;
            self.event(process, Event::Drain);
        } else {
            self.leave(process);
        }
    }

    fn leave(&mut self, process: usize) {
        self.tell(|| format!("p{process} leaves"));
        self.processes[process].running.clear();
        self.event(process, Event::Leave);
        self.processes[process].kill();
    }

    pub(super) fn move_coordinator(&mut self, time: Duration) {
        self.tell(|| format!("the coordinator is away for {time:?}"));
        let answers = self.broker.move_away(self.now, self.now + time);
        self.answer(answers);
    }

    /// The process gets bytes of a future build, say, in the next generation.
    pub(super) fn garble(&mut self, process: usize) {
        self.tell(|| format!("p{process} will not read what it is assigned next"));
        self.processes[process].garbled = true;
    }

    /// User code of the process does not come back for a time.
    pub(super) fn hold(&mut self, process: usize, time: Duration) {
        self.tell(|| format!("p{process}: user code holds a thread for {time:?}"));
        self.processes[process].stuck_until = Some(self.now + time);
    }

    pub(super) fn rejoin(&mut self, process: usize) {
        self.event(process, Event::Rejoin { reason: "somebody asked".to_owned() });
    }

    /// Runs for a time; checks at each step what must always hold.
    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(first) = self.queue.first_entry().filter(|first| first.key().0 <= until) {
            let ((at, _), happening) = first.remove_entry();
            self.now = self.now.max(at);
            self.happen(happening);
            self.steps += 1;
            self.check();
        }
        self.now = until;
    }

    fn happen(&mut self, happening: Happening) {
        let paused = match &happening {
            Happening::Tick { process, .. }
            | Happening::Work { process, .. }
            | Happening::Commit { process, .. }
            | Happening::Said { process, .. } => self.processes[*process].paused_until,
            Happening::Answered { call, .. } | Happening::GivenUp { call } => self.processes[call.process].paused_until,
            Happening::Arrives { .. } | Happening::Broker => None,
        };
        if let Some(until) = paused.filter(|until| *until > self.now) {
            return self.at(until, happening);
        }
        match happening {
            Happening::Tick { process, incarnation } if self.lives(process, incarnation) => {
                self.processes[process].tick_at = None;
                self.event(process, Event::Tick);
            }
            Happening::Work { process, incarnation } if self.lives(process, incarnation) => self.work(process),
            Happening::Commit { process, incarnation } if self.lives(process, incarnation) => self.commit(process),
            Happening::Said { process, incarnation, event } if self.lives(process, incarnation) => {
                self.said(process, event);
            }
            Happening::Tick { .. } | Happening::Work { .. } | Happening::Commit { .. } | Happening::Said { .. } => {}
            Happening::Arrives { call, request } => {
                // The first thing that a restarted process does is to remove its own dead member.
                let mut answers = match &request {
                    Request::Find if self.lives(call.process, call.incarnation) && self.broker.away_until.is_none() => {
                        self.predecessors(call.process)
                    }
                    _ => Vec::new(),
                };
                answers.extend(self.broker.handle(self.now, call, request));
                self.answer(answers);
            }
            Happening::Answered { call, answer } => self.answered(call, answer),
            Happening::GivenUp { call } => self.given_up(call),
            Happening::Broker => {
                self.broker_at = None;
                let answers = self.broker.tick(self.now);
                self.answer(answers);
            }
        }
    }

    fn predecessors(&mut self, process: usize) -> Vec<(Call, Answer)> {
        let fresh = self.processes[process].machine.as_ref().is_some_and(|machine| machine.member_id.is_empty());
        if fresh { self.broker.remove_predecessors(self.now, process) } else { Vec::new() }
    }

    fn lives(&self, process: usize, incarnation: u32) -> bool {
        self.processes[process].is_up() && self.processes[process].incarnation == incarnation
    }

    fn event(&mut self, process: usize, event: Event) {
        let now = self.now;
        let Some(machine) = self.processes[process].machine.as_mut() else { return };
        let actions = machine.handle(now, event);
        let next = machine.next_tick();
        let incarnation = self.processes[process].incarnation;
        for action in actions {
            match action {
                Action::Emit(event) => {
                    self.tell(|| format!("p{process} is told {}", short(&event)));
                    self.processes[process].told(event);
                }
                action => self.act(process, action),
            }
        }
        let next = next.map(|next| next.max(now));
        if let Some(next) = next
            && self.processes[process].tick_at.is_none_or(|at| next < at)
        {
            self.processes[process].tick_at = Some(next);
            self.at(next, Happening::Tick { process, incarnation });
        }
        if let Some(due) = self.processes[process].work_due(now) {
            let late = Duration::from_millis(self.chance.between(0, 20));
            self.at(due + late, Happening::Work { process, incarnation });
        }
    }

    fn act(&mut self, process: usize, action: Action) {
        let (waiting, request, patience) = match action {
            Action::FindCoordinator => (Some(Waiting::Find), Request::Find, Duration::from_secs(1)),
            Action::Join { ticket, member_id, subscription, reason } => {
                self.tell(|| format!("p{process} {member_id} joins: {reason}"));
                (Some(Waiting::Join(ticket)), Request::Join { member_id, subscription }, REBALANCE + SESSION)
            }
            Action::Sync { ticket, generation, member_id, assignments } => {
                let request = Request::Sync { member_id, generation, assignments };
                (Some(Waiting::Sync(ticket)), request, REBALANCE + SESSION)
            }
            Action::Heartbeat { ticket, generation, member_id } => {
                (Some(Waiting::Heartbeat(ticket)), Request::Heartbeat { member_id, generation }, SESSION / 3)
            }
            Action::Leave { member_id } => (None, Request::Leave { member_id }, Duration::ZERO),
            Action::Emit(_) => return,
        };
        self.send(process, waiting, request, patience);
    }

    fn send(&mut self, process: usize, waiting: Option<Waiting>, request: Request, patience: Duration) {
        self.numbers += 1;
        let call = Call { process, incarnation: self.processes[process].incarnation, number: self.numbers };
        if let Some(waiting) = waiting {
            self.waiting.insert(call, waiting);
            self.at(self.now + patience, Happening::GivenUp { call });
        }
        if !self.chance.percent(self.climate.loss) {
            let way = self.way();
            self.at(self.now + way, Happening::Arrives { call, request });
        }
    }

    fn way(&mut self) -> Duration {
        Duration::from_millis(self.chance.between(0, self.climate.latency))
    }

    fn answer(&mut self, answers: Vec<(Call, Answer)>) {
        for (call, answer) in answers {
            if !self.chance.percent(self.climate.loss) {
                let way = self.way();
                self.at(self.now + way, Happening::Answered { call, answer });
            }
        }
        let deadline = self.broker.next_deadline().map(|at| at.max(self.now));
        if let Some(at) = deadline
            && self.broker_at.is_none_or(|earlier| at < earlier)
        {
            self.broker_at = Some(at);
            self.at(at, Happening::Broker);
        }
    }

    /// An answer counts even when the caller has given up: the machine has to tell.
    fn answered(&mut self, call: Call, answer: Answer) {
        if !self.lives(call.process, call.incarnation) {
            return;
        }
        let Some(waiting) = self.waiting.get(&call).copied() else { return };
        let event = match (waiting, answer) {
            (Waiting::Find, Answer::Found(true)) => Event::CoordinatorFound,
            (Waiting::Find, _) => Event::CoordinatorMissing { reason: "it moves".to_owned() },
            (Waiting::Join(ticket), Answer::Joined(answer)) => Event::Joined { ticket, answer },
            (Waiting::Sync(ticket), Answer::Synced(answer)) => {
                let garbled = answer.is_ok() && std::mem::take(&mut self.processes[call.process].garbled);
                Event::Synced { ticket, answer: if garbled { Ok(Bytes::from_static(&[0])) } else { answer } }
            }
            (Waiting::Heartbeat(ticket), Answer::Heartbeat(answer)) => Event::HeartbeatAnswered { ticket, answer },
            _ => return,
        };
        if matches!(waiting, Waiting::Find) {
            self.waiting.remove(&call);
        }
        self.event(call.process, event);
    }

    fn given_up(&mut self, call: Call) {
        let Some(waiting) = self.waiting.get(&call).copied() else { return };
        if !self.lives(call.process, call.incarnation) {
            return;
        }
        let broken = || Refusal::Broken("no answer".to_owned());
        let event = match waiting {
            Waiting::Find => {
                self.waiting.remove(&call);
                Event::CoordinatorMissing { reason: "no answer".to_owned() }
            }
            Waiting::Join(ticket) => Event::Joined { ticket, answer: Err(broken()) },
            Waiting::Sync(ticket) => Event::Synced { ticket, answer: Err(broken()) },
            Waiting::Heartbeat(ticket) => Event::HeartbeatAnswered { ticket, answer: Err(broken()) },
        };
        self.event(call.process, event);
    }

    fn work(&mut self, process: usize) {
        let now = self.now;
        let events = self.processes[process].work(now, &mut self.chance);
        if events.is_empty()
            && let Some(due) = self.processes[process].work_due(now)
        {
            let incarnation = self.processes[process].incarnation;
            self.at(due, Happening::Work { process, incarnation });
        }
        for event in events {
            self.event(process, event);
        }
    }

    /// The engine tells the membership something that it may have overtaken meanwhile.
    fn said(&mut self, process: usize, event: Event) {
        self.tell(|| format!("p{process} says {event:?}"));
        if let Event::Surrendered { .. } = &event {
            self.processes[process].given_up = self.processes[process].machine.as_ref().map(|machine| machine.tenure);
        }
        self.event(process, event);
    }

    /// The engine's regular work: to commit what it processed, and to follow.
    fn commit(&mut self, process: usize) {
        if self.processes[process].leaving && self.processes[process].running.is_empty() {
            return self.leave(process);
        }
        let incarnation = self.processes[process].incarnation;
        self.at(self.now + COMMIT, Happening::Commit { process, incarnation });
        let metadata = self.processes[process].machine.as_ref().and_then(Machine::metadata);
        if let Some(metadata) = metadata {
            let tasks = self.processes[process].process(&mut self.ends);
            let (member_id, generation) = (metadata.member_id, metadata.generation);
            self.send(process, None, Request::Commit { member_id, generation, tasks }, Duration::ZERO);
        }
        let present = self.processes[process].machine.as_ref().and_then(Machine::metadata).map(|group| group.tenure);
        if let Some(event) = self.processes[process].look_after(self.now, present) {
            let late = Duration::from_millis(self.chance.between(0, 20));
            self.at(self.now + late, Happening::Said { process, incarnation, event });
        }
        let events = self.processes[process].catch_up(&self.ends, COMMIT);
        for event in events {
            self.event(process, event);
        }
    }

    /// No topic and no store is worked on by two whom the broker would let commit. What was given up may be held on to, so it is
    /// never committed again, and nothing is given to who holds on to it.
    fn check(&self) {
        for (index, process) in self.processes.iter().enumerate() {
            let Some(machine) = &process.machine else { continue };
            let present = machine.metadata().map(|group| group.tenure);
            assert!(present.is_none_or(|present| Some(present) > process.given_up), "p{index} commits what it gave up");
            let idle = machine.ownership.claimed().is_empty();
            assert!(idle || !machine.surrendered, "p{index} is given tasks while it holds on to others");
        }
        let mut worked_on: BTreeMap<(&str, i32), usize> = BTreeMap::new();
        for (index, process) in self.processes.iter().enumerate() {
            let Some(metadata) = process.machine.as_ref().and_then(Machine::metadata) else { continue };
            if !self.broker.accepts(&metadata.member_id, metadata.generation) {
                continue;
            }
            for task in &process.running {
                let Some(spec) = process.specs.iter().find(|spec| spec.id == task.subtopology) else { continue };
                let stores = spec.stores.iter().map(|store| store.as_str());
                for name in stores.chain(spec.source_topics.iter().map(|topic| &**topic)) {
                    if let Some(other) = worked_on.insert((name, task.partition), index) {
                        panic!("{name} of {task} is worked on by p{other} and p{index}");
                    }
                }
            }
        }
    }
}

fn short(event: &crate::GroupEvent) -> String {
    use crate::GroupEvent::{Assigned, Lost, Recovered, Waiting};
    let list = |tasks: &[TaskId]| tasks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    match event {
        Assigned(it) => {
            let (active, standby, warmup) = (list(&it.active), list(&it.standby), list(&it.warmup));
            format!("generation {}: active {active} | standby {standby} | warm-up {warmup}", it.generation)
        }
        Lost { reason } => format!("it is lost: {reason}"),
        Waiting { reason } => format!("it waits: {reason}"),
        Recovered => "it recovered".to_owned(),
    }
}
