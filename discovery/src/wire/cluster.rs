//! Finds brokers: any of the list, and the one that coordinates a group or a transactional id.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use holdfast_types::TopicPartition;
use kafka_protocol::{
    messages::{
        BrokerId, FindCoordinatorRequest, MetadataRequest, TopicName, metadata_request::MetadataRequestTopic,
        metadata_response::MetadataResponseBroker,
    },
    protocol::StrBytes,
};
use parking_lot::Mutex;

use super::{
    address::BrokerAddress,
    connection::Connection,
    connector::Connector,
    error::{WireError, code},
};

/// What is coordinated; the number is FindCoordinator's key type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coordinated {
    Group = 0,
    Transaction = 1,
}

/// The brokers that are known.
pub(crate) struct Cluster {
    connector: Connector,
    bootstrap: Vec<BrokerAddress>,
    /// Brokers that the cluster named; tried after the list, in case that none of it is left.
    learned: Mutex<Vec<BrokerAddress>>,
    next: AtomicUsize,
}

impl Cluster {
    pub(crate) fn new(bootstrap: Vec<BrokerAddress>, connector: Connector) -> Self {
        Self { connector, bootstrap, learned: Mutex::default(), next: AtomicUsize::new(0) }
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// A connection to whichever broker answers; each call starts with another one of the list.
    async fn any(&self) -> Result<Connection, WireError> {
        let mut candidates = self.bootstrap.clone();
        let start = self.next.fetch_add(1, Ordering::Relaxed) % candidates.len().max(1);
        candidates.rotate_left(start);
        for learned in self.learned.lock().iter() {
            if !candidates.contains(learned) {
                candidates.push(learned.clone());
            }
        }
        let mut last = None;
        for address in &candidates {
            match self.connector.open(address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    tracing::debug!(broker = %address, %error, "broker not usable, trying the next");
                    last = Some(error);
                }
            }
        }
        let servers = candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        Err(match last {
            Some(error) if candidates.len() > 1 => WireError::NoBroker { servers, last: Box::new(error) },
            Some(error) => error,
            None => WireError::Unsupported { peer: servers, request: "bootstrap", min: 0, max: 0 },
        })
    }

    /// Asks any broker who coordinates `key`.
    pub(crate) async fn find_coordinator(&self, key: &str, kind: Coordinated) -> Result<BrokerAddress, WireError> {
        let mut connection = self.any().await?;
        self.learn(&mut connection).await;
        let version = connection.require::<FindCoordinatorRequest>(i16::MAX)?;
        let after = self.connector.socket().request_timeout;
        if kind == Coordinated::Transaction && version < 1 {
            let (peer, request) = (connection.peer().to_owned(), "FindCoordinator for transactions");
            return Err(WireError::Unsupported { peer, request, min: 1, max: i16::MAX });
        }
        let name = StrBytes::from_string(key.to_owned());
        let request = FindCoordinatorRequest::default();
        // The codec refuses fields that a version does not have.
        let request = if version >= 4 { request.with_coordinator_keys(vec![name]) } else { request.with_key(name) };
        let request = if version >= 1 { request.with_key_type(kind as i8) } else { request };
        let answer = connection.call(&request, version, after).await?;

        let refused =
            |code| WireError::Refused { peer: connection.peer().to_owned(), request: "FindCoordinator", code };
        let (error_code, host, port) = if version >= 4 {
            let first = answer.coordinators.first().ok_or_else(|| refused(code::COORDINATOR_NOT_AVAILABLE))?;
            (first.error_code, &first.host, first.port)
        } else {
            (answer.error_code, &answer.host, answer.port)
        };
        if error_code != code::NONE {
            return Err(refused(error_code));
        }
        let port = u16::try_from(port).map_err(|_| refused(code::COORDINATOR_NOT_AVAILABLE))?;
        Ok(BrokerAddress { host: host.to_string(), port })
    }

    /// The partitions of those of `topics` that exist, and the leader of each that has one.
    pub(crate) async fn leaders(
        &self,
        topics: &BTreeSet<&str>,
    ) -> Result<Vec<(TopicPartition, Option<BrokerAddress>)>, WireError> {
        // No name at all would ask for every topic.
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.any().await?;
        let version = connection.require::<MetadataRequest>(9)?;
        let names = topics.iter().map(|topic| {
            MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_string((*topic).to_owned()))))
        });
        let request = MetadataRequest::default().with_topics(Some(names.collect()));
        let request = if version >= 4 { request.with_allow_auto_topic_creation(false) } else { request };
        let after = self.connector.socket().request_timeout;
        let answer = connection.call(&request, version, after).await?;
        let brokers: HashMap<BrokerId, BrokerAddress> =
            answer.brokers.iter().filter_map(|broker| Some((broker.node_id, address_of(broker)?))).collect();
        let found = answer.topics.iter().flat_map(|topic| {
            let name: Arc<str> = topic.name.as_ref().map(|name| name.as_str()).unwrap_or_default().into();
            let brokers = &brokers;
            topic.partitions.iter().map(move |partition| {
                let leader = brokers.get(&partition.leader_id).filter(|_| partition.error_code == code::NONE);
                (TopicPartition::new(Arc::clone(&name), partition.partition_index), leader.cloned())
            })
        });
        Ok(found.collect())
    }

    /// Takes note of the cluster's brokers. Best effort: the list of the settings stays the first choice.
    async fn learn(&self, connection: &mut Connection) {
        let Some(version) = connection.version_of::<MetadataRequest>(12).filter(|version| *version >= 1) else {
            return;
        };
        let request =
            MetadataRequest::default().with_topics(Some(Vec::new())).with_allow_auto_topic_creation(version < 4);
        let after = self.connector.socket().request_timeout;
        if let Ok(answer) = connection.call(&request, version, after).await {
            let brokers = answer.brokers.iter().filter(|broker| broker.node_id >= BrokerId(0)).filter_map(address_of);
            *self.learned.lock() = brokers.take(MAX_LEARNED).collect();
        }
    }
}

fn address_of(broker: &MetadataResponseBroker) -> Option<BrokerAddress> {
    Some(BrokerAddress { host: broker.host.to_string(), port: u16::try_from(broker.port).ok()? })
}

/// More brokers than this need not be remembered to find one that lives.
const MAX_LEARNED: usize = 64;
