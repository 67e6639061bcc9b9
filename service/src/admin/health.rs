//! Health: live means "not wedged", ready means "can answer and process", startup means "the process is set up".

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use holdfast_stream::engine::{EngineState, EngineStatus};
use holdfast_types::{AssignedRole, Role, StoreName};
use serde::Serialize;

use crate::{config::ReadyWhen, query::Queries};

/// Time without a turn of a stream thread's loop after which it counts as wedged. A turn may hold a long restore batch, a
/// slow disk or a broker's time-out; a minute it never takes.
const WEDGED_MS: u64 = 60_000;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it passes.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

/// The answer of a health path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `ok` or `fail`.
    pub status: &'static str,
    /// What was looked at.
    pub checks: Vec<Check>,
}

impl Report {
    fn of(checks: Vec<Check>) -> Self {
        let ok = checks.iter().all(|check| check.ok);
        Self { status: if ok { "ok" } else { "fail" }, checks }
    }

    /// Whether every check passes.
    pub fn passes(&self) -> bool {
        self.status == "ok"
    }
}

/// The health of this instance.
#[derive(Debug)]
pub struct Health {
    queries: Queries,
    ready_when: ReadyWhen,
    started: AtomicBool,
    draining: AtomicBool,
    /// It was ready in this membership.
    settled: AtomicBool,
}

impl Health {
    /// Not started, not draining.
    pub fn new(queries: Queries, ready_when: ReadyWhen) -> Arc<Self> {
        Arc::new(Self {
            queries,
            ready_when,
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            settled: AtomicBool::new(false),
        })
    }

    /// The state directory is open and the engine is starting.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// The instance is about to leave: not ready from now on.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the instance is about to leave.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether the process makes progress. Kubernetes restarts it when not.
    pub fn live(&self) -> Report {
        Report::of(live(&self.queries.view().status()))
    }

    /// Whether the process is set up; its broker may still be away.
    pub fn startup(&self) -> Report {
        let ok = self.started.load(Ordering::Acquire);
        let detail = if ok { "the state directory is open" } else { "starting" };
        Report::of(vec![Check { name: "started", ok, detail: detail.to_owned() }])
    }

    /// Whether requests should come here.
    pub fn ready(&self) -> Report {
        let draining = self.is_draining();
        let status = self.queries.view().status();
        // Alone, there are no others to answer, or to be taken out with it.
        if status.generation < 0 || self.queries.view().cluster().members.len() <= 1 {
            self.settled.store(false, Ordering::Release);
        }
        let mut checks = ready(&status);
        checks.push(keys(self.queries.unanswerable()));
        if self.ready_when == ReadyWhen::CaughtUp {
            checks.push(copies(&status));
        }
        if self.settled.load(Ordering::Acquire) {
            // What is missing now is missing at the others, too: taking all instances out of the load balancer at once would
            // turn some keys' outage into everybody's.
            let waited_for = |check: &&mut Check| matches!(check.name, TASKS | KEYS | COPIES);
            checks.iter_mut().filter(waited_for).for_each(|check| check.ok = true);
        } else if checks.iter().all(|check| check.ok) {
            self.settled.store(true, Ordering::Release);
        }
        let detail = if draining { "leaving" } else { "staying" };
        checks.push(Check { name: "draining", ok: !draining, detail: detail.to_owned() });
        Report::of(checks)
    }
}

fn live(status: &EngineStatus) -> Vec<Check> {
    let engine = match &status.state {
        EngineState::Failed(reason) => Check { name: "engine", ok: false, detail: format!("failed: {reason}") },
        state => Check { name: "engine", ok: true, detail: state_text(state) },
    };
    let wedged: Vec<String> = status
        .threads
        .iter()
        .filter(|thread| !thread.alive || thread.idle_ms > WEDGED_MS)
        .map(|thread| match thread.alive {
            true => format!("thread {} has not turned for {} ms", thread.index, thread.idle_ms),
            false => format!("thread {} has ended", thread.index),
        })
        .collect();
    let stopping = status.state == EngineState::Stopping;
    let detail = if wedged.is_empty() { format!("{} turn", status.threads.len()) } else { wedged.join("; ") };
    vec![engine, Check { name: "stream_threads", ok: wedged.is_empty() || stopping, detail }]
}

