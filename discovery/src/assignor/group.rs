//! The group with everything numbered, so that questions about a task and a member are answered at once.

use holdfast_types::{ProcessId, TaskId};

use super::{AssignorSettings, Member, topology::Form};

/// A task that the group runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) id: TaskId,
    /// Index of its sub-topology's form.
    pub(super) form: usize,
    pub(super) stateful: bool,
}

/// Members and tasks, by index; tasks are in the order of their ids.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) members: &'a [Member],
    pub(super) forms: Vec<Form<'a>>,
    pub(super) tasks: Vec<Task>,
    /// By form, the index of its first task.
    first_task: Vec<usize>,
    /// By member.
    process_ids: Vec<ProcessId>,
    /// Who may be processing each task.
    owner: Vec<Option<usize>>,
    /// To whom each task is on its way.
    promised: Vec<Option<usize>>,
    /// By form and member: whether the member has it and does not drain.
    runs: Vec<bool>,
    /// By task and member; the largest number where there is no copy.
    lag: Vec<u64>,
    /// By task and member: whether it follows the task now.
    followed: Vec<bool>,
    /// By member and important tag: a number for what the member says; one that does not say differs from all others.
    tags: Vec<Vec<Option<usize>>>,
    acceptable_lag: u64,
}

impl<'a> Group<'a> {
    pub(super) fn new(members: &'a [Member], forms: Vec<Form<'a>>, settings: &AssignorSettings) -> Self {
        let (mut tasks, mut first_task) = (Vec::new(), Vec::with_capacity(forms.len()));
        let mut runs = Vec::with_capacity(forms.len() * members.len());
        for (form, Form { spec, having }) in forms.iter().enumerate() {
            let stateful = !spec.stores.is_empty();
            let ids = (0..spec.partitions).map(|partition| TaskId::new(spec.id, partition));
            first_task.push(tasks.len());
            tasks.extend(ids.map(|id| Task { id, form, stateful }));
            runs.extend(members.iter().enumerate().map(|(index, member)| having.contains(&index) && !member.draining));
        }
        let cells = tasks.len() * members.len();
        let mut group = Self {
            members,
            owner: vec![None; tasks.len()],
            promised: vec![None; tasks.len()],
            process_ids: members.iter().map(|member| member.instance.process_id).collect(),
            forms,
            tasks,
            first_task,
            runs,
            lag: vec![u64::MAX; cells],
            followed: vec![false; cells],
            tags: tags(members, &settings.rack_aware_assignment_tags),
            acceptable_lag: settings.acceptable_recovery_lag,
        };
        for (index, member) in members.iter().enumerate() {
            group.enter(index, member);
        }
        for (task, owner) in group.owner.iter().enumerate() {
            // An owner that says nothing else has all there is.
            if let Some(lag) = owner.and_then(|owner| group.lag.get_mut(task * members.len() + owner)) {
                *lag = if *lag == u64::MAX { 0 } else { *lag };
            }
        }
        group
    }

    fn enter(&mut self, index: usize, member: &Member) {
        for (task, lag) in &member.lags {
            if let Some(task) = self.task(*task) {
                let cell = self.cell(task, index);
                self.lag[cell] = *lag;
            }
        }
        for task in &member.followed {
            if let Some(task) = self.task(*task) {
                let cell = self.cell(task, index);
                self.followed[cell] = true;
            }
        }
        // Of two that claim the same, the one with the later generation is right: the other's claim is from before it was
        // removed.
        let later = |other: Option<usize>| {
            other.is_none_or(|other| {
                let other = &self.members[other];
                let order = (other.generation, other.instance.process_id);
                order < (member.generation, member.instance.process_id)
            })
        };
        for task in member.owned.iter().filter_map(|task| self.task(*task)).collect::<Vec<_>>() {
            if later(self.owner[task]) {
                self.owner[task] = Some(index);
            }
        }
        for task in member.promised.iter().filter_map(|task| self.task(*task)).collect::<Vec<_>>() {
            if later(self.promised[task]) {
                self.promised[task] = Some(index);
            }
        }
    }

    /// The index of a task, if the group runs it.
    pub(super) fn task(&self, id: TaskId) -> Option<usize> {
        let form = self.forms.binary_search_by_key(&id.subtopology, |form| form.spec.id).ok()?;
        let known = (0..self.forms[form].spec.partitions).contains(&id.partition);
        Some(self.first_task[form] + usize::try_from(id.partition).ok().filter(|_| known)?)
    }

