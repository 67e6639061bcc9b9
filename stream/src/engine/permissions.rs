//! Permissions that this user lacks at the start: said once, and waited for. Whoever grants them has nothing to restart.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tracing::{info, warn};

use super::topics::PrepareError;
use crate::kafka::admin::{AdminError, TopicAdmin, TopicSpec, TopicState};

const STEP: Duration = Duration::from_secs(5);
const CREATION_LIMIT: Duration = Duration::from_secs(30);
/// A thing of seconds for whoever grants it.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until this user may see each of `topics` that exists: one that it may not see would be taken for missing, and its
/// partitions for what a new topic gets. Answers whether there was something to wait for.
pub(super) fn wait_to_see(
    admin: &TopicAdmin,
    topics: &[String],
    stop: &dyn Fn() -> bool,
) -> Result<bool, PrepareError> {
    let mut told: Vec<String> = Vec::new();
    loop {
        match admin.topic_states(topics, STEP) {
            Ok(states) => {
                let denied = states.into_iter().filter(|(_, state)| *state == TopicState::Denied);
                let denied: Vec<String> = denied.map(|(topic, _)| topic).collect();
                if denied.is_empty() {
                    if !told.is_empty() {
                        info!("all topics can be seen now");
                    }
                    return Ok(!told.is_empty());
                }
                if denied.iter().any(|topic| !told.contains(topic)) {
                    warn!(
                        topics = denied.join(", "),
                        "this user lacks the Describe permission on topics: waiting until it has it"
                    );
                    told.extend(denied);
                }
            }
            // It answered a moment ago.
            Err(AdminError::Unreachable(_)) => {}
            Err(error) => return Err(error.into()),
        }
        pause(stop)?;
    }
}

/// Creates `missing`; `false` where somebody else did so meanwhile, in whatever shape: what is missing then is to be found out
/// again. Where this user may not, waits until it may, or somebody else did.
pub(super) fn create(admin: &TopicAdmin, missing: &[TopicSpec], stop: &dyn Fn() -> bool) -> Result<bool, PrepareError> {
    for spec in missing {
        let mut told = false;
        loop {
            match admin.create(spec, CREATION_LIMIT) {
                Ok(()) => break,
                Err(error) if is_denied(&error) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(
                            topic = spec.name, partitions = spec.partitions, %error,
                            "this user lacks the Create permission for a topic that does not exist: waiting until it has it, or \
                             until somebody creates the topic"
                        );
                    }
                }
                Err(error) => return Err(error.into()),
            }
            pause(stop)?;
            let counts = admin.partition_counts(std::slice::from_ref(&spec.name), STEP);
            if counts.is_ok_and(|counts| counts.contains_key(&spec.name)) {
                return Ok(false);
            }
        }
        info!(topic = spec.name, partitions = spec.partitions, "topic created");
    }
    Ok(true)
}

fn is_denied(error: &AdminError) -> bool {
    use RDKafkaErrorCode::{ClusterAuthorizationFailed, TopicAuthorizationFailed};
    matches!(error, AdminError::Refused { code: TopicAuthorizationFailed | ClusterAuthorizationFailed, .. })
}

fn pause(stop: &dyn Fn() -> bool) -> Result<(), PrepareError> {
    if stop() {
        return Err(PrepareError::Stopped);
    }
    std::thread::park_timeout(PAUSE);
    Ok(())
}
