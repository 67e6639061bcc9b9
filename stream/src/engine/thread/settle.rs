//! What follows a seal's outcome, and what follows an error of a task.

use std::time::{Duration, Instant};

use holdfast_types::{TaskId, TopicPartition};
use tracing::{debug, info, warn};

use super::{Loop, ThreadEvent};
use crate::{
    engine::{committer::Outcome, config::OffsetReset, metrics},
    errors::Failure,
    kafka::{FetchError, StartOffset},
    processor::TaskGraph,
    task::{ActiveTask, TaskError},
};

/// How long a given-up commit may take to notice.
const CANCEL_DEADLINE: Duration = Duration::from_secs(3);
/// How long the last records of a topic that is gone may take to be committed.
const RECREATED_DEADLINE: Duration = Duration::from_secs(8);

impl Loop {
    pub(super) fn send_superseded(&mut self) -> Result<(), String> {
        let Some((mut seal, _)) = self.superseded.take() else { return Ok(()) };
        seal.tasks.retain(|part| self.tasks.contains_key(&part.task));
        self.in_flight.retain(|id| self.tasks.contains_key(id));
        // What came since goes with it: one commit instead of two, and somebody may wait for the tasks.
        if !self.tasks.values().any(ActiveTask::is_careful) {
            let later = self.seal_tasks(|_| true)?;
            // A task that has two parts in it hears twice that one is committed.
            self.in_flight.extend(later.iter().map(|part| part.task));
            seal.append(later);
        }
        if seal.tasks.is_empty() {
            self.in_flight.clear();
            return self.rewind_condemned();
        }
        self.send_in_flight(seal)
    }

    pub(super) fn take_outcome(&mut self) -> Result<(), String> {
        if self.in_flight.is_empty() || self.superseded.is_some() {
            return Ok(());
        }
        match self.committer.try_outcome() {
            Some(outcome) => {
                self.settle(outcome)?;
                self.rewind_condemned()
            }
            None if self.committer.is_dead() => Err("the commit thread is gone".to_owned()),
            None => Ok(()),
        }
    }

    pub(super) fn settle(&mut self, outcome: Outcome) -> Result<(), String> {
        let in_flight = std::mem::take(&mut self.in_flight);
        match outcome {
            Outcome::Committed { took, records } => {
                metrics::committed(took, records as u64);
                let share = self.context.budget.dirty_limit_bytes() / (2 * self.tasks.len().max(1) as u64);
                for id in in_flight {
                    if let Some(task) = self.tasks.get_mut(&id) {
                        task.committed();
                        if task.cached_bytes() as u64 > share {
                            task.evict(share as usize / 2);
                        }
                    }
                }
                self.view.turn();
                Ok(())
            }
            Outcome::Superseded { seal, generation } => {
                metrics::commit_failed("superseded");
                info!(thread = self.index, "the generation ended before a commit: it goes again under the next one");
                self.in_flight = in_flight;
                self.superseded = Some((seal, generation));
                self.look_for_generation()
            }
            Outcome::NotAMember => {
                metrics::commit_failed("not_a_member");
                let tasks = self.drop_all_tasks();
                let _ = self.context.events.send(ThreadEvent::NotAMember { tenure: self.tenure, tasks });
                Ok(())
            }
            Outcome::RecordRefused { task, what, dead_letter, seal } => {
                metrics::commit_failed("record_refused");
                let error = match self.tasks.get_mut(&task) {
                    Some(active) if dead_letter => active.refused_letter(what),
                    Some(active) => active.refused(Failure::refused_result(what)),
                    None => TaskError::RollBack { task, marked: None, reason: what },
                };
                // The other tasks' parts are sound, and on their way before anybody goes back.
                let mut seal = seal;
                seal.tasks.retain(|part| part.task != task && self.tasks.contains_key(&part.task));
                if !seal.tasks.is_empty() {
                    self.send(seal)?;
                }
                self.task_failed(error)
            }
            Outcome::ProducerLost { reason } => {
                metrics::commit_failed("producer_lost");
                let tasks = self.drop_all_tasks();
                let _ = self.context.events.send(ThreadEvent::Restart { thread: self.index, tasks, reason });
                Ok(())
            }
            Outcome::Store { task, error } => Err(format!("task {task}: {error}")),
            Outcome::Refused { reason } => Err(reason),
        }
    }

    /// Takes condemned tasks back to their last commit, once no seal of theirs is on its way.
    pub(super) fn rewind_condemned(&mut self) -> Result<(), String> {
        if self.superseded.is_some() {
            return Ok(());
        }
        let settled = |id: &TaskId| !self.in_flight.contains(id);
        let ready: Vec<TaskId> =
            self.tasks.values().filter(|task| task.is_condemned()).map(|task| task.id).filter(settled).collect();
        for id in ready {
            let Some(task) = self.tasks.get_mut(&id) else { continue };
            let graph = TaskGraph::build(&self.context.topology, id.subtopology, task.store.tables());
            let graph = graph.map_err(|error| format!("task {id}: {error}"))?;
            task.rewind(graph, &self.context.consumer).map_err(|error| format!("task {id}: {error}"))?;
        }
        Ok(())
    }

    /// What is held up goes on its way when the member is in another generation. Its assignment may have come before.
    pub(super) fn look_for_generation(&mut self) -> Result<(), String> {
        let Some((_, over)) = &self.superseded else { return Ok(()) };
        match self.context.group.metadata() {
            Some(group) if group.generation != *over => self.send_superseded(),
            _ => Ok(()),
        }
    }

