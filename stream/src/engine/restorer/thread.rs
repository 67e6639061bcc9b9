//! The restore thread: takes each task step by step from its directory to the end of its changelogs.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use holdfast_store::{AppliedBatch, CheckpointDelta, OpenError, StoreError, TaskStore};
use holdfast_types::{CommittedOffset, GroupError, Role, TaskId, TopicPartition};
use tracing::{info, warn};

use super::{
    Command, RestoreContext, RestoreError, RestoreEvent, RestoreJob,
    changelog::{ChangelogRestore, Outside, replay_batch},
    follow::Follows,
    handed::HandedStores,
    moved,
    pause::Pause,
};
use crate::{
    engine::{metrics, offset_metadata, status::RestoreStatus},
    kafka::{FetchConsumer, FetchError, StartOffset, Waker},
};

pub(super) struct RestoreThread {
    pub(super) context: RestoreContext,
    consumer: FetchConsumer,
    ends: FetchConsumer,
    events: Sender<RestoreEvent>,
    pub(super) waker: Arc<Waker>,
    restores: BTreeMap<TaskId, Restore>,
    pub(super) follows: Follows,
    handed: HandedStores,
}

/// A task under way.
struct Restore {
    job: RestoreJob,
    since: Instant,
    store: Option<Arc<TaskStore>>,
    offsets: Option<Vec<Option<i64>>>,
    changelogs: Option<Vec<ChangelogRestore>>,
    /// When the brokers were asked for the ends that it restores to.
    began: Instant,
    restored: u64,
    total: u64,
    reported: Instant,
    pause: Pause,
    /// Since when a transaction holds it back, as it seems.
    held_back: Option<Instant>,
    told_held_back: bool,
}

const STEP: Duration = Duration::from_secs(2);
const HELD_BACK_GRACE: Duration = Duration::from_secs(5);
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// For how long a restore has the thread without copies that begin. Most take-overs end well within it.
const UNDISTURBED: Duration = Duration::from_secs(1);
/// While restores make progress, copies that are followed get one turn in so many.
const FOLLOW_TURN: u64 = 8;

impl RestoreThread {
    /// `consumer` reads changelogs, committed records only; `ends` tells where they end.
    pub(super) fn new(
        context: RestoreContext,
        consumer: FetchConsumer,
        ends: FetchConsumer,
        events: Sender<RestoreEvent>,
        waker: Arc<Waker>,
    ) -> Self {
        Self {
            context,
            consumer,
            ends,
            events,
            waker,
            restores: BTreeMap::new(),
            follows: Follows::default(),
            handed: HandedStores::default(),
        }
    }

