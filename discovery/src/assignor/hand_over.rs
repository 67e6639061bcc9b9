//! From the target to what may be given out now.

use std::collections::BTreeMap;

use holdfast_types::TaskId;

use super::MemberTasks;

/// What each member gets now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// By member, in the order of the members.
    pub tasks: Vec<MemberTasks>,
    /// Tasks that nobody gets in this generation: the member that has them releases them and joins again.
    pub withheld: Vec<TaskId>,
}

/// Gives each task to its target unless another of the `members` still owns it.
pub fn hand_over(members: usize, target: &BTreeMap<TaskId, usize>, owners: &BTreeMap<TaskId, usize>) -> HandOver {
    let mut tasks = vec![MemberTasks::default(); members];
    let mut withheld = Vec::new();
    for (task, member) in target {
        match owners.get(task) {
            Some(owner) if owner != member => withheld.push(*task),
            _ => {
                if let Some(tasks) = tasks.get_mut(*member) {
                    tasks.active.push(*task);
                }
            }
        }
    }
    HandOver { tasks, withheld }
}