    /// What follows an error of one task.
    pub(super) fn task_failed(&mut self, error: TaskError) -> Result<(), String> {
        match error {
            TaskError::RollBack { task, marked, reason } => {
                metrics::rolled_back(if marked.is_some() { "marked_record" } else { "uncommittable" });
                debug!(%task, reason, "task goes back to its last commit");
                if let Some(active) = self.tasks.get_mut(&task) {
                    active.condemn(marked.map(|marked| *marked));
                }
                self.rewind_condemned()
            }
            TaskError::Fetch { task, source: FetchError::OffsetOutOfRange { partition, message } } => {
                self.out_of_range(task, &partition, &message)
            }
            error => Err(error.to_string()),
        }
    }

    /// The offset to read is not in the log any more (retention) or not yet (the topic was recreated).
    fn out_of_range(&mut self, task: TaskId, partition: &TopicPartition, message: &str) -> Result<(), String> {
        let Some(start) = self.reset_offset(partition) else {
            self.give_up(format!(
                "{partition}: the offset to read is outside the log ({message}), and offset_reset is none: set it to earliest \
                 or latest, or set the group's offset with kafka-consumer-groups --reset-offsets"
            ));
            return Ok(());
        };
        let offset = self.tasks.get(&task).and_then(|active| active.next_offset(partition));
        warn!(
            %task, offset, reason = message, ?start,
            "the offset to read of {partition} is outside the log: records were deleted before they were read (retention), or \
             the topic was recreated; going on by offset_reset"
        );
        self.begin_anew(task, partition, start)
    }

    /// An input topic was deleted and created again: offsets of the old one mean nothing in the new one.
    pub(super) fn input_recreated(&mut self, topic: &str, old_seen: Instant) -> Result<(), String> {
        // What was read of the old topic counts; nothing may be on its way when the offsets begin anew.
        self.commit_now(RECREATED_DEADLINE)?;
        let readers = self.tasks.values().flat_map(|task| {
            let inputs = task.inputs.iter().map(|input| input.queue.partition());
            inputs.filter(|partition| &*partition.topic == topic).map(|partition| (task.id, partition.clone()))
        });
        for (task, partition) in readers.collect::<Vec<_>>() {
            // An offset outside the log showed it first, and the input is in the new topic already.
            if self.begun_anew.get(&partition).is_some_and(|at| *at > old_seen) {
                continue;
            }
            let Some(start) = self.reset_offset(&partition) else {
                self.give_up(format!(
                    "input topic {topic} was deleted and created again, and offset_reset is none: set it to earliest or latest"
                ));
                return Ok(());
            };
            self.begin_anew(task, &partition, start)?;
        }
        Ok(())
    }

    fn begin_anew(&mut self, task: TaskId, partition: &TopicPartition, start: StartOffset) -> Result<(), String> {
        let Some(active) = self.tasks.get_mut(&task) else { return Ok(()) };
        active.begin_anew(&self.context.consumer, partition, start).map_err(|error| format!("task {task}: {error}"))?;
        self.begun_anew.insert(partition.clone(), Instant::now());
        Ok(())
    }

    /// Where to begin in an input without a usable offset; `None`: nowhere. What stands between sub-topologies is ours, and
    /// all of it counts.
    pub(super) fn reset_offset(&self, partition: &TopicPartition) -> Option<StartOffset> {
        let config = &self.context.config;
        let mut sources = self.context.topology.subtopologies().iter().flat_map(|subtopology| &subtopology.sources);
        let between = sources.any(|source| {
            source.repartition.is_some() && source.topic.resolve(&config.application_id) == partition.topic
        });
        match config.offset_reset {
            _ if between => Some(StartOffset::Beginning),
            OffsetReset::Earliest => Some(StartOffset::Beginning),
            OffsetReset::Latest => Some(StartOffset::End),
            OffsetReset::None => None,
        }
    }

    /// Drops all tasks: no new thread would do better.
    pub(super) fn give_up(&mut self, reason: String) {
        self.drop_all_tasks();
        let _ = self.context.events.send(ThreadEvent::Fatal { reason });
    }

    /// Seals and waits until everything is committed, or the deadline has passed.
    pub(super) fn commit_now(&mut self, deadline: Duration) -> Result<(), String> {
        let until = Instant::now() + deadline;
        self.settle_in_flight(deadline)?;
        while self.superseded.is_none() {
            self.seal()?;
            self.settle_in_flight(until.saturating_duration_since(Instant::now()))?;
            // Slow closures may take several turns to get all their rows.
            if Instant::now() >= until || !self.tasks.values().any(ActiveTask::is_forwarding) {
                break;
            }
        }
        Ok(())
    }

    /// Waits until the seal in flight, if there is one, is committed; past the deadline it is given up.
    pub(super) fn settle_in_flight(&mut self, deadline: Duration) -> Result<(), String> {
        let mut left = deadline;
        while !self.in_flight.is_empty() && self.superseded.is_none() {
            self.view.turn();
            match self.committer.wait_outcome(left) {
                Some(outcome) => self.settle(outcome)?,
                None if self.committer.is_dead() => return Err("the commit thread is gone".to_owned()),
                None => {
                    warn!(thread = self.index, "a commit did not end in time; what it holds is processed again");
                    self.committer.cancel();
                    left = CANCEL_DEADLINE;
                }
            }
        }
        self.rewind_condemned()
    }
}
