//! A turn of the loop: commands, a slice of each task's input, and the seal when it is due.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::TryRecvError;
use holdfast_types::{Position, Role, TaskId};
use tracing::{debug, warn};

use super::{Loop, TaskLife, TaskProgress, TaskStart, ThreadCommand};
use crate::{
    engine::{kept::next_offsets, metrics},
    kafka::{FetchConsumer, StartOffset},
    processor::{TaskContext, TaskGraph},
    task::{ActiveTask, Input, Seal, SliceLimits, TaskParts, TaskSeal},
};

/// What a task may take per turn: little enough that tasks share the thread fairly, commits are on time, and large records
/// stay within the memory budget.
const SLICE: SliceLimits = SliceLimits { records: 2048, bytes: 4 << 20, time: Duration::from_millis(100) };
const IDLE_PARK: Duration = Duration::from_millis(50);
const REPORT_INTERVAL: Duration = Duration::from_millis(200);
/// How much longer each interval is than the one before while a backlog is worked off, and the most in all: rows that change
/// often are written once an interval.
const STRETCH: u32 = 4;
const STRETCH_MOST: u32 = 64;
/// How long a seal in flight may take to end by itself where its tasks are dropped anyway.
const DROP_DEADLINE: Duration = Duration::from_secs(1);
/// How long a release waits for its commit before the tasks are dropped without it.
const RELEASE_DEADLINE: Duration = Duration::from_secs(8);

impl Loop {
    pub(super) fn run(&mut self) -> Result<(), String> {
        while !self.stop {
            self.view.turn();
            self.take_commands()?;
            self.take_outcome()?;
            self.look_for_generation()?;
            if self.index == 0 {
                self.context.consumer.serve();
            }
            let processed = self.process()?;
            self.commit_if_due()?;
            self.report();
            if processed == 0 && !self.stop && !self.tasks.values().any(ActiveTask::is_forwarding) {
                self.idle_since_seal = true;
                std::thread::park_timeout(self.until_due());
            }
        }
        Ok(())
    }

    pub(super) fn take_commands(&mut self) -> Result<(), String> {
        loop {
            match self.incoming.try_recv() {
                Ok(ThreadCommand::Add(start)) => self.add(*start)?,
                Ok(ThreadCommand::Release { tasks, commit, done }) => {
                    if commit {
                        self.commit_now(RELEASE_DEADLINE)?;
                    } else {
                        self.settle_in_flight(DROP_DEADLINE)?;
                    }
                    for task in tasks {
                        self.drop_task(task);
                    }
                    let _ = done.send(());
                }
                Ok(ThreadCommand::NewGeneration) => {
                    // Tasks may come with any of the next ones: their first commit is not to wait for connections.
                    self.committer.prepare();
                    self.send_superseded()?;
                }
                Ok(ThreadCommand::InputRecreated { topic, old_seen }) => self.input_recreated(&topic, old_seen)?,
                Ok(ThreadCommand::Stop { commit }) => {
                    if commit {
                        self.commit_now(RELEASE_DEADLINE)?;
                    }
                    self.drop_all_tasks();
                    self.stop = true;
                    return Ok(());
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    self.stop = true;
                    return Ok(());
                }
            }
        }
    }

