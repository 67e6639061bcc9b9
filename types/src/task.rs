//! A task's identity: a sub-topology and a partition, written `0_3` as Kafka Streams writes it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One unit of work: sub-topology `subtopology` over partition `partition` of its source topics.
///
/// Text form `<subtopology>_<partition>` (`0_3`), which is also the task's directory name, as in Kafka Streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskId {
    /// Index of the sub-topology, in topological order from 0.
    pub subtopology: u32,
    /// Partition of every source topic of the sub-topology.
    pub partition: i32,
}

impl TaskId {
    /// The task of `subtopology` over `partition`.
    pub const fn new(subtopology: u32, partition: i32) -> Self {
        Self { subtopology, partition }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.subtopology, self.partition)
    }
}

/// The text was not a task id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a task id as <subtopology>_<partition> (0_3), got {0:?}")]
pub struct ParseTaskIdError(pub String);

impl FromStr for TaskId {
    type Err = ParseTaskIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseTaskIdError(text.to_owned());
        let (subtopology, partition) = text.split_once('_').ok_or_else(error)?;
        let id = Self {
            subtopology: subtopology.parse().map_err(|_| error())?,
            partition: partition.parse().map_err(|_| error())?,
        };
        // "+1_03" parses too, but would name a second directory for the same task.
        if id.partition < 0 || id.to_string() != text {
            return Err(error());
        }
        Ok(id)
    }
}

impl TryFrom<String> for TaskId {
    type Error = ParseTaskIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TaskId> for String {
    fn from(id: TaskId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_refuses_aliases() {
        for (text, id) in [("0_3", TaskId::new(0, 3)), ("12_0", TaskId::new(12, 0))] {
            assert_eq!(text.parse(), Ok(id));
            assert_eq!(id.to_string(), text);
        }
        for wrong in ["", "0", "0_", "_3", "0_-1", "+0_3", "00_3", "0_03", "a_b", "0_3_1"] {
            assert_eq!(wrong.parse::<TaskId>(), Err(ParseTaskIdError(wrong.to_owned())), "{wrong:?}");
        }
    }
}
