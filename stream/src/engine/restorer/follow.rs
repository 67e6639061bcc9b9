//! Following: the copies of tasks that others process are kept near the ends of their changelogs.
//!
//! It happens on the restore thread, because a task that is promoted or demoted changes from one to the other: whatever a copy
//! is, one thread writes it. Restores go first. The fetching handle is another one: many copies are followed for long, and
//! their queues are small; what is restored has large ones, for a short time.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_store::{AppliedBatch, CheckpointDelta, TaskStore};
use holdfast_types::{Role, TaskId, TopicPartition};
use tracing::{debug, info, warn};

use super::{
    RestoreError, RestoreEvent, RestoreJob,
    changelog::{ChangelogRestore, replay_batch},
    observed::Observed,
    pause::Pause,
    thread::{RestoreThread, Step, clear},
};
use crate::{
    engine::{kept::next_offsets, metrics},
    kafka::{EndsQuery, FetchConsumer, FetchError, Reads, StartOffset},
};

/// Time between two questions where the changelogs end: as often as an active's membership is confirmed.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(500);
const OBSERVE_LIMIT: Duration = Duration::from_secs(2);
/// How often a copy that has caught up and gets nothing notes that it is up to date: its directory must not look old.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// What the restore thread follows.
#[derive(Default)]
pub(super) struct Follows {
    tasks: BTreeMap<TaskId, Follow>,
    /// Made for the first task.
    consumer: Option<FetchConsumer>,
    /// The question for ends that is on its way.
    asked: Option<EndsQuery>,
    last_asked: Option<Instant>,
}

/// A task that is followed.
struct Follow {
    job: RestoreJob,
    store: Option<Arc<TaskStore>>,
    changelogs: Option<Vec<Followed>>,
    pause: Pause,
    refreshed: Instant,
    began: Instant,
    records: u64,
}

struct Followed {
    replay: ChangelogRestore,
    observed: Observed,
}

impl Follows {
    pub(super) fn add(&mut self, job: RestoreJob) {
        let now = Instant::now();
        let follow = Follow {
            store: None,
            changelogs: None,
            pause: Pause::default(),
            refreshed: now,
            began: now,
            records: 0,
            job,
        };
        self.tasks.insert(follow.job.task, follow);
    }

    /// Stops following a task; its store, if it is open.
    pub(super) fn stop(&mut self, task: TaskId) -> Option<Arc<TaskStore>> {
        let mut follow = self.tasks.remove(&task)?;
        for Followed { replay, .. } in follow.changelogs.into_iter().flatten() {
            self.release(replay);
        }
        metrics::not_followed(task);
        follow.store.take().or(follow.job.store)
    }

    pub(super) fn serve(&self) {
        if let Some(consumer) = &self.consumer {
            consumer.serve();
        }
    }

    fn release(&self, replay: ChangelogRestore) {
        let partition = replay.partition.clone();
        drop(replay);
        if let Some(consumer) = &self.consumer
            && let Err(error) = consumer.unassign(&partition)
        {
            warn!(%partition, %error, "a changelog could not be released");
        }
    }

    /// Asks now and then where the changelogs end, and takes the answer when it comes; never waits.
    pub(super) fn observe(&mut self) {
        if let Some(query) = self.asked.take() {
            match query.answer() {
                Some(Ok(ends)) => self.take_ends(query.asked_at(), ends),
                Some(Err(error)) => debug!(%error, "the brokers do not tell where changelogs end"),
                // Past that librdkafka has given it up, too.
                None if query.asked_at().elapsed() < 2 * OBSERVE_LIMIT => {
                    self.asked = Some(query);
                    return;
                }
                None => {}
            }
        }
        if self.last_asked.is_some_and(|at| at.elapsed() < OBSERVE_INTERVAL) {
            return;
        }
        let partitions: Vec<TopicPartition> =
            self.changelogs().map(|followed| followed.replay.partition.clone()).collect();
        let Some(consumer) = self.consumer.as_ref().filter(|_| !partitions.is_empty()) else { return };
        self.last_asked = Some(Instant::now());
        match consumer.ask_ends(&partitions, OBSERVE_LIMIT) {
            Ok(query) => self.asked = Some(query),
            Err(error) => debug!(%error, "changelogs' ends cannot be asked for"),
        }
    }