const TASKS: &str = "tasks";
const KEYS: &str = "keys";
const COPIES: &str = "copies";

fn keys(missing: Option<(StoreName, i32)>) -> Check {
    let detail = match &missing {
        None => "every key can be answered".to_owned(),
        Some((store, _)) => format!("nobody can answer for all keys of {store} yet"),
    };
    Check { name: KEYS, ok: missing.is_none(), detail }
}

/// Standbys and warm-ups that have not caught up since they were opened.
fn copies(status: &EngineStatus) -> Check {
    let followed = || status.tasks.iter().filter(|task| task.assigned != AssignedRole::Active);
    let behind: Vec<String> = followed()
        .filter(|task| task.role == Role::Restoring)
        .map(|task| match task.changelog_lag {
            Some(lag) => format!("{} ({lag} records behind)", task.id),
            None => task.id.to_string(),
        })
        .collect();
    let detail = match &behind[..] {
        [] => format!("{} follow", followed().count()),
        _ => format!("catching up: {}", behind.join(", ")),
    };
    Check { name: COPIES, ok: behind.is_empty(), detail }
}

/// Ready needs an assignment and, until it was ready once, complete copies: see [`Health::ready`]. A broker that goes away does
/// not make the instance unready as long as its session holds: reads go on, and taking every instance out of the load balancer
/// would turn a hiccup of the broker into one of reads. When the session is lost the assignment is, and the instance must be
/// taken for cut off.
fn ready(status: &EngineStatus) -> Vec<Check> {
    let joined = status.generation >= 0;
    let detail = if joined { format!("generation {}", status.generation) } else { "no assignment yet".to_owned() };
    let group = Check { name: "group", ok: joined, detail };
    let engine = Check {
        name: "engine",
        ok: matches!(status.state, EngineState::Running | EngineState::Waiting(_) | EngineState::Restoring),
        detail: state_text(&status.state),
    };
    let restoring: Vec<String> = status
        .tasks
        .iter()
        // A copy that catches up is not what requests wait for.
        .filter(|task| task.role == Role::Restoring && task.assigned == AssignedRole::Active)
        .map(|task| match &task.restore {
            Some(restore) => format!("{} ({} records to go)", task.id, restore.remaining_records),
            None => task.id.to_string(),
        })
        .collect();
    let opening = status.state == EngineState::Restoring && restoring.is_empty();
    let detail = match (&restoring[..], opening) {
        ([], false) => format!("{} run", status.tasks.len()),
        ([], true) => "opening".to_owned(),
        _ => format!("restoring: {}", restoring.join(", ")),
    };
    let tasks = Check { name: TASKS, ok: restoring.is_empty() && !opening, detail };
    vec![group, engine, tasks]
}