    pub(super) fn add(&mut self, start: TaskStart) -> Result<(), String> {
        let id = start.id;
        self.drop_task(id);
        if self.tenure != start.tenure {
            self.drop_all_tasks();
            self.tenure = start.tenure;
        }
        let Some(subtopology) = self.context.topology.subtopologies().iter().find(|sub| sub.id == id.subtopology)
        else {
            return Err(format!("task {id}: the topology has no such sub-topology"));
        };
        let tables: Vec<_> = (0..subtopology.stores.len()).map(|index| Arc::clone(start.store.table(index))).collect();
        let mut context = TaskContext::new(id, Arc::clone(&self.context.clock));
        context.stream_time_ms = start.store.checkpoint().stream_time_ms;
        let mut position = Position::new();
        let mut inputs = Vec::new();
        for (source, (partition, committed)) in start.inputs.into_iter().enumerate() {
            let Some(begin) = committed.map(StartOffset::At).or_else(|| self.reset_offset(&partition)) else {
                self.give_up(format!(
                    "{partition} has no committed offset, and offset_reset is none: set it to earliest or latest, or set the \
                     group's offset with kafka-consumer-groups --reset-offsets"
                ));
                return Ok(());
            };
            if let Some(committed) = committed
                && committed > 0
            {
                position.advance(&partition.topic, partition.partition, committed - 1);
            }
            let queue = self.context.consumer.assign(&partition, begin, &self.waker);
            let queue = queue.map_err(|error| format!("task {id}: {error}"))?;
            inputs.push(Input::new(source, queue, begin));
        }
        start.view.publish(position.clone(), next_offsets(&start.store, &start.changelogs));
        // What a former life of the task here left open is part of what was restored, or never was committed.
        start.view.commit_ends();
        start.view.set_tenure(start.tenure);
        start.view.set_role(Role::Active);
        start.view.set_lag(0);
        let graph = TaskGraph::build(&self.context.topology, id.subtopology, &tables);
        let graph = graph.map_err(|error| format!("task {id}: {error}"))?;
        let task = ActiveTask::new(TaskParts {
            store: start.store,
            view: start.view,
            inputs,
            graph,
            context,
            changelogs: start.changelogs,
            sinks: start.sinks,
            handlers: Arc::clone(&self.handlers),
            dead_letter_queue: self.dead_letter_queue.clone(),
            limits: self.context.config.limits.clone(),
            position,
            hand: Arc::clone(&self.view.hand),
            slow_record: self.context.config.slow_record,
        });
        self.view.tasks.lock().insert(id, progress(&task, &self.context.consumer));
        self.tasks.insert(id, task);
        self.attempts.insert(id, start.attempt);
        self.committer.prepare();
        debug!(task = %id, thread = self.index, "task processes");
        Ok(())
    }

    /// A slice of each task's input.
    pub(super) fn process(&mut self) -> Result<usize, String> {
        if self.over_budget() {
            self.view.throttled.store(true, Ordering::Relaxed);
            if !self.in_flight.is_empty() || self.superseded.is_some() {
                return Ok(0);
            }
        } else {
            self.view.throttled.store(false, Ordering::Relaxed);
        }
        let mut total = 0;
        let mut errors = Vec::new();
        for task in self.tasks.values_mut() {
            // While records are sealed one by one, the next one waits for the outcome of the one before.
            if task.is_careful() && self.in_flight.contains(&task.id) {
                continue;
            }
            match task.process(&SLICE) {
                Ok(processed) => total += processed,
                Err(error) => errors.push(error),
            }
        }
        self.view.processed.fetch_add(total as u64, Ordering::Relaxed);
        for error in errors {
            self.task_failed(error)?;
        }
        Ok(total)
    }

    pub(super) fn over_budget(&mut self) -> bool {
        let dirty: usize = self.tasks.values_mut().map(ActiveTask::dirty_bytes).sum();
        dirty as u64 > self.dirty_share()
    }

    pub(super) fn dirty_share(&self) -> u64 {
        // While rows become dirty, those of the last seal are on their way: here, encoded, and in the producer's queue.
        self.context.budget.dirty_limit_bytes() / (4 * self.context.config.num_stream_threads.max(1) as u64)
    }

    pub(super) fn interval(&self) -> Duration {
        let usual = self.context.config.commit_interval;
        // The backlog is worked off: its last rows are to be seen soon.
        if self.idle_since_seal {
            usual
        } else {
            (usual * self.stretched).min(self.context.config.commit_interval_max.max(usual))
        }
    }

    pub(super) fn until_due(&self) -> Duration {
        self.interval().saturating_sub(self.last_seal.elapsed()).clamp(Duration::from_millis(1), IDLE_PARK)
    }

    pub(super) fn commit_if_due(&mut self) -> Result<(), String> {
        if !self.in_flight.is_empty() || self.superseded.is_some() {
            return Ok(());
        }
        let waits = |task: &ActiveTask| task.is_forwarding() || (task.is_careful() && task.has_unsealed());
        let waits = self.tasks.values().any(waits);
        if !waits && self.last_seal.elapsed() < self.interval() && !self.over_budget() {
            return Ok(());
        }
        self.stretched = if self.idle_since_seal { 1 } else { (self.stretched * STRETCH).min(STRETCH_MOST) };
        self.idle_since_seal = false;
        self.seal()
    }

