//! What a member needs to know to join: the settings, and what is wrong with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

pub use crate::wire::{address::ParseAddressError, security::SecurityError, tls::TlsError};
use crate::{
    assignor::AssignorSettings,
    wire::{
        address::{self, BrokerAddress},
        connector::Connector,
        security::Security,
    },
};
use holdfast_types::{InstanceInfo, SubtopologySpec};

/// The longest `rebalance_timeout`: commits of tasks that move are held up for that long when a member hangs.
pub const MAX_REBALANCE_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of a group member.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Comma-separated `host:port` list; port 9092 where none is given.
    pub bootstrap_servers: String,
    /// librdkafka properties. Those about security (`security.protocol`, `ssl.*`, `sasl.*`, …), sockets
    /// (`socket.connection.setup.timeout.ms`, `socket.timeout.ms`, `broker.address.family`) and back-off
    /// (`reconnect.backoff.ms`, `reconnect.backoff.max.ms`) are honoured here too; others concern data only.
    pub kafka: BTreeMap<String, String>,
    /// The consumer group, which is the application id.
    pub group_id: String,
    /// This instance, as the others get to know it. Its process id is the client id of the group connections.
    pub instance: InstanceInfo,
    /// The sub-topologies that this instance can run.
    pub subtopologies: Vec<SubtopologySpec>,
    /// After this long without a heartbeat the coordinator removes the member, and the member considers itself removed. The
    /// broker accepts what lies between its `group.min.session.timeout.ms` (default 6 s) and `group.max.session.timeout.ms`.
    pub session_timeout: Duration,
    /// Time between heartbeats; at most a third of `session_timeout`. Reads measure their staleness from them.
    pub heartbeat_interval: Duration,
    /// How long the coordinator waits in a rebalance for members to join again; at most [`MAX_REBALANCE_TIMEOUT`].
    pub rebalance_timeout: Duration,
    /// What this instance goes by while it leads the group; the same on all of them.
    pub assignor: AssignorSettings,
    /// Whether this instance can follow tasks as standby and warm-up. While it cannot, it gets none, and tasks move to it
    /// without warming up.
    pub follows_tasks: bool,
    /// Whether the transactional ids of a dead predecessor, and one's own, are fenced before the first join. Set under
    /// exactly-once; needs a broker with transactions.
    pub fence_on_start: bool,
    /// Topics that transactions of this application write to. Where a dead process's ids are fenced, at the start or when it is
    /// evicted, what a broker forgot of their last ones is ended there before, and in the group's offsets.
    pub written_topics: BTreeSet<Arc<str>>,
}

impl GroupConfig {
    /// Settings with default timings: session 10 s, heartbeat 500 ms, rebalance 10 s; no standbys, nothing is fenced.
    pub fn new(
        bootstrap_servers: impl Into<String>,
        group_id: impl Into<String>,
        instance: InstanceInfo,
        subtopologies: Vec<SubtopologySpec>,
    ) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            kafka: BTreeMap::new(),
            group_id: group_id.into(),
            instance,
            subtopologies,
            session_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_millis(500),
            rebalance_timeout: MAX_REBALANCE_TIMEOUT,
            assignor: AssignorSettings::default(),
            follows_tasks: false,
            fence_on_start: false,
            written_topics: BTreeSet::new(),
        }
    }

    /// Checks everything that can be checked without a broker (files of certificates and keys are read).
    ///
    /// # Errors
    /// What [`crate::GroupMember::start`] would refuse.
    pub fn check(&self) -> Result<(), StartError> {
        self.resolve().map(drop)
    }

    pub(crate) fn resolve(&self) -> Result<Resolved, StartError> {
        if self.group_id.is_empty() {
            return Err(StartError::EmptyGroupId);
        }
        let bootstrap = address::parse_list(&self.bootstrap_servers)?;
        if self.heartbeat_interval.is_zero() || self.heartbeat_interval * 3 > self.session_timeout {
            return Err(StartError::HeartbeatInterval {
                heartbeat_interval: self.heartbeat_interval,
                session_timeout: self.session_timeout,
            });
        }
        if self.rebalance_timeout.is_zero() || self.rebalance_timeout > MAX_REBALANCE_TIMEOUT {
            return Err(StartError::RebalanceTimeout(self.rebalance_timeout));
        }
        let security = Security::from_properties(&self.kafka)?;
        Ok(Resolved { bootstrap, connector: Connector::new(security, self.instance.process_id.to_string())? })
    }
}

/// The settings in the form that the wire uses.
pub(crate) struct Resolved {
    pub(crate) bootstrap: Vec<BrokerAddress>,
    pub(crate) connector: Connector,
}

/// The settings cannot work. A broker that is away is none of these: the member waits for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The group id is empty.
    #[error("the group id (application_id) is empty: set it to the name of the application")]
    EmptyGroupId,
    /// A bootstrap server is not an address.
    #[error("bootstrap_servers: {0}")]
    Address(#[from] ParseAddressError),
    /// Heartbeats would be too rare to keep the session.
    #[error(
        "heartbeat_interval must be above 0 and at most a third of session_timeout ({session_timeout:?}), got {heartbeat_interval:?}"
    )]
    HeartbeatInterval {
        /// What was set.
        heartbeat_interval: Duration,
        /// What it is measured by.
        session_timeout: Duration,
    },
    /// The rebalance timeout is out of bounds.
    #[error("rebalance_timeout must be above 0 and at most {MAX_REBALANCE_TIMEOUT:?}, got {0:?}")]
    RebalanceTimeout(Duration),
    /// A security property cannot be honoured by the group connection.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}
