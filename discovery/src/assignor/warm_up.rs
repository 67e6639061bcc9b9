//! Where each active task is done now, and which copies warm up so that it can move to its target.

use std::collections::HashSet;

use super::{
    group::Group,
    load::{Loads, least, readiness},
};

/// Where tasks and their copies are in this generation, by task.
#[derive(Debug)]
pub(super) struct Plan {
    /// Who does the task.
    pub(super) homes: Vec<Option<usize>>,
    /// Who follows it as standby.
    pub(super) standbys: Vec<Vec<usize>>,
    /// Who follows it to get more of it later.
    pub(super) warm_ups: Vec<WarmUp>,
}

/// A copy that has to catch up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WarmUp {
    pub(super) task: usize,
    pub(super) member: usize,
    /// Whether it becomes a standby; else the task moves to it.
    pub(super) as_standby: bool,
}

/// The homes for a target: the target itself where it has caught up, or nobody has, or it cannot warm up. Elsewhere the
/// task stays with its owner, or goes to whoever has caught up and carries least, while the target warms up.
pub(super) fn homes(group: &Group<'_>, target: &[Option<usize>]) -> Plan {
    let mut homes: Vec<Option<usize>> = vec![None; target.len()];
    let mut loads = Loads::new(group);
    let mut waiting = Vec::new();
    for (task, &to) in target.iter().enumerate() {
        let home = match to {
            // Whoever could get it drains: its owner keeps it until it leaves.
            None => group.owner(task).filter(|owner| group.has(task, *owner)),
            Some(to) if goes_at_once(group, task, to) => Some(to),
            Some(to) => {
                waiting.push((task, to));
                continue;
            }
        };
        homes[task] = home;
        home.iter().for_each(|home| loads.add(*home));
    }
    let mut warm_ups = Vec::with_capacity(waiting.len());
    for (task, to) in waiting {
        let ready = |member: &usize| group.caught_up(task, *member);
        let owner = group.owner(task).filter(|&owner| group.keeps(task, owner));
        let home =
            owner.or_else(|| least(group, &loads, group.runners(task).filter(ready), |member| group.lag(task, member)));
        homes[task] = home;
        home.iter().for_each(|home| loads.add(*home));
        warm_ups.push(WarmUp { task, member: to, as_standby: false });
    }
    Plan { standbys: vec![Vec::new(); homes.len()], homes, warm_ups }
}

/// Whether a member may do a task without warming up before.
fn goes_at_once(group: &Group<'_>, task: usize, to: usize) -> bool {
    group.keeps(task, to) || group.caught_up(task, to) || !group.may_follow(task, to) || !group.somebody_caught_up(task)
}

impl Plan {
    /// Keeps as many warm-ups as may run at a time: those that run already, then those of active tasks, then those that are
    /// nearest to their end. None is begun while a process is `awaited`. Answers whether anything has to catch up before the
    /// plan is what it should be.
    pub(super) fn limit_warm_ups(&mut self, group: &Group<'_>, most: usize, awaited: bool) -> bool {
        let wanted = !self.warm_ups.is_empty();
        // A standby catches up without being a warm-up too.
        let standbys = &self.standbys;
        self.warm_ups.retain(|warm_up| !standbys[warm_up.task].contains(&warm_up.member));
        self.warm_ups.sort_by_key(|&WarmUp { task, member, as_standby }| {
            (!group.follows(task, member), as_standby, readiness(group, task, member), task)
        });
        // A member that should get the task and be a standby meanwhile warms up once.
        let mut seen = HashSet::new();
        self.warm_ups.retain(|warm_up| seen.insert((warm_up.task, warm_up.member)));
        self.warm_ups.retain(|warm_up| !awaited || group.follows(warm_up.task, warm_up.member));
        self.warm_ups.truncate(most);
        wanted
    }
}
