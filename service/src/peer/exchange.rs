//! The loop that asks peers how they are, tells the router, and carries evictions out. Runs where no query can hold it up.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_discovery::{
    Eviction,
    peers::{Action, Condition, Event, Failure, PeerReport, Peers, Settings},
};
use holdfast_proto::holdfast::v1 as pb;
use holdfast_types::{GroupError, InstanceInfo, ProcessId, Role};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tonic::Code;
use tracing::{info, warn};

use super::{
    client::{PeerClient, Refused},
    convert,
    report::{Findings, Reporter},
};
use crate::{query::StoreView, telemetry::names};

/// Longest time for a report to be answered.
const ANSWER: Duration = Duration::from_secs(1);
/// Longest time for an eviction, of which the removal is the shorter part.
const EVICTION: Duration = Duration::from_secs(5);
/// Reports and assignments that wait for the loop; more are dropped, because the next ones follow in a moment.
const WAITING: usize = 1024;

/// Where reports of peers, and assignments, go in.
#[derive(Clone, Debug)]
pub(crate) struct Inbox(mpsc::Sender<Event>);

impl Inbox {
    /// A peer told of itself.
    pub(super) fn heard(&self, report: PeerReport) {
        // A full queue has newer reports coming.
        let _ = self.0.try_send(Event::Heard(report));
    }

    /// A generation began. May block for a moment; not for async threads.
    pub(crate) fn members(&self, generation: i32, members: Vec<Arc<InstanceInfo>>) {
        // The loop ends only with the process.
        let _ = self.0.blocking_send(Event::Members { generation, members });
    }
}

/// What the loop works with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) client: Arc<PeerClient>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) view: Arc<dyn StoreView>,
}

/// The loop, before it runs.
#[derive(Debug)]
pub(crate) struct Exchange {
    inbox: Inbox,
    events: mpsc::Receiver<Event>,
}

/// What a task of the loop brings back: what happened, and what an operator has to know about the peer.
type Done = (Event, Option<(ProcessId, String)>);

impl Exchange {
    /// A loop whose inbox can be handed out before it runs.
    pub(crate) fn new() -> Self {
        let (sender, events) = mpsc::channel(WAITING);
        Self { inbox: Inbox(sender), events }
    }

    /// Where events go in.
    pub(crate) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Runs until the runtime ends.
    pub(crate) fn start(self, runtime: &Handle, parts: Parts) {
        let machine = Peers::new(parts.settings, Instant::now());
        let running = Running { parts, machine, tasks: JoinSet::new(), told: HashSet::new(), gone: HashSet::new() };
        runtime.spawn(running.run(self.events));
    }
}

struct Running {
    parts: Parts,
    machine: Peers,
    tasks: JoinSet<Done>,
    /// Peers that answer something else than reports, which was said.
    told: HashSet<ProcessId>,
    /// Peers that are held to be gone, which was said.
    gone: HashSet<ProcessId>,
}

