//! An instance: the state machine under test, and an engine that does what it is told, in its time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use holdfast_types::{Assignment, SubtopologySpec, TaskId};

use super::{
    super::{Event, LEVEL_AFTER, Machine, State},
    chance::Chance,
};
use crate::{GroupEvent, assignor::Copies};

/// Records that a copy gains on its changelog in a second.
const CATCH_UP: u64 = 60_000;
/// A copy that is closer than this has caught up.
const ACCEPTABLE: u64 = 10_000;
/// How long user code is waited for that holds what is to be released; a minute in truth, less here for shorter schedules.
const PATIENCE: Duration = Duration::from_secs(8);

/// One process over its lives; the disk survives them.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) incarnation: u32,
    pub(super) machine: Option<Machine>,
    /// What it can run, since it was started.
    pub(super) specs: Vec<SubtopologySpec>,
    /// When the machine's next tick comes, so that one is on its way at a time.
    pub(super) tick_at: Option<Instant>,
    /// Stands still until then: neither machine nor engine runs, requests and answers wait.
    pub(super) paused_until: Option<Instant>,
    /// What it is assigned next comes as bytes that it cannot read.
    pub(super) garbled: bool,
    /// User code holds a thread until then: nothing of what it has is released.
    pub(super) stuck_until: Option<Instant>,
    /// The membership was lost, and the thread still holds what was processed in it.
    holds_lost: bool,
    /// In which membership a release is waited for, and since when.
    waited: Option<(u64, Instant)>,
    /// Whether the engine gave up a membership since all threads let go.
    surrendered: bool,
    /// The last membership that it gave up.
    pub(super) given_up: Option<u64>,
    /// When it is given tasks again, if not before, after it had given up some.
    pub(super) level_at: Option<Instant>,
    /// Whether it leaves once its tasks are released.
    pub(super) leaving: bool,
    /// Active tasks; those in `disk` that are behind still restore.
    pub(super) running: BTreeSet<TaskId>,
    pub(super) followed: BTreeSet<TaskId>,
    warmups: BTreeSet<TaskId>,
    disk: BTreeMap<TaskId, u64>,
    unread: Option<Assignment>,
    /// The assignment that is being carried out, and when what it revokes is committed.
    releasing: Option<(Assignment, Instant)>,
    /// Tasks that were started, ever.
    pub(super) started: Vec<TaskId>,
    /// Tasks that were stopped by an assignment, ever.
    pub(super) revoked: Vec<TaskId>,
}

impl Process {
    pub(super) fn new() -> Self {
        Self {
            incarnation: 0,
            machine: None,
            specs: Vec::new(),
            tick_at: None,
            paused_until: None,
            garbled: false,
            stuck_until: None,
            holds_lost: false,
            waited: None,
            surrendered: false,
            given_up: None,
            level_at: None,
            leaving: false,
            running: BTreeSet::new(),
            followed: BTreeSet::new(),
            warmups: BTreeSet::new(),
            disk: BTreeMap::new(),
            unread: None,
            releasing: None,
            started: Vec::new(),
            revoked: Vec::new(),
        }
    }

    pub(super) fn start(&mut self, machine: Machine, specs: Vec<SubtopologySpec>) {
        self.incarnation += 1;
        self.specs = specs;
        self.machine = Some(machine);
    }

    /// Dies as it is; what is on disk stays.
    pub(super) fn kill(&mut self) {
        *self = Self {
            incarnation: self.incarnation,
            disk: std::mem::take(&mut self.disk),
            started: std::mem::take(&mut self.started),
            revoked: std::mem::take(&mut self.revoked),
            ..Self::new()
        };
    }

    pub(super) fn is_up(&self) -> bool {
        self.machine.is_some()
    }

    pub(super) fn is_stable_in(&self, generation: i32) -> bool {
        let state = self.machine.as_ref().map(|machine| &machine.state);
        matches!(state, Some(State::Stable { generation: own }) if *own == generation)
            && self.unread.is_none()
            && self.releasing.is_none()
    }

    /// What the membership tells the instance.
    pub(super) fn told(&mut self, event: GroupEvent) {
        match event {
            GroupEvent::Assigned(assignment) => self.unread = Some(assignment),
            GroupEvent::Lost { .. } => {
                self.running.clear();
                self.followed.clear();
                self.warmups.clear();
                (self.unread, self.releasing) = (None, None);
                self.holds_lost |= self.stuck_until.is_some();
            }
            GroupEvent::Waiting { .. } | GroupEvent::Recovered => {}
        }
    }