    pub(super) fn seal(&mut self) -> Result<(), String> {
        // What a task that goes in steps has to commit goes alone, in turns with all the rest: a broker that refuses it names a
        // batch, and there is nobody else's record in it.
        let alone = self.tasks.values().find(|task| task.is_careful() && task.has_unsealed()).map(|task| task.id);
        let alone = alone.filter(|_| !self.sealed_alone);
        self.sealed_alone = alone.is_some();
        let tasks = self.seal_tasks(|task| alone.map_or(!task.is_careful(), |alone| alone == task.id))?;
        if tasks.is_empty() {
            return Ok(());
        }
        self.send(Seal { tenure: self.tenure, tasks })
    }

    /// The parts of those tasks that have something to commit.
    pub(super) fn seal_tasks(&mut self, wanted: impl Fn(&ActiveTask) -> bool) -> Result<Vec<TaskSeal>, String> {
        self.last_seal = Instant::now();
        let (mut parts, mut errors) = (Vec::new(), Vec::new());
        for task in self.tasks.values_mut() {
            if !task.has_unsealed() || !wanted(task) {
                continue;
            }
            match task.seal(SLICE.time) {
                Ok(Some(part)) if !part.is_empty() => parts.push(part),
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        for error in errors {
            self.task_failed(error)?;
        }
        Ok(parts)
    }

    pub(super) fn send(&mut self, seal: Seal) -> Result<(), String> {
        self.in_flight = seal.task_ids();
        self.send_in_flight(seal)
    }

    /// As [`Loop::send`], for a seal whose parts are in flight already.
    pub(super) fn send_in_flight(&self, seal: Seal) -> Result<(), String> {
        if self.committer.send(seal) { Ok(()) } else { Err("the commit thread is gone".to_owned()) }
    }

    pub(super) fn drop_task(&mut self, id: TaskId) {
        self.attempts.remove(&id);
        let Some(task) = self.tasks.remove(&id) else { return };
        // A frozen copy until somebody restores or closes it: what it holds is committed, and its age is told.
        task.view.set_role(Role::Standby);
        let partitions: Vec<_> = task.inputs.iter().map(|input| input.queue.partition().clone()).collect();
        drop(task);
        for partition in partitions {
            self.begun_anew.remove(&partition);
            if let Err(error) = self.context.consumer.unassign(&partition) {
                warn!(%partition, %error, "an input could not be released");
            }
        }
        self.view.tasks.lock().remove(&id);
    }

    /// Answers which they were.
    pub(super) fn drop_all_tasks(&mut self) -> Vec<TaskLife> {
        let dropped: Vec<_> = self.attempts.iter().map(|(id, attempt)| (*id, *attempt)).collect();
        for (id, _) in &dropped {
            self.drop_task(*id);
        }
        if self.superseded.take().is_some() {
            // Nothing comes of it any more.
            self.in_flight.clear();
        }
        dropped
    }

    pub(super) fn report(&mut self) {
        if self.last_report.elapsed() < REPORT_INTERVAL {
            return;
        }
        self.last_report = Instant::now();
        let mut shown = self.view.tasks.lock();
        for (id, task) in &self.tasks {
            shown.insert(*id, progress(task, &self.context.consumer));
        }
        drop(shown);
        let dirty = self.tasks.values_mut().map(ActiveTask::dirty_bytes).sum();
        let cached = self.tasks.values_mut().map(ActiveTask::cached_bytes).sum();
        metrics::thread_memory(self.index, dirty, cached);
    }
}

fn progress(task: &ActiveTask, consumer: &FetchConsumer) -> TaskProgress {
    let mut progress =
        TaskProgress { stream_time_ms: task.store.checkpoint().stream_time_ms, ..TaskProgress::default() };
    for input in &task.inputs {
        let partition = input.queue.partition();
        let committed = input.committed_offset();
        progress.committed.insert(partition.clone(), committed);
        if let Some(end) = consumer.cached_end(partition) {
            let lag = (end - committed).max(0);
            metrics::lag(task.id, &partition.to_string(), lag);
            progress.lag.insert(partition.clone(), lag);
        }
    }
    progress
}
