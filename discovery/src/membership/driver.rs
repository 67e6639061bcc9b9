//! Carries out what the state machine decides: timers, channels, tasks. No decisions here.

use std::{
    sync::{Arc, mpsc::SyncSender},
    time::{Duration, Instant},
};

use holdfast_types::GroupError;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::{
    events::Outbox,
    predecessor,
    session::{Published, Session, Shared},
    state::{Action, Event, Machine, Refusal, Settings},
    worker::{CoordinatorWorker, Dialer, JoinCall, JoinWorker, MemberCall},
};
use crate::{
    GroupConfig, GroupEvent,
    config::Resolved,
    metrics,
    wire::{
        address::BrokerAddress,
        cluster::{Cluster, Coordinated},
    },
};

/// Unread events are merged beyond this.
const EVENTS: usize = 16;
/// Calls of stream threads that wait; each thread has at most a few.
const OFFSET_CALLS: usize = 256;
/// Calls of the machine: one of each kind is out at a time.
const MEMBER_CALLS: usize = 8;
/// How long leaving may keep the driver after the caller has given up.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a join waits for offsets that are on their way: they usually take a few milliseconds.
const OFFSETS_PATIENCE: Duration = Duration::from_millis(100);

/// Starts the membership on `runtime`.
pub(crate) fn start(
    config: GroupConfig,
    resolved: Resolved,
    runtime: &Handle,
) -> (Session, mpsc::Receiver<GroupEvent>) {
    let Resolved { bootstrap, connector } = resolved;
    let settings = Settings::new(&config, connector.socket().backoff);
    let (group_id, written_topics) = (Arc::clone(&settings.group_id), config.written_topics.clone());
    let cluster = Arc::new(Cluster::new(bootstrap, connector.clone()));
    let shared = Arc::new(Shared::default());
    let (coordinator, watched) = watch::channel(None);
    let (answers_in, answers) = mpsc::channel(MEMBER_CALLS);
    let (events_in, events) = mpsc::channel(EVENTS);
    let (joins_in, joins) = mpsc::channel(MEMBER_CALLS);
    let (member_calls_in, member_calls) = mpsc::channel(MEMBER_CALLS);
    let (offset_calls_in, offset_calls) = mpsc::channel(OFFSET_CALLS);

    let join_worker = JoinWorker {
        dialer: Dialer::new(connector.clone(), watched.clone()),
        group_id: Arc::clone(&group_id),
        session_timeout: config.session_timeout,
        rebalance_timeout: config.rebalance_timeout,
        calls: joins,
        events: answers_in.clone(),
    };
    let coordinator_worker = CoordinatorWorker {
        dialer: Dialer::new(connector, watched),
        group_id: Arc::clone(&group_id),
        session_timeout: config.session_timeout,
        member_calls,
        offset_calls,
        events: answers_in.clone(),
    };
    let driver = Driver {
        machine: Machine::new(settings, Instant::now()),
        predecessor: Some(config.fence_on_start),
        config,
        cluster: Arc::clone(&cluster),
        shared: Arc::clone(&shared),
        coordinator,
        answers_in,
        joins: joins_in,
        member_calls: member_calls_in,
        outbox: Outbox::default(),
        events: events_in,
        search: JoinSet::new(),
        joining: None,
    };
    runtime.spawn(async move {
        // The workers end with the driver, in the middle of whatever they wait for.
        let mut workers = JoinSet::new();
        workers.spawn(join_worker.run());
        workers.spawn(coordinator_worker.run());
        driver.run(answers).await;
    });
    let runtime = runtime.clone();
    (Session { shared, calls: offset_calls_in, cluster, group_id, written_topics, runtime }, events)
}

/// What a search for the coordinator found.
type Found = Result<BrokerAddress, String>;

struct Driver {
    machine: Machine,
    config: GroupConfig,
    /// Set until a dead predecessor has been looked for: whether to fence.
    predecessor: Option<bool>,
    cluster: Arc<Cluster>,
    shared: Arc<Shared>,
    coordinator: watch::Sender<Option<BrokerAddress>>,
    answers_in: mpsc::Sender<Event>,
    joins: mpsc::Sender<JoinCall>,
    member_calls: mpsc::Sender<MemberCall>,
    outbox: Outbox,
    events: mpsc::Sender<GroupEvent>,
    search: JoinSet<Found>,
    /// When it was first asked to join, since the last assignment.
    joining: Option<Instant>,
}