    fn changelogs(&mut self) -> impl Iterator<Item = &mut Followed> {
        self.tasks.values_mut().filter_map(|follow| follow.changelogs.as_mut()).flatten()
    }

    fn take_ends(&mut self, asked_at: Instant, ends: Vec<(TopicPartition, i64)>) {
        let ends: BTreeMap<_, _> = ends.into_iter().collect();
        for Followed { replay, observed } in self.changelogs() {
            if let Some(end) = ends.get(&replay.partition) {
                observed.observe(asked_at, *end);
            }
        }
    }
}

impl RestoreThread {
    /// A batch of each task that is followed; whether there was something to do. A copy that begins takes its time, to open and
    /// to ask where its changelogs end: that waits for tasks that are taken over, and for those that `interrupted` tells of.
    pub(super) fn follow_all(&mut self, interrupted: impl Fn() -> bool) -> bool {
        let mut progressed = false;
        let tasks: Vec<(TaskId, bool)> =
            self.follows.tasks.iter().map(|(task, follow)| (*task, follow.changelogs.is_some())).collect();
        for (task, begun) in tasks {
            if !begun && interrupted() {
                return true;
            }
            if begun || !self.is_taking_over() {
                progressed |= self.follow(task);
            }
        }
        progressed
    }

    fn follow(&mut self, task: TaskId) -> bool {
        let Some(mut follow) = self.follows.tasks.remove(&task) else { return false };
        if follow.pause.holds() {
            self.follows.tasks.insert(task, follow);
            return false;
        }
        match self.follow_step(&mut follow) {
            Ok(step) => {
                let progressed = matches!(step, Step::Progressed);
                if let Step::Wait(reason) = step
                    && follow.pause.begin(&reason)
                {
                    warn!(%task, reason, "a standby waits");
                    self.tell(RestoreEvent::Waiting { task, reason });
                }
                self.follows.tasks.insert(task, follow);
                progressed
            }
            Err(error) => {
                let attempt = follow.job.attempt;
                for Followed { replay, .. } in follow.changelogs.into_iter().flatten() {
                    self.follows.release(replay);
                }
                self.tell(RestoreEvent::Failed { task, attempt, error });
                true
            }
        }
    }

    fn follow_step(&mut self, follow: &mut Follow) -> Result<Step, RestoreError> {
        let task = follow.job.task;
        let store = match self.opened(&mut follow.store, &mut follow.job)? {
            Ok(store) => store,
            Err(reason) => return Ok(Step::Wait(reason)),
        };
        if follow.changelogs.is_none() {
            let asked_at = Instant::now();
            let plan = match self.plan(&follow.job, &store)? {
                Ok(plan) => plan,
                Err(reason) => return Ok(Step::Wait(reason)),
            };
            let behind: u64 = plan.iter().map(ChangelogRestore::remaining).sum();
            info!(%task, records = behind, "following the changelog");
            follow.job.view.set_lag(i64::try_from(behind).unwrap_or(i64::MAX));
            follow.changelogs = Some(self.begin_following(task, asked_at, plan)?);
        }
        match store.check_room() {
            Ok(()) => follow.pause.end(),
            Err(error) if error.is_passing() => return Ok(Step::Wait(error.to_string())),
            Err(source) => return Err(RestoreError::Store { task, source }),
        }
        let Some(consumer) = &self.follows.consumer else { return Ok(Step::Idle) };
        let now_ms = self.context.clock.now_ms();
        let (mut records, mut lost) = (0, false);
        for Followed { replay, observed } in follow.changelogs.iter_mut().flatten() {
            let replayed = replay_batch(task, replay, &store, follow.job.changelogs.len(), now_ms)?;
            records += replayed.records;
            if let Some(error) = replayed.outside {
                lost |= self.look_outside(task, replay, consumer, &error)?;
            }
            observed.reach(replay.next);
        }
        if lost {
            for Followed { replay, .. } in follow.changelogs.take().into_iter().flatten() {
                self.follows.release(replay);
            }
            clear(&follow.job, &store)?;
            return Ok(Step::Progressed);
        }
        follow.records += records;
        if records > 0 {
            metrics::followed(task, records);
        }
        follow.show();
        follow.job.view.reach(&next_offsets(&store, &follow.job.changelogs));
        if follow.is_stale_on_disk() {
            let checkpoint = CheckpointDelta { applied_at_ms: Some(now_ms), ..CheckpointDelta::default() };
            let refreshed = store.apply(AppliedBatch { rows: Vec::new(), checkpoint });
            refreshed.map_err(|source| RestoreError::Store { task, source })?;
        }
        Ok(if records > 0 { Step::Progressed } else { Step::Idle })
    }

