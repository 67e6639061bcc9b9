//! Watching the application's topics: which were deleted, created again, or given more partitions while it runs.

use std::{
    collections::BTreeMap,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::metrics;
use crate::kafka::admin::{TopicAdmin, TopicState};

/// How long a change may go unnoticed: a request that costs the broker next to nothing.
const INTERVAL: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(5);

/// What the application uses a topic for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TopicUse {
    /// Others write it, tasks read it.
    Input,
    /// Between sub-topologies.
    Repartition,
    /// A store's write-ahead log.
    Changelog,
    /// Written, never read here: outputs and dead letters.
    Output,
}

impl TopicUse {
    fn words(self) -> &'static str {
        match self {
            Self::Input => "input topic",
            Self::Repartition => "repartition topic",
            Self::Changelog => "changelog",
            Self::Output => "output topic",
        }
    }
}

/// What became of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopicChange {
    /// It does not exist any more.
    Missing,
    /// This user may not see it any more.
    Denied,
    /// It is as it was.
    Back,
    /// It was deleted and created again, with as many partitions.
    Recreated,
    /// It has another number of partitions.
    Resized {
        /// Partitions that the tasks were made for.
        from: i32,
        /// Partitions that it has.
        to: i32,
    },
}

/// A change that the engine has to do something about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TopicEvent {
    pub(super) topic: String,
    pub(super) usage: TopicUse,
    pub(super) change: TopicChange,
    /// When the topic was last known to be as it was.
    pub(super) before: Instant,
}

/// One topic as it was last seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct WatchedTopic {
    pub(super) usage: TopicUse,
    pub(super) id: Option<Uuid>,
    pub(super) partitions: i32,
    /// The change that was told last, while it lasts.
    trouble: Option<TopicChange>,
}

impl WatchedTopic {
    pub(super) fn new(usage: TopicUse, id: Option<Uuid>, partitions: i32) -> Self {
        Self { usage, id, partitions, trouble: None }
    }

    /// What is new, told once.
    fn observe(&mut self, state: TopicState) -> Option<TopicChange> {
        let trouble = match state {
            TopicState::Missing => Some(TopicChange::Missing),
            TopicState::Denied => Some(TopicChange::Denied),
            TopicState::Present { partitions, .. } if partitions != self.partitions => {
                Some(TopicChange::Resized { from: self.partitions, to: partitions })
            }
            TopicState::Present { .. } => None,
        };
        if let TopicState::Present { id, .. } = state
            && let Some(id) = id
            && let Some(known) = self.id.replace(id)
            && known != id
            && trouble.is_none()
        {
            self.trouble = None;
            return Some(TopicChange::Recreated);
        }
        if trouble == self.trouble {
            return None;
        }
        self.trouble = trouble;
        Some(trouble.unwrap_or(TopicChange::Back))
    }
}

/// The thread that asks the cluster every now and then. Dropping it ends it.
#[derive(Debug)]
pub(super) struct TopicWatch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TopicWatch {
    /// Watches `topics`; `events` hears of every change, after it was logged.
    pub(super) fn start(
        admin: TopicAdmin,
        mut topics: BTreeMap<String, WatchedTopic>,
        events: Sender<TopicEvent>,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let thread = std::thread::Builder::new().name("topics".to_owned()).spawn(move || {
            let names: Vec<String> = topics.keys().cloned().collect();
            let mut before = Instant::now();
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let asked = Instant::now();
                // A cluster that does not answer is told by those who wait for it.
                let states = match admin.topic_states(&names, DEADLINE) {
                    Ok(states) => states,
                    Err(error) => {
                        debug!(%error, "the topics could not be looked at");
                        continue;
                    }
                };
                for (topic, state) in states {
                    if let Some(watched) = topics.get_mut(&topic)
                        && let Some(change) = watched.observe(state)
                    {
                        tell(&topic, watched.usage, change);
                        let _ = events.send(TopicEvent { topic, usage: watched.usage, change, before });
                    }
                }
                before = asked;
                metrics::topics_in_trouble(topics.values().filter(|topic| topic.trouble.is_some()).count());
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for TopicWatch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread that watches topics panicked");
        }
    }
}

/// Says what an operator should know; what the engine acts upon is said there.
fn tell(topic: &str, usage: TopicUse, change: TopicChange) {
    let what = usage.words();
    match (usage, change) {
        (TopicUse::Input, TopicChange::Missing) => {
            warn!(topic, "{what} {topic} was deleted: its tasks wait until it is created again");
        }
        (TopicUse::Output, TopicChange::Missing) => {
            warn!(topic, "{what} {topic} was deleted: commits that write to it wait until it is created again");
        }
        (_, TopicChange::Denied) => {
            warn!(topic, "{what} {topic} cannot be seen any more: this user lost its Describe permission");
        }
        (_, TopicChange::Back) => info!(topic, "{what} {topic} is there again"),
        (TopicUse::Output, TopicChange::Recreated) => {
            info!(topic, "{what} {topic} was deleted and created again: it holds what is written from now on");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(id: u128, partitions: i32) -> TopicState {
        TopicState::Present { id: Some(Uuid::from_u128(id)), partitions }
    }

    #[test]
    fn each_change_is_told_once() {
        let mut topic = WatchedTopic::new(TopicUse::Input, Some(Uuid::from_u128(1)), 3);
        for (state, told) in [
            (present(1, 3), None),
            (TopicState::Missing, Some(TopicChange::Missing)),
            (TopicState::Missing, None),
            (present(1, 3), Some(TopicChange::Back)),
            (present(2, 3), Some(TopicChange::Recreated)),
            (present(2, 3), None),
            (TopicState::Missing, Some(TopicChange::Missing)),
            (present(3, 3), Some(TopicChange::Recreated)),
            (present(3, 5), Some(TopicChange::Resized { from: 3, to: 5 })),
            (present(3, 5), None),
            (present(4, 5), None),
            (TopicState::Denied, Some(TopicChange::Denied)),
            (present(4, 3), Some(TopicChange::Back)),
            (TopicState::Present { id: None, partitions: 3 }, None),
        ] {
            assert_eq!(topic.observe(state), told, "{state:?}");
        }
    }
}
