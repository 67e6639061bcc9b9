//! What instances say of their tasks: who processes what, and which copies follow.

use std::{collections::BTreeMap, time::Duration};

use crate::{instance::Instance, rest::Rest, wait};

/// A task on one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// What the group wants it to be: `active`, `standby` or `warm_up`.
    pub assigned: String,
    /// What its copy is: `active`, `standby` or `restoring`.
    pub role: String,
    /// Changelog records that a copy which is followed is behind.
    pub lag: Option<u64>,
}

/// The tasks of one instance, in order.
#[track_caller]
pub fn of(rest: &Rest) -> Vec<Task> {
    let answer = rest.fetch("/v1/tasks").expect_status(200).json();
    let tasks = answer["tasks"].as_array().unwrap_or_else(|| panic!("no tasks in {answer}"));
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    tasks
        .iter()
        .map(|task| Task {
            id: text(&task["id"]),
            assigned: text(&task["assigned"]),
            role: text(&task["role"]),
            lag: task["changelog_lag"].as_u64(),
        })
        .collect()
}

/// Where each task is processed: task → index of the instance.
pub type Homes = BTreeMap<String, usize>;

/// Waits until each of `tasks` tasks is processed by one of `instances` and followed by `standbys` others that have caught up
/// (by any number without), until nobody warms up, and until no instance processes two tasks more than another.
#[track_caller]
pub fn wait_settled(
    instances: &mut [&mut Instance],
    tasks: usize,
    standbys: impl Into<Option<usize>>,
    limit: Duration,
) -> Homes {
    let standbys = standbys.into();
    let rests: Vec<Rest> = instances.iter_mut().map(|instance| instance.rest()).collect();
    wait::until("the tasks to be where they belong", limit, || {
        let seen: Vec<Vec<Task>> = rests.iter().map(of).collect();
        settled(&seen, tasks, standbys).ok_or_else(|| format!("{seen:?}"))
    })
}

/// Waits until each of `tasks` tasks is processed by one of these; answers whether each is followed by another one besides.
#[track_caller]
pub fn wait_processed(rests: &[Rest], tasks: usize, limit: Duration) -> bool {
    wait::until("each task to be processed by one instance", limit, || {
        let seen: Vec<Vec<Task>> = rests.iter().map(of).collect();
        let mut copies: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for task in seen.iter().flatten() {
            let (active, standby) = copies.entry(&task.id).or_default();
            match (&*task.assigned, &*task.role) {
                ("active", "active") => *active += 1,
                (_, "standby") => *standby += 1,
                _ => {}
            }
        }
        let once = copies.len() == tasks && copies.values().all(|(active, _)| *active == 1);
        if once { Ok(copies.values().all(|(_, standby)| *standby > 0)) } else { Err(format!("{seen:?}")) }
    })
}

fn settled(seen: &[Vec<Task>], tasks: usize, standbys: Option<usize>) -> Option<Homes> {
    let mut homes = Homes::new();
    let mut copies: BTreeMap<&str, usize> = BTreeMap::new();
    let mut loads = vec![0; seen.len()];
    for (index, held) in seen.iter().enumerate() {
        for task in held {
            match (&*task.assigned, &*task.role) {
                ("active", "active") => {
                    loads[index] += 1;
                    if homes.insert(task.id.clone(), index).is_some() {
                        return None;
                    }
                }
                ("standby", "standby") if task.lag.is_some() => *copies.entry(&task.id).or_default() += 1,
                _ => return None,
            }
        }
    }
    let even = loads.iter().max()? - loads.iter().min()? <= 1;
    let followed = |standbys| homes.keys().all(|task| copies.get(&**task).copied().unwrap_or(0) == standbys);
    (homes.len() == tasks && even && standbys.is_none_or(followed)).then_some(homes)
}
