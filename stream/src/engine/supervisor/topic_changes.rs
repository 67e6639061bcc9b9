//! What follows when a topic is deleted, created again, or given more partitions under the running engine.

use std::sync::Arc;

use holdfast_types::TaskId;
use tracing::{error, warn};

use super::{Phase, Supervisor};
use crate::engine::{
    metrics,
    thread::ThreadCommand,
    topic_watch::{TopicChange, TopicEvent, TopicUse},
};

impl Supervisor {
    /// What is only missing is waited for. An input that begins anew is read by `offset_reset`. All else would make wrong rows,
    /// quietly: processing halts, and an operator decides.
    pub(super) fn on_topic(&mut self, event: TopicEvent) {
        let TopicEvent { topic, usage, change, before } = event;
        let stateful = !self.prepared.topology.stores().is_empty();
        match (usage, change) {
            (TopicUse::Input, TopicChange::Recreated) => {
                warn!(
                    topic,
                    "input topic {topic} was deleted and created again: the committed offsets are those of the old topic, so \
                     that it is read anew by offset_reset"
                );
                let topic: Arc<str> = topic.into();
                for thread in &self.threads {
                    thread.send(ThreadCommand::InputRecreated { topic: Arc::clone(&topic), old_seen: before });
                }
                self.restore_readers(&topic);
            }
            (TopicUse::Input, TopicChange::Resized { from, to }) if !stateful && to > from => warn!(
                topic,
                "input topic {topic} has {to} partitions now, and tasks read {from}: restart to read the new ones"
            ),
            (TopicUse::Output, _) | (_, TopicChange::Denied | TopicChange::Back) => {}
            (TopicUse::Input, TopicChange::Missing) => {}
            (_, TopicChange::Resized { from, to }) => self.halt(format!(
                "topic {topic} has {to} partitions now, and the tasks, their stores and their changelogs were made for {from}: \
                 a key's records would stand in two partitions, and be counted and looked up apart. The way out: copy the \
                 input into a new topic with {to} partitions, so that each key is in one again, read that one, and run \
                 `holdfast reset --topics`"
            )),
            (TopicUse::Repartition, TopicChange::Missing | TopicChange::Recreated) => self.halt(format!(
                "repartition topic {topic} was deleted: what stood in it and was not processed is lost. The way out: `holdfast \
                 reset --topics`, which computes everything again from the input; or a restart, which goes on without it"
            )),
            (TopicUse::Changelog, TopicChange::Missing | TopicChange::Recreated) => self.halt(format!(
                "changelog {topic} was deleted: the rows here are complete, but a restore would not bring them back. The way \
                 out: `holdfast reset --topics` on all instances, which computes everything again from the input"
            )),
        }
    }

    /// Offsets that a restore has read already may be those of the old topic: it begins again.
    fn restore_readers(&mut self, topic: &str) {
        let reads = |task: &&TaskId| {
            self.tasks.get(task).is_some_and(|record| {
                matches!(record.phase, Phase::Restoring { .. })
                    && record.inputs.iter().any(|input| &*input.topic == topic)
            })
        };
        let readers: Vec<TaskId> = self.tasks.keys().filter(reads).copied().collect();
        for task in readers {
            self.restore(task);
        }
    }

    /// Stops processing for good, without a last commit; the process lives on and answers what it can.
    fn halt(&mut self, reason: String) {
        if self.halted.is_some() {
            return;
        }
        error!(reason, "processing is halted; rows up to the last commit stay readable with consistency=any");
        metrics::halted(true);
        let all: Vec<TaskId> = self.tasks.keys().copied().collect();
        self.halted = Some(reason);
        self.freeze(&all);
        self.publish();
        self.release(&all, false);
    }
}