fn state_text(state: &EngineState) -> String {
    match state {
        EngineState::Joining => "joining".to_owned(),
        EngineState::Restoring => "restoring".to_owned(),
        EngineState::Running => "running".to_owned(),
        EngineState::Waiting(reason) => format!("waiting: {reason}"),
        EngineState::Halted(reason) => format!("halted: {reason}"),
        EngineState::Stopping => "stopping".to_owned(),
        EngineState::Failed(reason) => format!("failed: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_stream::engine::{TaskStatus, ThreadStatus};
    use holdfast_types::Assignment;

    use super::*;
    use crate::query::testing::{FakeView, SELF, member};

    fn status(state: EngineState, generation: i32) -> EngineStatus {
        let thread = ThreadStatus { index: 0, alive: true, idle_ms: 5, tasks: Vec::new(), processed_records: 0 };
        EngineStatus { threads: vec![thread], ..EngineStatus::of(state, generation) }
    }

    fn ok(checks: Vec<Check>) -> bool {
        Report::of(checks).passes()
    }

    #[test]
    fn live_means_not_wedged() {
        assert!(ok(live(&status(EngineState::Joining, -1))));
        assert!(ok(live(&status(EngineState::Waiting("broker away".to_owned()), 3))));
        assert!(ok(live(&status(EngineState::Halted("a topic is gone".to_owned()), 3))), "a restart mends no topic");
        assert!(!ok(live(&status(EngineState::Failed("disk".to_owned()), 3))));
        let mut wedged = status(EngineState::Running, 3);
        wedged.threads[0].idle_ms = WEDGED_MS + 1;
        assert!(!ok(live(&wedged)));
        wedged.threads[0] = ThreadStatus { alive: false, idle_ms: 0, ..wedged.threads[0].clone() };
        assert!(!ok(live(&wedged)));
        wedged.state = EngineState::Stopping;
        assert!(ok(live(&wedged)));
    }

    #[test]
    fn ready_means_can_answer_and_process() {
        for (state, generation, expected) in [
            (EngineState::Joining, -1, false),
            (EngineState::Waiting("no broker".to_owned()), -1, false),
            (EngineState::Restoring, 3, false),
            (EngineState::Running, 3, true),
            (EngineState::Waiting("broker away".to_owned()), 3, true),
            (EngineState::Halted("a topic is gone".to_owned()), 3, false),
            (EngineState::Stopping, 3, false),
            (EngineState::Failed("disk".to_owned()), 3, false),
        ] {
            assert_eq!(ok(ready(&status(state.clone(), generation))), expected, "{state:?}");
        }
        let mut restoring = status(EngineState::Waiting("broker away".to_owned()), 3);
        restoring.tasks.push(task(Role::Restoring, AssignedRole::Active));
        assert!(!ok(ready(&restoring)), "an incomplete copy cannot answer");
    }

    fn task(role: Role, assigned: AssignedRole) -> TaskStatus {
        TaskStatus {
            id: "0_1".parse().unwrap(),
            role,
            assigned,
            thread: None,
            stores: Vec::new(),
            committed: Default::default(),
            lag_records: Default::default(),
            changelog_lag: None,
            staleness_ms: None,
            stream_time_ms: -1,
            restore: None,
            waiting_for: None,
        }
    }

    #[test]
    fn copies_are_waited_for_until_they_have_caught_up() {
        let mut following = status(EngineState::Running, 3);
        for assigned in [AssignedRole::Standby, AssignedRole::WarmUp] {
            for (role, expected) in [(Role::Restoring, false), (Role::Standby, true)] {
                following.tasks = vec![task(role, assigned)];
                assert_eq!(copies(&following).ok, expected, "{assigned:?} {role:?}");
                assert!(ok(ready(&following)), "others answer for what this one follows");
            }
        }
    }

    #[test]
    fn once_ready_a_missing_key_takes_no_instance_out_of_the_load_balancer() {
        let view = FakeView::new();
        let health = Health::new(view.queries(), ReadyWhen::Answering);
        let members = |others: &[&str]| {
            let members = [SELF].iter().chain(others).map(|address| member(address, Vec::new(), Vec::new())).collect();
            let (active, standby, warmup) = (Vec::new(), Vec::new(), Vec::new());
            let assignment = Assignment { generation: 4, tenure: 0, active, standby, warmup, members };
            view.set_cluster(|cluster| cluster.with_assignment(&assignment));
        };
        members(&["127.0.0.2:7071"]);
        let failing = || {
            let report = health.ready();
            report.checks.into_iter().filter(|check| !check.ok).map(|check| check.name).collect::<Vec<_>>()
        };
        // The first time, somebody must answer for every key, and the own tasks must be complete.
        view.close("Words", 1);
        assert_eq!(failing(), ["keys"]);
        let task = "0_1".parse().unwrap();
        view.open("Words", task, Role::Active, Vec::new());
        assert_eq!(failing(), [""; 0]);
        view.close("Words", 1);
        view.set_restoring(task, 500, None);
        assert_eq!(failing(), [""; 0]);
        // A membership that was lost begins anew.
        view.set_generation(-1);
        assert_eq!(failing(), ["group", "tasks", "keys"]);
        view.set_generation(5);
        assert_eq!(failing(), ["tasks", "keys"]);
        // Alone, what is missing here is missing for everybody, and there are no others that would be taken out with it.
        let view = FakeView::new();
        let health = Health::new(view.queries(), ReadyWhen::Answering);
        assert!(health.ready().passes());
        view.close("Words", 1);
        assert!(!health.ready().passes());
    }
}