    fn cell(&self, task: usize, member: usize) -> usize {
        task * self.members.len() + member
    }

    /// Who may be processing the task.
    pub(super) fn owner(&self, task: usize) -> Option<usize> {
        self.owner[task]
    }

    /// To whom the task is on its way.
    pub(super) fn promised(&self, task: usize) -> Option<usize> {
        self.promised[task]
    }

    /// Whether the member may get the task: it has its sub-topology and does not drain.
    pub(super) fn runs(&self, task: usize, member: usize) -> bool {
        self.runs_form(self.tasks[task].form, member)
    }

    /// Whether the member may get tasks of the form.
    pub(super) fn runs_form(&self, form: usize, member: usize) -> bool {
        self.runs[form * self.members.len() + member]
    }

    /// Whether the form's tasks have state.
    pub(super) fn is_stateful(&self, form: usize) -> bool {
        !self.forms[form].spec.stores.is_empty()
    }

    /// Whether the member has the task's sub-topology.
    pub(super) fn has(&self, task: usize, member: usize) -> bool {
        self.forms[self.tasks[task].form].having.contains(&member)
    }

    /// Who may get the task, in ascending order.
    pub(super) fn runners(&self, task: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.len()).filter(move |member| self.runs(task, *member))
    }

    /// Whether the member may follow the task.
    pub(super) fn may_follow(&self, task: usize, member: usize) -> bool {
        self.tasks[task].stateful && self.members[member].follows && self.runs(task, member)
    }

    /// Whether the member follows the task now.
    pub(super) fn follows(&self, task: usize, member: usize) -> bool {
        self.followed[self.cell(task, member)]
    }

    /// How far behind the member's copy is; the largest number where it has none.
    pub(super) fn lag(&self, task: usize, member: usize) -> u64 {
        self.lag[self.cell(task, member)]
    }

    /// Whether the member could take the task over without replaying much. Everybody can take over what has no state.
    pub(super) fn caught_up(&self, task: usize, member: usize) -> bool {
        !self.tasks[task].stateful || self.lag(task, member) <= self.acceptable_lag
    }

    /// Whether the task is best left where it is, or where it is on its way to.
    ///
    /// An owner that still restores gives way to a copy that has caught up and stood still since: that of a process which is
    /// back with its disk. A copy that is followed gains as the owner does, and only seems to be further, because its member
    /// told its position later.
    pub(super) fn keeps(&self, task: usize, member: usize) -> bool {
        if !self.runs(task, member) {
            return false;
        }
        match self.owner[task] {
            None => self.promised[task] == Some(member),
            Some(owner) => {
                let rival = |other: usize| other != owner && self.caught_up(task, other) && !self.follows(task, other);
                owner == member
                    && (self.caught_up(task, owner) || !self.may_follow(task, owner) || !self.runners(task).any(rival))
            }
        }
    }

    /// Whether anybody who may get the task has caught up.
    pub(super) fn somebody_caught_up(&self, task: usize) -> bool {
        self.runners(task).any(|member| self.caught_up(task, member))
    }

    /// What a member can carry, in stream threads.
    pub(super) fn weight(&self, member: usize) -> u64 {
        u64::from(self.members[member].instance.threads.max(1))
    }

    /// Breaks ties between members.
    pub(super) fn process_id(&self, member: usize) -> ProcessId {
        self.process_ids[member]
    }

    /// Of `others`, how many are in the member's zone, rack, …: the smaller, the safer a copy is there. The most important
    /// tag weighs most.
    pub(super) fn crowding(&self, member: usize, others: impl Iterator<Item = usize> + Clone) -> u64 {
        let alike = |(tag, value): (usize, &Option<usize>)| {
            let same = |other: &usize| value.is_some() && self.tags[*other].get(tag) == Some(value);
            others.clone().filter(same).count() as u64
        };
        // More than 255 copies of a task in one zone count as 255.
        self.tags[member].iter().enumerate().map(alike).fold(0, |sum, alike| (sum << 8) | alike.min(255))
    }
}

/// By member and tag, a number for its value: the first member that says the same.
fn tags(members: &[Member], names: &[String]) -> Vec<Vec<Option<usize>>> {
    let number = |member: &Member, name: &String| {
        let said = member.instance.tags.get(name)?;
        members.iter().position(|other| other.instance.tags.get(name) == Some(said))
    };
    members.iter().map(|member| names.iter().map(|name| number(member, name)).collect()).collect()
}
