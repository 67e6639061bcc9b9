//! The settings as the engine takes them.

use std::sync::Arc;

use holdfast_store::StateDirectory;
use holdfast_stream::{
    engine::{self, EngineConfig, OffsetReset},
    errors::{ErrorHandlers, ErrorPolicy},
    kafka::ConnectionSettings,
    topology::{TopicName, Topology},
};

use crate::config::{self, ErrorPolicySetting, OnFatalError, ProcessingGuarantee, Settings};

pub(super) fn config(settings: &Settings, topology: &Topology, directory: &StateDirectory) -> EngineConfig {
    let process_id = directory.process_id();
    let connection = ConnectionSettings {
        bootstrap_servers: settings.bootstrap_list(),
        client_id: process_id.to_string(),
        properties: settings.kafka.to_map(),
    };
    let mut config = EngineConfig::new(settings.application_id.as_str(), process_id, connection);
    config.processing_guarantee = match settings.processing_guarantee {
        ProcessingGuarantee::ExactlyOnce => engine::ProcessingGuarantee::ExactlyOnce,
        ProcessingGuarantee::AtLeastOnce => engine::ProcessingGuarantee::AtLeastOnce,
    };
    config.num_stream_threads = settings.num_stream_threads as usize;
    config.commit_interval = settings.commit_interval;
    config.commit_interval_max = settings.backlog_commit_interval;
    config.session_timeout = settings.session_timeout;
    config.transaction_timeout = settings.transaction_timeout;
    config.replication_factor = i32::from(settings.topics.replication_factor);
    config.create_topics = settings.topics.create;
    config.input_partitions = settings.topics.input_partitions;
    config.output_partitions = settings.topics.output_partitions;
    let first_input = topology.subtopologies().iter().flat_map(|subtopology| &subtopology.sources).find_map(|source| {
        match &source.topic {
            TopicName::External(topic) => Some(Arc::clone(topic)),
            TopicName::Internal(_) => None,
        }
    });
    config.dead_letter_topic =
        settings.dead_letter_topic_for(first_input.as_deref().unwrap_or(&settings.application_id)).into();
    config.error_handlers = ErrorHandlers {
        deserialization: policy(&settings.deserialization_error),
        processing: policy(&settings.processing_error),
        production: policy(&settings.production_error),
    };
    config.on_fatal_error = match settings.on_fatal_error {
        OnFatalError::Replace => engine::OnFatalError::Replace,
        OnFatalError::Exit => engine::OnFatalError::Exit,
    };
    config.offset_reset = match settings.offset_reset {
        config::OffsetReset::Earliest => OffsetReset::Earliest,
        config::OffsetReset::Latest => OffsetReset::Latest,
        config::OffsetReset::None => OffsetReset::None,
    };
    config.slow_record = settings.slow_record;
    config.state_cleanup_delay = settings.state_cleanup_delay;
    config.acceptable_recovery_lag = settings.acceptable_recovery_lag;
    config
}

fn policy(setting: &ErrorPolicySetting) -> ErrorPolicy {
    match setting {
        ErrorPolicySetting::Fail => ErrorPolicy::Fail,
        ErrorPolicySetting::Continue => ErrorPolicy::Continue,
        ErrorPolicySetting::DeadLetter => ErrorPolicy::DeadLetter,
        ErrorPolicySetting::Retry { attempts, backoff, then } => ErrorPolicy::Retry {
            max_attempts: attempts.saturating_add(1),
            backoff: *backoff,
            then: Box::new(policy(then)),
        },
    }
}

#[cfg(test)]
mod tests {
    use holdfast_stream::prelude::*;

    use super::*;
    use crate::config::{Defaults, Sources};

    #[test]
    fn the_engines_defaults_are_those_of_the_settings() {
        let builder = TopologyBuilder::new();
        builder.stream("orders", Consumed::with(Utf8, Utf8)).to("copies");
        let topology = builder.build().unwrap();
        let defaults = Defaults { service_name: "shop".to_owned() };
        let settings = Settings::resolve(Sources::new(), &[], &defaults).unwrap();
        let state = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(state.path(), &settings.application_id).unwrap();

        let config = config(&settings, &topology, &directory);

        let mut engines = EngineConfig::new("shop", directory.process_id(), config.connection.clone());
        // What the engine alone cannot know: the machine, and the topology's first input.
        engines.num_stream_threads = config.num_stream_threads;
        engines.dead_letter_topic = "orders.dlq".into();
        assert_eq!(format!("{config:#?}"), format!("{engines:#?}"));
    }
}