impl Running {
    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        loop {
            let tick = self.machine.next_tick();
            let event = tokio::select! {
                event = events.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
                Some(done) = self.tasks.join_next() => match done {
                    Ok((event, problem)) => {
                        self.tell_problem(problem);
                        event
                    }
                    Err(error) => {
                        warn!(%error, "an exchange with a peer failed in an unexpected way");
                        continue;
                    }
                },
                () = sleep_until(tick.into()) => Event::Tick,
            };
            self.step(event);
        }
    }

    fn step(&mut self, event: Event) {
        let now = Instant::now();
        if let Event::Heard(report) | Event::Answered { report: Some(report), .. } = &event {
            self.parts.client.heard(report.process_id);
            self.told.remove(&report.process_id);
            for task in report.tasks.iter().filter(|task| task.role == Role::Active) {
                self.parts.view.learn(task.id, &task.position, &task.changelog);
            }
        }
        let generation_began = matches!(event, Event::Members { .. });
        let actions = self.machine.handle(now, event);
        let findings = Findings { opinions: self.machine.opinions(now), evicted: self.machine.evicted(now) };
        self.tell(&findings.opinions);
        self.parts.reporter.set_findings(findings);
        let view = self.machine.view(now);
        metrics::gauge!(names::PEERS).set(view.iter().count() as f64);
        metrics::gauge!(names::PEERS_ALIVE).set(view.alive() as f64);
        if generation_began {
            self.parts.client.keep_only(&view);
        }
        self.parts.client.publish(view);
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Ask(peer) => {
                let (client, report) = (Arc::clone(&self.parts.client), self.parts.reporter.message());
                let application_id = self.parts.reporter.application_id().to_owned();
                self.tasks.spawn(async move {
                    let exchange = timeout(ANSWER, client.exchange(&peer, report)).await;
                    answered(&peer, exchange.unwrap_or(Err(Refused::Failed(Failure::Silent))), &application_id)
                });
            }
            Action::Evict { peer, member_id, condition } => {
                let (view, fence) = (Arc::clone(&self.parts.view), self.parts.settings.exactly_once);
                self.tasks.spawn(async move {
                    let started = Instant::now();
                    let outcome = match view.group() {
                        Some(group) => group.evict(&peer, member_id.as_deref(), fence, EVICTION).await,
                        None => Err(GroupError::NotAMember),
                    };
                    tell_eviction(&peer, condition, &outcome, started);
                    (Event::Evicted { peer: peer.process_id, done: outcome.is_ok() }, None)
                });
            }
            Action::Confirm => self.parts.view.request_confirmation(),
        }
    }

    /// Says once that a peer answers, and not with what is asked for.
    fn tell_problem(&mut self, problem: Option<(ProcessId, String)>) {
        if let Some((peer, problem)) = problem
            && self.told.insert(peer)
        {
            warn!(%peer, problem, "a member of the group cannot be asked: its rows are not reached from here");
        }
    }

    /// Says once who is gone, and once who is back.
    fn tell(&mut self, opinions: &[(ProcessId, Condition)]) {
        let gone: HashSet<ProcessId> =
            opinions.iter().filter(|(_, condition)| condition.is_gone()).map(|(id, _)| *id).collect();
        for (peer, condition) in opinions.iter().filter(|(id, _)| gone.contains(id) && !self.gone.contains(id)) {
            let found = match condition {
                Condition::Refused => "nobody listens at its address",
                _ => "it does not answer",
            };
            warn!(%peer, found, "a member of the group seems to be gone; the others are asked whether they find the same");
        }
        for peer in self.gone.difference(&gone) {
            info!(%peer, "a member that seemed to be gone is not one any more, or answers again");
        }
        self.gone = gone;
    }
}

/// What an exchange means.
fn answered(peer: &InstanceInfo, exchange: Result<pb::PeerReport, Refused>, application_id: &str) -> Done {
    let id = peer.process_id;
    let refused = Event::Failed { peer: id, failure: Failure::Refused };
    match exchange {
        Ok(message) => match convert::report_from(message, application_id) {
            Some(report) if report.process_id == id => (Event::Answered { peer: id, report: Some(report) }, None),
            // Another process has taken the address over: the member's is gone.
            Some(_) | None => (refused, None),
        },
        Err(Refused::Answered(status)) if status.code() == Code::FailedPrecondition => (refused, None),
        Err(Refused::Answered(status)) => {
            let problem = format!("{} answers: {}", peer.peer_endpoint, status.message());
            (Event::Answered { peer: id, report: None }, Some((id, problem)))
        }
        Err(Refused::Failed(failure)) => (Event::Failed { peer: id, failure }, None),
    }
}

fn tell_eviction(peer: &InstanceInfo, condition: Condition, outcome: &Result<Eviction, GroupError>, started: Instant) {
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (process, endpoint) = (peer.process_id, &peer.endpoint);
    let label = match outcome {
        Ok(Eviction::Removed) => {
            warn!(
                peer = %process, %endpoint, condition = condition.as_str(), took_ms,
                "evicted a member whose process is gone; its transactions are ended, its tasks move"
            );
            "removed"
        }
        Ok(Eviction::AlreadyGone) => {
            info!(peer = %process, %endpoint, took_ms, "a member whose process is gone was out of the group already");
            "already_gone"
        }
        Ok(Eviction::CameBack) => {
            info!(peer = %process, %endpoint, took_ms, "a process that was gone is back in a new life");
            "came_back"
        }
        Err(error) => {
            warn!(peer = %process, %endpoint, %error, "a member whose process is gone could not be evicted; trying again, its session ends otherwise");
            "failed"
        }
    };
    metrics::counter!(names::EVICTIONS, "outcome" => label).increment(1);
}
