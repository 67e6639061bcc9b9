//! How long the changelogs keep deletions: `delete.retention.ms`, asked for once at the start.

use std::{collections::BTreeMap, time::Duration};

use holdfast_types::TaskId;
use tracing::warn;

use crate::kafka::admin::TopicAdmin;

const CONFIG: &str = "delete.retention.ms";
/// Kafka's default, for a broker that does not tell.
const DEFAULT: Duration = Duration::from_secs(24 * 3600);
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// The shortest retention among each sub-topology's changelogs. State that has not followed its changelog for longer is
/// rebuilt: the tombstones of keys that were deleted meanwhile may be gone, and the keys would come back.
#[derive(Debug, Default)]
pub(super) struct Retentions(BTreeMap<u32, Duration>);

impl Retentions {
    /// Asks the broker about the changelogs, each with its sub-topology.
    pub(super) fn read(admin: &TopicAdmin, changelogs: &[(u32, String)]) -> Self {
        let topics: Vec<String> = changelogs.iter().map(|(_, topic)| topic.clone()).collect();
        let told = admin.topic_config(&topics, CONFIG, ASK_LIMIT).unwrap_or_else(|error| {
            warn!(%error, "the changelogs' configs cannot be read");
            BTreeMap::new()
        });
        Self::of(changelogs, &told)
    }

    fn of(changelogs: &[(u32, String)], told: &BTreeMap<String, String>) -> Self {
        let mut shortest = BTreeMap::new();
        let mut silent = Vec::new();
        for (subtopology, topic) in changelogs {
            let told = told.get(topic).and_then(|text| text.parse().ok()).map(Duration::from_millis);
            if told.is_none() {
                silent.push(topic.as_str());
            }
            let retention = told.unwrap_or(DEFAULT);
            let entry = shortest.entry(*subtopology).or_insert(retention);
            *entry = retention.min(*entry);
        }
        if !silent.is_empty() {
            warn!(
                topics = silent.join(", "),
                assumed_ms = DEFAULT.as_millis() as u64,
                "the broker does not tell delete.retention.ms of these changelogs; grant DESCRIBE_CONFIGS on them if it is \
                 shorter than Kafka's default"
            );
        }
        Self(shortest)
    }

    /// How long a task's directory may have been left alone.
    pub(super) fn of_task(&self, task: TaskId) -> Duration {
        self.0.get(&task.subtopology).copied().unwrap_or(DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_of_a_subtopology_counts() {
        let changelogs =
            [(0, "a"), (0, "b"), (1, "c"), (2, "d")].map(|(subtopology, topic)| (subtopology, topic.to_owned()));
        let told = [("a", "5000"), ("b", "3000"), ("c", "much")].map(|(topic, ms)| (topic.to_owned(), ms.to_owned()));
        let retentions = Retentions::of(&changelogs, &BTreeMap::from(told));
        assert_eq!(retentions.of_task(TaskId::new(0, 1)), Duration::from_secs(3));
        // Not told, told in no number, and a sub-topology without a changelog.
        for subtopology in [1, 2, 3] {
            assert_eq!(retentions.of_task(TaskId::new(subtopology, 0)), DEFAULT);
        }
    }
}