/// What woke the driver.
enum Wake {
    Event(Event),
    Found(Found),
    Wished,
    Delivered,
}

impl Driver {
    async fn run(mut self, mut answers: mpsc::Receiver<Event>) {
        self.step(Event::Tick);
        loop {
            match self.wake(&mut answers).await {
                Wake::Event(event) => self.step(event),
                Wake::Found(Ok(address)) => {
                    tracing::debug!(coordinator = %address, "found the group coordinator");
                    self.predecessor = None;
                    self.coordinator.send_replace(Some(address));
                    self.step(Event::CoordinatorFound);
                }
                Wake::Found(Err(reason)) => self.step(Event::CoordinatorMissing { reason }),
                Wake::Delivered => {}
                Wake::Wished => {
                    let wishes = std::mem::take(&mut *self.shared.wishes.lock());
                    // Before what makes the member join: it tells the group when it does.
                    if let Some(copies) = wishes.copies {
                        self.step(Event::Reported { copies });
                    }
                    if wishes.drain {
                        self.step(Event::Drain);
                    }
                    if let Some((tenure, reason)) = wishes.surrender {
                        self.step(Event::Surrendered { tenure, reason });
                    }
                    if wishes.resume {
                        self.step(Event::Resumed);
                    }
                    if let Some((tenure, generation, kept)) = wishes.acknowledged {
                        self.step(Event::Acknowledged { tenure, generation, kept });
                    }
                    if let Some(reason) = wishes.caught_up {
                        self.step(Event::CaughtUp { reason });
                    }
                    if let Some(reason) = wishes.rejoin {
                        self.step(Event::Rejoin { reason });
                    }
                    if wishes.confirm {
                        self.step(Event::ConfirmationWanted);
                    }
                    if let Some(reply) = wishes.leave {
                        return self.leave(&reply).await;
                    }
                    if wishes.stop {
                        return;
                    }
                }
            }
        }
    }

    async fn wake(&mut self, answers: &mut mpsc::Receiver<Event>) -> Wake {
        let tick = self.machine.next_tick();
        tokio::select! {
            Some(event) = answers.recv() => Wake::Event(event),
            Some(found) = self.search.join_next() => {
                Wake::Found(found.unwrap_or_else(|error| Err(format!("the search for the coordinator failed: {error}"))))
            }
            () = self.shared.wished.notified() => Wake::Wished,
            () = sleep_until(tick.unwrap_or_else(Instant::now).into()), if tick.is_some() => Wake::Event(Event::Tick),
            permit = self.events.reserve(), if !self.outbox.is_empty() => match (permit, self.outbox.pop()) {
                (Ok(permit), Some(event)) => {
                    permit.send(event);
                    Wake::Delivered
                }
                // Nobody listens any more: whatever there was to tell is told.
                _ => Wake::Delivered,
            },
        }
    }

    fn step(&mut self, event: Event) {
        let now = Instant::now();
        let actions = self.machine.handle(now, event);
        // Published first: who reads an event finds the metadata that belongs to it.
        self.publish();
        for action in actions {
            self.act(action);
        }
    }

