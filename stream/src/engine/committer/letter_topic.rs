//! The dead-letter topic, should it go missing: nothing is committed without its dead letters, so somebody has to make it
//! again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tracing::{error, warn};

use crate::{
    engine::config::EngineConfig,
    kafka::admin::{AdminError, TopicAdmin, TopicSpec},
};

/// Time between two looks, and the longest that one takes.
const STEP: Duration = Duration::from_secs(5);

/// Looks whether the topic is there, when dead letters cannot be written.
#[derive(Debug, Default)]
pub(super) struct LetterTopic {
    looked: Option<Instant>,
    told: bool,
}

impl LetterTopic {
    /// Makes the topic again if it is missing and topics may be created; says so if they may not.
    pub(super) fn look_after(&mut self, config: &EngineConfig, topic: &str) {
        if self.looked.is_some_and(|looked| looked.elapsed() < STEP) {
            return;
        }
        self.looked = Some(Instant::now());
        match self.ensure(config, topic) {
            // There, or nobody answers: it is not the topic that commits wait for.
            Ok(()) | Err(AdminError::Unreachable(_)) => {}
            Err(error) => warn!(topic, %error, "the dead-letter topic is missing and could not be made again"),
        }
    }

    fn ensure(&mut self, config: &EngineConfig, topic: &str) -> Result<(), AdminError> {
        let admin = TopicAdmin::new(&config.connection).map_err(AdminError::Unreachable)?;
        let found = admin.partition_counts(&[topic.to_owned()], STEP)?;
        if !found.is_empty() {
            self.told = false;
            return Ok(());
        }
        if config.create_topics {
            let spec = TopicSpec {
                name: topic.to_owned(),
                partitions: config.input_partitions,
                replication_factor: config.replication_factor,
                configs: BTreeMap::new(),
            };
            admin.create(&spec, STEP)?;
            warn!(topic, "the dead-letter topic was missing; it is made again, without the letters that it had");
        } else if !self.told {
            self.told = true;
            error!(
                topic,
                "the dead-letter topic does not exist: nothing is committed until somebody creates it, rows up to the last \
                 commit stay readable"
            );
        }
        Ok(())
    }
}
