//! Why a step of a journey did not succeed, and what follows of each error.

use holdfast_types::TaskId;

use super::{
    Outcome,
    records::{Located, locate, topics},
};
use crate::{
    kafka::{ProduceError, producer::TransactionError},
    task::Seal,
};

/// Why a step did not succeed, and what follows.
pub(super) enum Stop {
    /// Abort if need be, and try the same seal again.
    Again(String),
    /// A permission is missing: the same seal again, when it may be there. A thing of seconds for whoever grants it.
    Denied(String),
    /// The journey ends.
    End(Outcome),
    /// The generation is over.
    Superseded,
    /// A topic refuses a record for what it is.
    RecordRefused { task: TaskId, what: String, dead_letter: bool },
}

impl Stop {
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Again(reason)
            | Self::Denied(reason)
            | Self::End(Outcome::ProducerLost { reason } | Outcome::Refused { reason })
            | Self::RecordRefused { what: reason, .. } => reason.clone(),
            Self::Superseded => "the generation is over".to_owned(),
            Self::End(outcome) => format!("{outcome:?}"),
        }
    }
}

/// Nothing is committed that the stores would have to hold beyond their memory: while the disk takes no rows, commits wait,
/// and input with them.
pub(super) fn check_room(seal: &Seal) -> Result<(), Stop> {
    for part in &seal.tasks {
        match part.store.check_room() {
            Ok(()) => {}
            Err(error) if error.is_passing() => return Err(Stop::Again(error.to_string())),
            Err(error) => return Err(Stop::End(Outcome::Store { task: part.task, error })),
        }
    }
    Ok(())
}

pub(super) fn transaction_stop(error: TransactionError) -> Stop {
    use rdkafka::error::RDKafkaErrorCode as Code;
    match error.code {
        Code::IllegalGeneration => Stop::Superseded,
        Code::UnknownMemberId | Code::FencedInstanceId => Stop::End(Outcome::NotAMember),
        Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => Stop::End(Outcome::Refused { reason: error.to_string() }),
        _ if error.fatal => Stop::End(Outcome::ProducerLost { reason: error.to_string() }),
        Code::TopicAuthorizationFailed => {
            Stop::Denied(format!("this user lacks the Write permission on a topic, or Read on an input: {error}"))
        }
        _ => Stop::Again(error.to_string()),
    }
}

pub(super) fn produce_stop(error: &ProduceError, seal: &Seal) -> Stop {
    use rdkafka::error::RDKafkaErrorCode as Code;
    if let ProduceError::Transaction(error) = error {
        return match transaction_stop(error.clone()) {
            // The broker does not say which of them.
            Stop::Again(reason) if error.code == Code::UnknownTopicOrPartition => {
                let topics: Vec<_> = topics(seal).into_iter().collect();
                Stop::Again(format!("{reason}; the commit writes to {}", topics.join(", ")))
            }
            stop => stop,
        };
    }
    if error.is_fatal() {
        return Stop::End(Outcome::ProducerLost { reason: error.to_string() });
    }
    let ProduceError::Record { index, code } = error else { return Stop::Again(error.to_string()) };
    let Located { task, what, dead_letter } = locate(seal, *index);
    match code {
        _ if error.is_refusal() => Stop::RecordRefused { task, what: format!("{what}: {code}"), dead_letter },
        Code::ClusterAuthorizationFailed | Code::TransactionalIdAuthorizationFailed => {
            Stop::End(Outcome::Refused { reason: format!("{what}: {code}") })
        }
        Code::TopicAuthorizationFailed => {
            Stop::Denied(format!("{what}: this user may not write the topic (it lacks the Write permission)"))
        }
        _ => Stop::Again(format!("{what}: {code}")),
    }
}