    fn publish(&self) {
        self.shared.gate.set_joining(self.machine.is_joining());
        let (metadata, confirmed) = (self.machine.metadata(), self.machine.confirmed());
        let current = self.shared.published.load();
        if current.metadata != metadata || current.confirmed != confirmed {
            let moved = current.confirmed != confirmed;
            self.shared.published.store(Arc::new(Published { metadata, confirmed }));
            if moved {
                self.shared.confirmed.notify_waiters();
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::FindCoordinator => self.search(),
            Action::Join { ticket, member_id, subscription, reason } => {
                self.joining.get_or_insert_with(Instant::now);
                let call = JoinCall::Join { ticket, member_id, subscription, reason };
                if !self.shared.gate.is_quiet() {
                    let (shared, joins) = (Arc::clone(&self.shared), self.joins.clone());
                    tokio::spawn(async move {
                        shared.gate.wait_quiet(OFFSETS_PATIENCE).await;
                        // Fails when the driver has ended, and then nobody joins any more.
                        let _ = joins.send(call).await;
                    });
                } else if self.joins.try_send(call).is_err() {
                    self.refuse(move |busy| Event::Joined { ticket, answer: Err(busy) });
                }
            }
            Action::Sync { ticket, generation, member_id, assignments } => {
                let call = JoinCall::Sync { ticket, generation, member_id, assignments };
                if self.joins.try_send(call).is_err() {
                    self.refuse(move |busy| Event::Synced { ticket, answer: Err(busy) });
                }
            }
            Action::Heartbeat { ticket, generation, member_id } => {
                let call = MemberCall::Heartbeat { ticket, generation, member_id };
                if self.member_calls.try_send(call).is_err() {
                    self.refuse(move |busy| Event::HeartbeatAnswered { ticket, answer: Err(busy) });
                }
            }
            // For a while; for good, `leave` does it. If nobody hears of it, the session's end tells.
            Action::Leave { member_id } => {
                let (done, _) = oneshot::channel();
                let _ = self.member_calls.try_send(MemberCall::Leave { member_id, done });
            }
            Action::Emit(event) => {
                match &event {
                    GroupEvent::Assigned(assignment) => {
                        let after = self.joining.take().map(|since| since.elapsed());
                        metrics::assigned(assignment.generation, assignment.members.len(), after);
                    }
                    GroupEvent::Lost { .. } => metrics::lost(),
                    GroupEvent::Waiting { .. } => metrics::waiting(true),
                    GroupEvent::Recovered => metrics::waiting(false),
                }
                self.outbox.push(event);
            }
        }
    }

    /// A connection's queue is full: it hangs in calls that time out. The machine takes it as no answer.
    fn refuse(&self, event: impl FnOnce(Refusal) -> Event) {
        let event = event(Refusal::Broken("earlier calls to the group coordinator are still waiting".to_owned()));
        let answers = self.answers_in.clone();
        tokio::spawn(async move {
            // Fails when the driver ends, and then nobody waits for it.
            let _ = answers.send(event).await;
        });
    }

    /// Looks for the coordinator, and the first time for a dead predecessor of this instance too.
    fn search(&mut self) {
        metrics::coordinator_searched();
        let cluster = Arc::clone(&self.cluster);
        let (config, predecessor) = (self.config.clone(), self.predecessor);
        self.search.spawn(async move {
            let address = cluster
                .find_coordinator(&config.group_id, Coordinated::Group)
                .await
                .map_err(|error| format!("no coordinator for group {}: {error}", config.group_id))?;
            if let Some(fence) = predecessor {
                predecessor::remove(&cluster, &address, &config, fence)
                    .await
                    .map_err(|error| format!("cannot look for a predecessor in group {}: {error}", config.group_id))?;
            }
            Ok(address)
        });
    }

    async fn leave(mut self, reply: &SyncSender<Result<(), GroupError>>) {
        let actions = self.machine.handle(Instant::now(), Event::Leave);
        self.publish();
        let leaving = actions.into_iter().find_map(|action| match action {
            Action::Leave { member_id } => Some(member_id),
            _ => None,
        });
        let outcome = match leaving {
            None => Ok(()),
            Some(member_id) => self.send_leave(member_id).await,
        };
        match &outcome {
            Ok(()) => tracing::info!(group = %self.config.group_id, "left the group"),
            Err(error) => {
                tracing::warn!(group = %self.config.group_id, %error, "could not leave the group; the session timeout ends it");
            }
        }
        // The caller has given up when nobody receives.
        let _ = reply.try_send(outcome);
    }

    async fn send_leave(&self, member_id: Arc<str>) -> Result<(), GroupError> {
        let (done, answer) = oneshot::channel();
        let call = MemberCall::Leave { member_id, done };
        let gone = || GroupError::Unavailable("the connection to the group coordinator is gone".to_owned());
        self.member_calls.try_send(call).map_err(|_| gone())?;
        match timeout(LEAVE_TIMEOUT, answer).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(refusal))) => Err(GroupError::Unavailable(refusal.to_string())),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(GroupError::TimedOut(LEAVE_TIMEOUT)),
        }
    }
}
