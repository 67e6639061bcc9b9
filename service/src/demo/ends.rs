//! Whether everything is processed, by what the broker says: the lag that an instance shows is as of its last fetch.

use std::time::Duration;

use holdfast_stream::kafka::{ConnectionSettings, FetchConsumer, Reads};
use holdfast_types::TopicPartition;

use crate::{app::Instance, cli::Failure};

const DEADLINE: Duration = Duration::from_secs(5);

/// Asks the broker where partitions end.
#[derive(Debug)]
pub(super) struct Ends {
    consumer: FetchConsumer,
}

impl Ends {
    pub(super) fn new(connection: &ConnectionSettings) -> Result<Self, Failure> {
        let consumer = FetchConsumer::new(connection, "holdfast-demo-ends", Reads::Uncommitted, 1 << 20);
        Ok(Self { consumer: consumer.map_err(|error| Failure::new(error.to_string()))? })
    }

    /// Whether every input partition, repartition topics included, is committed to its end. Tasks are looked at in the order
    /// of their sub-topologies: what one has committed, the next finds at the end of its own input.
    pub(super) fn are_committed(&self, instance: &Instance) -> Result<bool, Failure> {
        let status = instance.queries().view().status();
        let mut tasks: Vec<_> = status.tasks.iter().collect();
        tasks.sort_by_key(|task| task.id);
        for (name, committed) in tasks.iter().flat_map(|task| &task.committed) {
            let Some((topic, partition)) = name.rsplit_once('-') else { continue };
            let Ok(partition) = partition.parse() else { continue };
            let partition = TopicPartition::new(topic, partition);
            let ends = self.consumer.watermarks(&partition, DEADLINE);
            let (_, end) = ends.map_err(|error| Failure::new(format!("end of {partition}: {error}")))?;
            if *committed < end {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
