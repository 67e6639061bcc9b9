//! From the plan to what may be given out now.

use std::collections::HashMap;

use super::{
    MemberTasks,
    group::Group,
    warm_up::{Plan, WarmUp},
};

/// What each member gets now.
///
/// Gives each task to its home unless another member, or a task of another form, still has it; the home then keeps following
/// it, so that it has not fallen behind when the task comes.
pub(super) fn hand_over(group: &Group<'_>, plan: &Plan) -> Vec<MemberTasks> {
    let claims = Claims::new(group);
    let mut tasks = vec![MemberTasks::default(); group.members.len()];
    for (index, task) in group.tasks.iter().enumerate() {
        let standbys = &plan.standbys[index];
        for standby in standbys {
            tasks[*standby].standby.push(task.id);
        }
        let Some(home) = plan.homes[index] else { continue };
        if !claims.is_free(group, index, home) {
            tasks[home].promised.push(task.id);
            if group.may_follow(index, home) && !standbys.contains(&home) {
                tasks[home].warmup.push(task.id);
            }
        } else {
            tasks[home].active.push(task.id);
        }
    }
    for WarmUp { task, member, .. } in &plan.warm_ups {
        tasks[*member].warmup.push(group.tasks[*task].id);
    }
    tasks.iter_mut().for_each(|tasks| tasks.warmup.sort_unstable());
    tasks
}

/// What members may be processing that is no task of the group's forms: during a roll that changes the topology, the same
/// store or topic may belong to a task with another id.
struct Claims<'a> {
    /// Store or topic, and partition → who has it. The two kinds of names may meet; then a task waits in vain for one
    /// generation, and no harm is done.
    foreign: HashMap<(&'a str, i32), usize>,
}

impl<'a> Claims<'a> {
    fn new(group: &'a Group<'a>) -> Self {
        let mut foreign = HashMap::new();
        for (index, member) in group.members.iter().enumerate() {
            for task in &member.owned {
                let is_form = |form: usize| group.forms[form].having.contains(&index);
                if group.task(*task).is_some_and(|task| is_form(group.tasks[task].form)) {
                    continue;
                }
                let Some(spec) = member.subtopologies.iter().find(|spec| spec.id == task.subtopology) else { continue };
                let names = spec
                    .stores
                    .iter()
                    .map(|store| store.as_str())
                    .chain(spec.source_topics.iter().map(|topic| &**topic));
                foreign.extend(names.map(|name| ((name, task.partition), index)));
            }
        }
        Self { foreign }
    }

    fn is_free(&self, group: &Group<'_>, task: usize, home: usize) -> bool {
        if group.owner(task).is_some_and(|owner| owner != home) {
            return false;
        }
        if self.foreign.is_empty() {
            return true;
        }
        let (spec, partition) = (group.forms[group.tasks[task].form].spec, group.tasks[task].id.partition);
        let names =
            spec.stores.iter().map(|store| store.as_str()).chain(spec.source_topics.iter().map(|topic| &**topic));
        names.into_iter().all(|name| self.foreign.get(&(name, partition)).is_none_or(|other| *other == home))
    }
}