    pub(super) fn run(&mut self, commands: &Receiver<Command>) {
        self.waker.register();
        // Leaders and connections are known by the time that the first task wants them.
        self.consumer.warm_up(STEP);
        for turn in 0_u64.. {
            loop {
                match commands.try_recv() {
                    Ok(Command::Restore(job)) => {
                        let job = self.take_over(*job);
                        self.restores.insert(job.task, Restore::new(job));
                    }
                    Ok(Command::Follow(job)) => {
                        let job = self.take_over(*job);
                        self.follows.add(job);
                    }
                    Ok(Command::Cancel(task)) => drop(self.stop(task)),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.consumer.serve();
            let mut progressed = false;
            let tasks: Vec<TaskId> = self.restores.keys().copied().collect();
            for task in tasks {
                progressed |= self.advance(task);
            }
            self.follows.serve();
            self.follows.observe();
            if !progressed || turn.is_multiple_of(FOLLOW_TURN) {
                progressed |= self.follow_all(|| !commands.is_empty());
            }
            if !progressed {
                std::thread::park_timeout(Duration::from_millis(100));
            }
        }
    }

    /// Whether a task is about to be taken over: somebody waits for it.
    pub(super) fn is_taking_over(&self) -> bool {
        self.restores.values().any(|restore| restore.since.elapsed() < UNDISTURBED)
    }

    /// Ends what is done with the job's task so far. A store that it opened goes on: the one who sent the job may not have
    /// heard of it yet.
    fn take_over(&mut self, mut job: RestoreJob) -> RestoreJob {
        let open = self.stop(job.task);
        job.store = job.store.or(open).or_else(|| self.handed.get(job.task));
        job
    }

    /// Stops restoring or following a task; its store, if it is open.
    fn stop(&mut self, task: TaskId) -> Option<Arc<TaskStore>> {
        let followed = self.follows.stop(task);
        let Some(restore) = self.restores.remove(&task) else { return followed };
        for changelog in restore.changelogs.into_iter().flatten() {
            self.release(changelog);
        }
        restore.store.or(restore.job.store)
    }

    fn release(&self, changelog: ChangelogRestore) {
        if changelog.queue.is_some() {
            drop(changelog.queue);
            if let Err(error) = self.consumer.unassign(&changelog.partition) {
                warn!(partition = %changelog.partition, %error, "a changelog could not be released");
            }
        }
    }

    /// One step of one task; whether there was something to do.
    fn advance(&mut self, task: TaskId) -> bool {
        let Some(mut restore) = self.restores.remove(&task) else { return false };
        if restore.pause.holds() {
            self.restores.insert(task, restore);
            return false;
        }
        let step = self.step(&mut restore);
        self.watch_held_back(&mut restore);
        match step {
            Ok(Step::Progressed) => {
                restore.held_back = None;
                self.restores.insert(task, restore);
                true
            }
            Ok(Step::Idle) => {
                restore.held_back.get_or_insert_with(Instant::now);
                self.restores.insert(task, restore);
                false
            }
            Ok(Step::Wait(reason)) => {
                if restore.pause.begin(&reason) {
                    warn!(%task, reason, "restoring waits");
                    self.tell(RestoreEvent::Waiting { task, reason });
                }
                self.restores.insert(task, restore);
                false
            }
            Ok(Step::Done { store, offsets }) => {
                let took = restore.began.elapsed();
                metrics::restored(task, 0, 0);
                metrics::restore_took(took);
                info!(%task, records = restore.restored, took_ms = took.as_millis() as u64, "task restored");
                self.tell(RestoreEvent::Done { task, attempt: restore.job.attempt, store, offsets });
                true
            }
            Err(error) => {
                for changelog in restore.changelogs.into_iter().flatten() {
                    self.release(changelog);
                }
                self.tell(RestoreEvent::Failed { task, attempt: restore.job.attempt, error });
                true
            }
        }
    }

    /// No transaction lasts longer than its time-out: what holds a task back for longer was never ended by its coordinator.
    fn watch_held_back(&self, restore: &mut Restore) {
        let longest = self.context.config.transaction_timeout + HELD_BACK_GRACE;
        if restore.held_back.is_some_and(|since| since.elapsed() > longest) {
            let task = restore.job.task;
            if !std::mem::replace(&mut restore.told_held_back, true) {
                warn!(
                    %task,
                    "held back by a transaction for longer than any may last: the broker has lost its end; \
                     `kafka-transactions.sh find-hanging` shows it and `abort` ends it, this instance goes on by itself then"
                );
            }
        }
    }

    pub(super) fn tell(&self, event: RestoreEvent) {
        // The supervisor outlives this thread, except while everything stops.
        let _ = self.events.send(event);
    }

    fn step(&mut self, restore: &mut Restore) -> Result<Step, RestoreError> {
        let task = restore.job.task;
        let store = match self.opened(&mut restore.store, &mut restore.job)? {
            Ok(store) => store,
            Err(reason) => return Ok(Step::Wait(reason)),
        };
        if restore.offsets.is_none() {
            if self.context.open_transactions.any() {
                return Ok(Step::Wait("a transaction of this instance has no known end yet".to_owned()));
            }
            match self.context.group.fetch_offsets(&restore.job.inputs, STEP) {
                Ok(offsets) => {
                    take_stream_time(&store, &offsets)
                        .and_then(|()| moved::tell(task, &store, &restore.job.inputs, &offsets))
                        .map_err(|source| RestoreError::Store { task, source })?;
                    restore.offsets =
                        Some(offsets.into_iter().map(|offset| offset.map(|offset| offset.offset)).collect());
                }
                Err(source @ GroupError::Refused(_)) => return Err(RestoreError::Group { task, source }),
                Err(error @ GroupError::Unstable(_)) => {
                    restore.held_back.get_or_insert_with(Instant::now);
                    return Ok(Step::Wait(format!("committed offsets: {error}")));
                }
                Err(error) => return Ok(Step::Wait(format!("committed offsets: {error}"))),
            }
        }
        if restore.changelogs.is_none() {
            let asked_at = Instant::now();
            match self.plan(&restore.job, &store)? {
                Ok(plan) => {
                    let changelogs = self.begin(task, plan)?;
                    restore.total = changelogs.iter().map(ChangelogRestore::remaining).sum();
                    restore.began = asked_at;
                    if restore.total > 0 {
                        info!(%task, records = restore.total, "restoring from the changelog");
                    }
                    restore.changelogs = Some(changelogs);
                }
                Err(reason) => return Ok(Step::Wait(reason)),
            }
        }
        match store.check_room() {
            Ok(()) => {}
            Err(error) if error.is_passing() => return Ok(Step::Wait(error.to_string())),
            Err(source) => return Err(RestoreError::Store { task, source }),
        }
        restore.pause.end();
        self.replay(restore, &store)
    }

    fn open(&self, job: &RestoreJob) -> Result<Arc<TaskStore>, OpenError> {
        let RestoreContext { directory, budget, clock, .. } = &self.context;
        TaskStore::open(directory, budget, &job.spec, Some(job.max_age), clock)
    }

    /// The job's store, opened if need be; in words what that waits for.
    pub(super) fn opened(
        &mut self,
        open: &mut Option<Arc<TaskStore>>,
        job: &mut RestoreJob,
    ) -> Result<Result<Arc<TaskStore>, String>, RestoreError> {
        if let Some(store) = open {
            return Ok(Ok(Arc::clone(store)));
        }
        let task = job.task;
        let store = match job.store.take() {
            Some(store) => store,
            None => match self.open(job) {
                Ok(store) => store,
                Err(source) if source.is_passing() => return Ok(Err(source.to_string())),
                Err(source) => return Err(RestoreError::Open { task, source }),
            },
        };
        self.handed.add(task, &store);
        self.tell(RestoreEvent::Opened { task, store: Arc::clone(&store) });
        Ok(Ok(Arc::clone(open.insert(store))))
    }

    /// Finds out where each changelog ends and what the store has of it.
    pub(super) fn plan(
        &self,
        job: &RestoreJob,
        store: &Arc<TaskStore>,
    ) -> Result<Result<Vec<ChangelogRestore>, String>, RestoreError> {
        let task = job.task;
        let mut plan = Vec::new();
        for (index, partition) in job.changelogs.iter().enumerate() {
            let Some(partition) = partition else { continue };
            let (_, end) = match self.ends.watermarks(partition, STEP) {
                Ok(watermarks) => watermarks,
                Err(error) => return Ok(Err(format!("end of changelog {partition}: {error}"))),
            };
            plan.push((index, partition, end));
        }
        let checkpoint = store.checkpoint();
        if let Some((_, partition, end)) =
            // One more is no surprise: the broker writes the last transaction's marker after it has confirmed the commit.
            plan
                .iter()
                .find(|(_, partition, end)| checkpoint.changelog.get(*partition).is_some_and(|next| *next > end + 1))
        {
            warn!(
                %task, %partition, end, own = checkpoint.changelog.get(*partition),
                "the changelog ends before what this store holds: the topic was recreated; restoring from zero"
            );
            clear(job, store)?;
        }
        let checkpoint = store.checkpoint();
        let changelog = |(index, partition, end): (usize, &TopicPartition, i64)| {
            let next = checkpoint.changelog.get(partition).copied().unwrap_or(0);
            ChangelogRestore { store: index, partition: partition.clone(), queue: None, next, end }
        };
        Ok(Ok(plan.into_iter().map(changelog).collect()))
    }

    /// Looks after a changelog that does not have what is to be read next, which `consumer` fetches. Whether the copy has to be
    /// built anew; otherwise fetching goes on.
    pub(super) fn look_outside(
        &self,
        task: TaskId,
        changelog: &mut ChangelogRestore,
        consumer: &FetchConsumer,
        error: &FetchError,
    ) -> Result<bool, RestoreError> {
        let (partition, own) = (changelog.partition.clone(), changelog.next);
        let start = match self.ends.watermarks(&partition, STEP) {
            Ok(log) => match Outside::of(error, own, log) {
                Outside::Lost => {
                    warn!(
                        %task, %partition, end = log.1, own, %error,
                        "the changelog has lost records that this copy has, as in an unclean leader election; building the copy anew"
                    );
                    return Ok(true);
                }
                Outside::Shortened => {
                    warn!(%task, %partition, "the changelog begins after the checkpoint; reading on from its beginning");
                    StartOffset::Beginning
                }
                Outside::ForAMoment => StartOffset::Beginning,
            },
            // Then it shows once more when it is known.
            Err(_) => StartOffset::At(own),
        };
        changelog.fetch_from(start, consumer, &self.waker).map_err(|source| RestoreError::Fetch { task, source })?;
        Ok(false)
    }

    /// Starts fetching what is missing.
    fn begin(&self, task: TaskId, mut plan: Vec<ChangelogRestore>) -> Result<Vec<ChangelogRestore>, RestoreError> {
        for changelog in plan.iter_mut().filter(|changelog| changelog.next < changelog.end) {
            let start = if changelog.next == 0 { StartOffset::Beginning } else { StartOffset::At(changelog.next) };
            let queue = self.consumer.assign(&changelog.partition, start, &self.waker);
            changelog.queue = Some(queue.map_err(|source| RestoreError::Fetch { task, source })?);
        }
        Ok(plan)
    }

    fn replay(&mut self, restore: &mut Restore, store: &Arc<TaskStore>) -> Result<Step, RestoreError> {
        let task = restore.job.task;
        let mut changelogs = restore.changelogs.take().unwrap_or_default();
        let (mut records, mut lost) = (0, false);
        let result = changelogs.iter_mut().try_for_each(|changelog| {
            let now_ms = self.context.clock.now_ms();
            let replayed = replay_batch(task, changelog, store, restore.job.changelogs.len(), now_ms)?;
            records += replayed.records;
            if let Some(error) = replayed.outside {
                lost |= self.look_outside(task, changelog, &self.consumer, &error)?;
            }
            Ok(())
        });
        if lost && result.is_ok() {
            changelogs.into_iter().for_each(|changelog| self.release(changelog));
            clear(&restore.job, store)?;
            return Ok(Step::Progressed);
        }
        let remaining: u64 = changelogs.iter().map(ChangelogRestore::remaining).sum();
        restore.restored += records;
        restore.job.view.set_lag(i64::try_from(remaining).unwrap_or(i64::MAX));
        if records > 0 {
            metrics::restored(task, records, remaining);
        }
        let done = changelogs.iter().all(|changelog| changelog.next >= changelog.end);
        if done || result.is_err() {
            for changelog in changelogs {
                self.release(changelog);
            }
            restore.changelogs = Some(Vec::new());
            result?;
            // Complete, and readable from now on, whenever a stream thread takes it.
            restore.job.view.caught_up(restore.began);
            if restore.job.view.role() == Role::Restoring {
                restore.job.view.set_role(Role::Standby);
            }
            return Ok(Step::Done { store: Arc::clone(store), offsets: restore.offsets.take().unwrap_or_default() });
        }
        restore.changelogs = Some(changelogs);
        if restore.reported.elapsed() >= REPORT_INTERVAL {
            restore.reported = Instant::now();
            let status = restore.status(remaining);
            info!(
                %task, restored = status.restored_records, remaining, eta_ms = status.eta.map(|eta| eta.as_millis() as u64),
                "restoring"
            );
            self.tell(RestoreEvent::Progress { task, status });
        }
        Ok(if records > 0 { Step::Progressed } else { Step::Idle })
    }
}

/// Deletes what a copy has: it is to be built from the beginning of its changelogs, as soon as they are planned anew.
pub(super) fn clear(job: &RestoreJob, store: &TaskStore) -> Result<(), RestoreError> {
    job.view.set_role(Role::Restoring);
    job.view.lose_track();
    store.clear().map_err(|source| RestoreError::Store { task: job.task, source })
}

/// Stream time never goes back, whoever processed last and whether the directory was kept: it travels with the offsets.
fn take_stream_time(store: &TaskStore, offsets: &[Option<CommittedOffset>]) -> Result<(), StoreError> {
    let times = offsets.iter().flatten().filter_map(|offset| offset_metadata::decode(&offset.metadata));
    match times.max() {
        Some(time) if time > store.checkpoint().stream_time_ms => store.apply(AppliedBatch {
            rows: Vec::new(),
            checkpoint: CheckpointDelta { stream_time_ms: Some(time), ..CheckpointDelta::default() },
        }),
        _ => Ok(()),
    }
}

pub(super) enum Step {
    Progressed,
    Idle,
    Wait(String),
    Done { store: Arc<TaskStore>, offsets: Vec<Option<i64>> },
}

impl Restore {
    fn new(job: RestoreJob) -> Self {
        // A complete copy stays readable as what it is, while it catches up.
        if job.view.role() == Role::Active {
            job.view.set_role(Role::Standby);
        }
        let now = Instant::now();
        Self {
            job,
            since: now,
            store: None,
            offsets: None,
            changelogs: None,
            began: now,
            restored: 0,
            total: 0,
            reported: now,
            pause: Pause::default(),
            held_back: None,
            told_held_back: false,
        }
    }

    fn status(&self, remaining: u64) -> RestoreStatus {
        let done = self.total.saturating_sub(remaining);
        let eta = (done > 0).then(|| self.began.elapsed().mul_f64(remaining as f64 / done as f64));
        RestoreStatus { restored_records: self.restored, total_records: self.total, remaining_records: remaining, eta }
    }
}