    /// Starts fetching every changelog behind what the store has, without an end. Of `plan`'s ends, which were asked for at
    /// `asked_at`, it is known when the copy has them.
    fn begin_following(
        &mut self,
        task: TaskId,
        asked_at: Instant,
        plan: Vec<ChangelogRestore>,
    ) -> Result<Vec<Followed>, RestoreError> {
        let failed = |source: FetchError| RestoreError::Fetch { task, source };
        let consumer = match &mut self.follows.consumer {
            Some(consumer) => consumer,
            none => {
                let config = &self.context.config;
                let bytes = self.context.follow_queue_bytes;
                let made = FetchConsumer::new(&config.connection, &config.application_id, Reads::Committed, bytes);
                none.insert(made.map_err(|error| failed(error.into()))?)
            }
        };
        let mut followed = Vec::with_capacity(plan.len());
        for mut replay in plan {
            let start = if replay.next == 0 { StartOffset::Beginning } else { StartOffset::At(replay.next) };
            replay.queue = Some(consumer.assign(&replay.partition, start, &self.waker).map_err(failed)?);
            let mut observed = Observed::default();
            observed.observe(asked_at, replay.end);
            replay.end = i64::MAX;
            followed.push(Followed { replay, observed });
        }
        // Whether it has caught up already is to be known soon.
        self.follows.last_asked = None;
        Ok(followed)
    }
}

impl Follow {
    /// Shows readers and the group how far the copy is.
    fn show(&self) {
        let (task, view) = (self.job.task, &self.job.view);
        let Some(changelogs) = self.changelogs.as_ref().filter(|changelogs| !changelogs.is_empty()) else { return };
        let lag: Option<u64> = changelogs.iter().map(|followed| followed.observed.lag(followed.replay.next)).sum();
        view.set_lag(lag.map_or(-1, |lag| i64::try_from(lag).unwrap_or(i64::MAX)));
        // Of several changelogs, the one that was caught up longest ago counts; none while one never was.
        let caught_up = changelogs.iter().map(|followed| followed.observed.caught_up_at()).min().flatten();
        if let Some(at) = caught_up {
            view.caught_up(at);
            if view.role() == Role::Restoring {
                view.set_role(Role::Standby);
                let took_ms = self.began.elapsed().as_millis() as u64;
                info!(%task, records = self.records, took_ms, "standby has caught up");
            }
        }
        metrics::following(task, lag, caught_up.map(|at| at.elapsed()));
    }

    fn is_stale_on_disk(&mut self) -> bool {
        let fresh = self.job.view.caught_up_at().is_some_and(|at| at.elapsed() < 2 * OBSERVE_LIMIT);
        let due = fresh && self.refreshed.elapsed() > REFRESH_INTERVAL;
        if due {
            self.refreshed = Instant::now();
        }
        due
    }
}
