//! What the engine is told.

use std::{sync::Arc, time::Duration};

use holdfast_types::ProcessId;
use serde::{Deserialize, Serialize};

use crate::{
    errors::ErrorHandlers,
    kafka::{ConnectionSettings, limits::Limits},
};

/// How often a record's effect may be counted after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessingGuarantee {
    /// Once: rows, outputs and input offsets are one transaction.
    ExactlyOnce,
    /// Once or more: what the last commit interval did may be done again.
    AtLeastOnce,
}

/// What follows a fatal error in a stream thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFatalError {
    /// A new thread takes the tasks over from their last commit; after several in a row the process ends.
    Replace,
    /// The process ends with a non-zero status.
    Exit,
}

/// Where to begin in an input that has no committed offset, or whose committed offset is outside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffsetReset {
    /// At the oldest record.
    Earliest,
    /// After the newest record.
    Latest,
    /// Nowhere: a fatal error that says so.
    None,
}

/// The engine's settings.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The application id: group, and prefix of internal topics and transactional ids.
    pub application_id: Arc<str>,
    /// This instance.
    pub process_id: ProcessId,
    /// How to reach the cluster.
    pub connection: ConnectionSettings,
    /// Exactly-once or at-least-once.
    pub processing_guarantee: ProcessingGuarantee,
    /// Number of stream threads, at least 1.
    pub num_stream_threads: usize,
    /// How long at most until a processed record is committed and readable, when up to date.
    pub commit_interval: Duration,
    /// How far the interval stretches while a backlog is worked off, so that more updates merge into one row.
    pub commit_interval_max: Duration,
    /// The group's session timeout; what an instance produces must not outlive its session by much.
    pub session_timeout: Duration,
    /// After how long the broker aborts a transaction that a dead process left open and nobody fenced.
    pub transaction_timeout: Duration,
    /// Replicas of every topic that is created; −1 is the broker's default.
    pub replication_factor: i32,
    /// Whether missing input and output topics are created.
    pub create_topics: bool,
    /// Partitions of input topics that are created.
    pub input_partitions: i32,
    /// Partitions of output topics that are created.
    pub output_partitions: i32,
    /// Where records go that cannot be processed.
    pub dead_letter_topic: Arc<str>,
    /// What follows each kind of error.
    pub error_handlers: ErrorHandlers,
    /// What follows a fatal error.
    pub on_fatal_error: OnFatalError,
    /// A record that takes longer to process is counted and told of.
    pub slow_record: Duration,
    /// Where to begin without a committed offset.
    pub offset_reset: OffsetReset,
    /// How often consumed records of repartition topics are deleted.
    pub repartition_purge_interval: Duration,
    /// How long a task that is not assigned here any more keeps its directory.
    pub state_cleanup_delay: Duration,
    /// A copy that is at most this many changelog records behind has caught up.
    pub acceptable_recovery_lag: u64,
    /// What the topics take that are written, found out when the engine is prepared.
    pub(crate) limits: Limits,
}

impl EngineConfig {
    /// Settings with the service's defaults: a test of the service holds both to the same values.
    pub fn new(application_id: impl Into<Arc<str>>, process_id: ProcessId, connection: ConnectionSettings) -> Self {
        let application_id = application_id.into();
        Self {
            dead_letter_topic: format!("{application_id}.dlq").into(),
            application_id,
            process_id,
            connection,
            processing_guarantee: ProcessingGuarantee::ExactlyOnce,
            num_stream_threads: 1,
            commit_interval: Duration::from_millis(100),
            commit_interval_max: Duration::from_secs(1),
            session_timeout: Duration::from_secs(10),
            transaction_timeout: Duration::from_secs(10),
            replication_factor: -1,
            create_topics: true,
            input_partitions: 3,
            output_partitions: 1,
            error_handlers: ErrorHandlers::default(),
            on_fatal_error: OnFatalError::Replace,
            slow_record: Duration::from_millis(100),
            offset_reset: OffsetReset::Earliest,
            repartition_purge_interval: Duration::from_secs(30),
            state_cleanup_delay: Duration::from_secs(600),
            acceptable_recovery_lag: 10_000,
            limits: Limits::default(),
        }
    }

    /// The transactional id of a stream thread; `None` without transactions.
    pub fn transactional_id(&self, thread: usize) -> Option<String> {
        match self.processing_guarantee {
            ProcessingGuarantee::ExactlyOnce => Some(format!("{}-{}-{thread}", self.application_id, self.process_id)),
            ProcessingGuarantee::AtLeastOnce => None,
        }
    }

    /// Every transactional id that this instance uses.
    pub fn transactional_ids(&self) -> Vec<String> {
        (0..self.num_stream_threads).filter_map(|thread| self.transactional_id(thread)).collect()
    }

    /// How long a record may wait to be acknowledged: less than the session, so that what a cut-off instance still has queued
    /// dies before its successor starts.
    pub fn message_timeout(&self) -> Duration {
        (self.session_timeout * 3 / 4).clamp(Duration::from_millis(500), Duration::from_secs(30))
    }
}