    /// Lets the engine work until `now`; gives what it tells the membership.
    pub(super) fn work(&mut self, now: Instant, chance: &mut Chance) -> Vec<Event> {
        let mut out = Vec::new();
        if self.is_blocked(now) {
            return out;
        }
        if self.releasing.is_none()
            && let Some(assignment) = self.unread.take()
        {
            let revokes = self.running.iter().any(|task| !assignment.active.contains(task));
            let wait = if revokes { chance.between(0, 400) } else { 0 };
            let until = now + Duration::from_millis(wait);
            self.releasing = Some((assignment, self.stuck_until.filter(|_| revokes).unwrap_or(until).max(until)));
        }
        if self.releasing.as_ref().is_some_and(|(_, until)| *until <= now)
            && let Some((assignment, _)) = self.releasing.take()
        {
            let Assignment { tenure, generation, active, standby, warmup, .. } = assignment;
            self.revoked.extend(self.running.iter().filter(|task| !active.contains(task)));
            self.running.retain(|task| active.contains(task));
            out.push(Event::Acknowledged { tenure, generation, kept: active.clone() });
            self.started.extend(active.iter().filter(|task| !self.running.contains(task)));
            self.running.extend(active);
            self.followed = standby.into_iter().chain(warmup.iter().copied()).collect();
            self.warmups = warmup.into_iter().collect();
        }
        out
    }

    /// Whether nothing can be taken before a thread lets go of what was lost.
    fn is_blocked(&self, now: Instant) -> bool {
        self.holds_lost && self.stuck_until.is_some_and(|until| until > now)
    }

    /// User code lets go of all threads.
    pub(super) fn come_back(&mut self, now: Instant) {
        self.stuck_until = self.stuck_until.map(|until| until.min(now));
        if let Some((_, until)) = &mut self.releasing {
            *until = now.min(*until);
        }
    }

    /// Looks after user code that holds a thread while the engine waits for it. `present` is the membership, if there is one.
    pub(super) fn look_after(&mut self, now: Instant, present: Option<u64>) -> Option<Event> {
        let stuck_until = self.stuck_until?;
        if stuck_until <= now {
            (self.stuck_until, self.holds_lost, self.waited) = (None, false, None);
            return std::mem::take(&mut self.surrendered).then(|| {
                self.level_at = Some(now + LEVEL_AFTER);
                Event::Resumed
            });
        }
        let waits = self.is_blocked(now) || self.releasing.as_ref().is_some_and(|(_, until)| *until >= stuck_until);
        let since = |tenure| self.waited.filter(|(of, _)| *of == tenure).unwrap_or((tenure, now));
        self.waited = present.filter(|_| waits).map(since);
        let (tenure, since) = self.waited?;
        let gives_up = now - since >= PATIENCE && !std::mem::replace(&mut self.surrendered, true);
        gives_up.then(|| Event::Surrendered { tenure, reason: "user code does not come back".to_owned() })
    }

    /// When `work` has something to do.
    pub(super) fn work_due(&self, now: Instant) -> Option<Instant> {
        if self.is_blocked(now) {
            return None;
        }
        match &self.releasing {
            Some((_, until)) => Some(*until),
            None => self.unread.as_ref().map(|_| now),
        }
    }

    /// A while passed: copies come nearer to the `ends` of their changelogs. Answers what is told of them.
    pub(super) fn catch_up(&mut self, ends: &BTreeMap<TaskId, u64>, passed: Duration) -> Vec<Event> {
        let gain = CATCH_UP * u64::try_from(passed.as_millis()).unwrap_or(0) / 1000;
        let mut caught_up = false;
        for task in self.running.iter().chain(&self.followed) {
            let Some(end) = ends.get(task) else { continue };
            let position = self.disk.entry(*task).or_default();
            let (before, after) = (*position, (*position + gain).min(*end));
            *position = after;
            let near = |position: u64| position + ACCEPTABLE >= *end;
            caught_up |= self.warmups.contains(task) && !near(before) && near(after);
        }
        let restoring = self.running.iter().filter(|task| self.restores(**task, ends)).copied().collect();
        let mut out = vec![Event::Reported { copies: Copies { positions: self.disk.clone(), restoring } }];
        if caught_up {
            out.push(Event::Rejoin { reason: "a warm-up has caught up".to_owned() });
        }
        out
    }

    /// Tasks of which the disk has a copy that counts as caught up.
    pub(super) fn copies(&self, ends: &BTreeMap<TaskId, u64>) -> BTreeSet<TaskId> {
        let near =
            |(task, position): &(&TaskId, &u64)| ends.get(task).is_some_and(|end| *position + ACCEPTABLE >= *end);
        self.disk.iter().filter(near).map(|(task, _)| *task).collect()
    }

    fn restores(&self, task: TaskId, ends: &BTreeMap<TaskId, u64>) -> bool {
        ends.get(&task).is_some_and(|end| self.disk.get(&task).is_none_or(|position| position < end))
    }

    /// Processes what has been restored; gives the tasks whose offsets are to be committed.
    pub(super) fn process(&mut self, ends: &mut BTreeMap<TaskId, u64>) -> Vec<TaskId> {
        let ready: Vec<TaskId> = self.running.iter().filter(|task| !self.restores(**task, ends)).copied().collect();
        for task in &ready {
            if let Some(end) = ends.get_mut(task) {
                *end += 20;
                self.disk.insert(*task, *end);
            }
        }
        ready
    }
}
