//! `tansu`'s storage interface over logs in memory.
//!
//! Its own storages do not fit here: the one in memory never frees a byte, lists all batches of a partition on each
//! fetch, skips the rest of a batch when a fetch starts inside it, and panics on DeleteRecords.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;
use tansu_sans_io::{
    ConfigResource, ErrorCode, IsolationLevel, ListOffset, ScramMechanism,
    create_topics_request::CreatableTopic,
    delete_groups_response::DeletableGroupResult,
    delete_records_request::DeleteRecordsTopic,
    delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult},
    describe_cluster_response::DescribeClusterBroker,
    describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult},
    describe_topic_partitions_response::DescribeTopicPartitionsResponseTopic,
    incremental_alter_configs_request::AlterConfigsResource,
    incremental_alter_configs_response::AlterConfigsResourceResponse,
    list_groups_response::ListedGroup,
    metadata_response::{MetadataResponseBroker, MetadataResponseTopic},
    record::deflated,
    txn_offset_commit_response::TxnOffsetCommitResponseTopic,
};
use tansu_storage::{
    BrokerRegistrationRequest, Error, GroupDetail, ListOffsetResponse, MetadataResponse, NamedGroupDetail,
    OffsetCommitRequest, OffsetStage, ProducerIdResponse, Result, ScramCredential, Storage, TopicId, Topition,
    TxnAddPartitionsRequest, TxnAddPartitionsResponse, TxnOffsetCommitRequest, UpdateError, Version,
};
use url::Url;
use uuid::Uuid;

use super::{
    log::{LogBounds, LogError, PartitionLog},
    state::{State, Topic, topic_metadata, unknown_topic},
};

/// Topics, groups and offsets of the embedded broker; cheap to clone, all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct MemoryStorage {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cluster: String,
    node: i32,
    address: SocketAddr,
    bounds: LogBounds,
    state: Mutex<State>,
}

impl MemoryStorage {
    pub(crate) fn new(cluster: &str, node: i32, address: SocketAddr, bounds: LogBounds) -> Self {
        let state = Mutex::new(State { next_producer_id: 1, ..State::default() });
        Self { shared: Arc::new(Shared { cluster: cluster.to_owned(), node, address, bounds, state }) }
    }

    fn with_log<T>(&self, topition: &Topition, use_log: impl FnOnce(&mut PartitionLog) -> T) -> Result<T> {
        let mut state = self.shared.state.lock();
        usize::try_from(topition.partition())
            .ok()
            .and_then(|partition| state.topics.get_mut(topition.topic())?.partitions.get_mut(partition))
            .map(use_log)
            .ok_or(Error::Api(ErrorCode::UnknownTopicOrPartition))
    }
}

/// `tansu`'s answer types have private fields and no constructor, but they can be read from JSON.
fn from_json<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value).map_err(Error::from)
}

fn no_transactions<T>() -> Result<T> {
    // A code that clients take as final: the demo runs at-least-once.
    Err(Error::Api(ErrorCode::TransactionalIdAuthorizationFailed))
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn register_broker(&self, _broker: BrokerRegistrationRequest) -> Result<()> {
        Ok(())
    }

    async fn brokers(&self) -> Result<Vec<DescribeClusterBroker>> {
        Ok(vec![
            DescribeClusterBroker::default()
                .broker_id(self.shared.node)
                .host(self.shared.address.ip().to_string())
                .port(self.shared.address.port().into())
                .rack(None),
        ])
    }

    async fn create_topic(&self, topic: CreatableTopic, validate_only: bool) -> Result<Uuid> {
        let mut state = self.shared.state.lock();
        if state.topics.contains_key(&topic.name) {
            return Err(Error::Api(ErrorCode::TopicAlreadyExists));
        }
        let id = Uuid::new_v4();
        if !validate_only {
            let configs = topic.configs.unwrap_or_default().into_iter().map(|config| (config.name, config.value));
            let partitions = (0..topic.num_partitions).map(|_| PartitionLog::new(self.shared.bounds));
            let topic_state = Topic { id, configs: configs.collect(), partitions: partitions.collect() };
            state.topics.insert(topic.name, topic_state);
        }
        Ok(id)
    }

    async fn delete_topic(&self, topic: &TopicId) -> Result<ErrorCode> {
        let mut state = self.shared.state.lock();
        let Some(name) = state.find(topic).map(|(name, _)| name.clone()) else {
            return Ok(ErrorCode::UnknownTopicOrPartition);
        };
        state.topics.remove(&name);
        for offsets in state.offsets.values_mut() {
            offsets.retain(|topition, _| topition.topic() != name);
        }
        Ok(ErrorCode::None)
    }

    async fn delete_records(&self, topics: &[DeleteRecordsTopic]) -> Result<Vec<DeleteRecordsTopicResult>> {
        let mut results = Vec::with_capacity(topics.len());
        for topic in topics {
            let partitions = topic.partitions.iter().flatten().map(|partition| {
                let topition = Topition::new(topic.name.clone(), partition.partition_index);
                let deleted = self.with_log(&topition, |log| log.delete_before(partition.offset));
                let (low_watermark, error) = match deleted {
                    Ok(start) => (start, ErrorCode::None),
                    Err(_) => (-1, ErrorCode::UnknownTopicOrPartition),
                };
                DeleteRecordsPartitionResult::default()
                    .partition_index(partition.partition_index)
                    .low_watermark(low_watermark)
                    .error_code(error.into())
            });
            let partitions = Some(partitions.collect());
            results.push(DeleteRecordsTopicResult::default().name(topic.name.clone()).partitions(partitions));
        }
        Ok(results)
    }

    async fn incremental_alter_resource(&self, resource: AlterConfigsResource) -> Result<AlterConfigsResourceResponse> {
        Ok(AlterConfigsResourceResponse::default()
            .error_code(ErrorCode::InvalidConfig.into())
            .error_message(Some(
                "the embedded broker's topics keep the configuration they were created with".to_owned(),
            ))
            .resource_type(resource.resource_type)
            .resource_name(resource.resource_name))
    }

    async fn produce(&self, _transaction_id: Option<&str>, topition: &Topition, batch: deflated::Batch) -> Result<i64> {
        self.with_log(topition, |log| log.append(batch))?.map_err(|error| {
            Error::Api(match error {
                LogError::Duplicate => ErrorCode::DuplicateSequenceNumber,
                LogError::OutOfOrder => ErrorCode::OutOfOrderSequenceNumber,
                LogError::Fenced => ErrorCode::InvalidProducerEpoch,
            })
        })
    }

    async fn fetch(
        &self,
        topition: &'_ Topition,
        offset: i64,
        _min_bytes: u32,
        max_bytes: u32,
        _isolation: IsolationLevel,
    ) -> Result<Vec<deflated::Batch>> {
        self.with_log(topition, |log| log.read(offset, usize::try_from(max_bytes).unwrap_or(usize::MAX)))
    }

    async fn offset_stage(&self, topition: &Topition) -> Result<OffsetStage> {
        let (start, end) = self.with_log(topition, |log| (log.start(), log.end()))?;
        from_json(json!({ "last_stable": end, "high_watermark": end, "log_start": start }))
    }

    async fn list_offsets(
        &self,
        _isolation: IsolationLevel,
        offsets: &[(Topition, ListOffset)],
    ) -> Result<Vec<(Topition, ListOffsetResponse)>> {
        let answer = |topition: &Topition, wanted: &ListOffset| {
            let found = self.with_log(topition, |log| match wanted {
                ListOffset::Earliest => (None, log.start()),
                ListOffset::Latest => (None, log.end()),
                ListOffset::Timestamp(at) => {
                    let ms = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
                    match log.offset_at(i64::try_from(ms).unwrap_or(i64::MAX)) {
                        Some((offset, ms)) => (u64::try_from(ms).ok(), offset),
                        None => (None, -1),
                    }
                }
            });
            match found {
                Ok((ms, offset)) => ListOffsetResponse {
                    error_code: ErrorCode::None,
                    timestamp: ms.map(|ms| UNIX_EPOCH + Duration::from_millis(ms)),
                    offset: Some(offset),
                },
                Err(_) => ListOffsetResponse {
                    error_code: ErrorCode::UnknownTopicOrPartition,
                    timestamp: None,
                    offset: Some(-1),
                },
            }
        };
        Ok(offsets.iter().map(|(topition, wanted)| (topition.clone(), answer(topition, wanted))).collect())
    }

    async fn offset_commit(
        &self,
        group_id: &str,
        _retention: Option<Duration>,
        offsets: &[(Topition, OffsetCommitRequest)],
    ) -> Result<Vec<(Topition, ErrorCode)>> {
        let mut results = Vec::with_capacity(offsets.len());
        let mut state = self.shared.state.lock();
        let state = &mut *state;
        for (topition, request) in offsets {
            let known = state.topics.contains_key(topition.topic());
            let code = if known { ErrorCode::None } else { ErrorCode::UnknownTopicOrPartition };
            if known {
                let request = serde_json::to_value(request)?;
                let offset = request.get("offset").and_then(serde_json::Value::as_i64).unwrap_or_default();
                state.offsets.entry(group_id.to_owned()).or_default().insert(topition.clone(), offset);
            }
            results.push((topition.clone(), code));
        }
        Ok(results)
    }

    async fn offset_fetch(
        &self,
        group_id: Option<&str>,
        topics: &[Topition],
        _require_stable: Option<bool>,
    ) -> Result<BTreeMap<Topition, i64>> {
        let state = self.shared.state.lock();
        let committed = group_id.and_then(|group_id| state.offsets.get(group_id));
        let offset = |topition: &Topition| committed.and_then(|offsets| offsets.get(topition)).copied().unwrap_or(-1);
        Ok(topics.iter().map(|topition| (topition.clone(), offset(topition))).collect())
    }

    async fn committed_offset_topitions(&self, group_id: &str) -> Result<BTreeMap<Topition, i64>> {
        Ok(self.shared.state.lock().offsets.get(group_id).cloned().unwrap_or_default())
    }

    async fn metadata(&self, topics: Option<&[TopicId]>) -> Result<MetadataResponse> {
        let state = self.shared.state.lock();
        let topics: Vec<MetadataResponseTopic> = match topics {
            Some(wanted) if !wanted.is_empty() => wanted
                .iter()
                .map(|id| match state.find(id) {
                    Some((name, topic)) => topic_metadata(name, topic, self.shared.node),
                    None => unknown_topic(id),
                })
                .collect(),
            _ => state.topics.iter().map(|(name, topic)| topic_metadata(name, topic, self.shared.node)).collect(),
        };
        let broker = MetadataResponseBroker::default()
            .node_id(self.shared.node)
            .host(self.shared.address.ip().to_string())
            .port(self.shared.address.port().into())
            .rack(None);
        from_json(json!({
            "cluster": self.shared.cluster,
            "controller": self.shared.node,
            "brokers": [broker],
            "topics": topics,
        }))
    }

    async fn describe_config(
        &self,
        name: &str,
        resource: ConfigResource,
        keys: Option<&[String]>,
    ) -> Result<DescribeConfigsResult> {
        let state = self.shared.state.lock();
        let answer = DescribeConfigsResult::default().resource_type(resource.into()).resource_name(name.to_owned());
        let Some(topic) = state.topics.get(name) else {
            return Ok(answer
                .error_code(ErrorCode::UnknownTopicOrPartition.into())
                .error_message(Some(format!("there is no topic {name}")))
                .configs(Some(Vec::new())));
        };
        let wanted = |key: &String| keys.is_none_or(|keys| keys.is_empty() || keys.contains(key));
        let configs = topic.configs.iter().filter(|(key, _)| wanted(key)).map(|(key, value)| {
            DescribeConfigsResourceResult::default()
                .name(key.clone())
                .value(value.clone())
                .read_only(false)
                .is_default(Some(false))
                .config_source(Some(1))
                .is_sensitive(false)
                .synonyms(Some(Vec::new()))
        });
        Ok(answer.error_code(ErrorCode::None.into()).error_message(None).configs(Some(configs.collect())))
    }

    async fn describe_topic_partitions(
        &self,
        _topics: Option<&[TopicId]>,
        _partition_limit: i32,
        _cursor: Option<Topition>,
    ) -> Result<Vec<DescribeTopicPartitionsResponseTopic>> {
        Err(Error::Api(ErrorCode::UnsupportedVersion))
    }

    async fn list_groups(&self, _states: Option<&[String]>) -> Result<Vec<ListedGroup>> {
        let state = self.shared.state.lock();
        let listed =
            |group: &String| ListedGroup::default().group_id(group.clone()).protocol_type("consumer".to_owned());
        Ok(state.groups.keys().map(listed).collect())
    }

    async fn delete_groups(&self, groups: Option<&[String]>) -> Result<Vec<DeletableGroupResult>> {
        let mut state = self.shared.state.lock();
        let mut delete = |group: &String| {
            let known = state.groups.remove(group).is_some();
            let offsets = state.offsets.remove(group).is_some();
            let code = if known || offsets { ErrorCode::None } else { ErrorCode::GroupIdNotFound };
            DeletableGroupResult::default().group_id(group.clone()).error_code(code.into())
        };
        Ok(groups.unwrap_or_default().iter().map(&mut delete).collect())
    }

    async fn describe_groups(&self, groups: Option<&[String]>, _authorized: bool) -> Result<Vec<NamedGroupDetail>> {
        let state = self.shared.state.lock();
        let describe = |group: &String| match state.groups.get(group) {
            Some((detail, _)) => NamedGroupDetail::found(group.clone(), detail.clone()),
            None => NamedGroupDetail::error_code(group.clone(), ErrorCode::GroupIdNotFound),
        };
        Ok(groups.unwrap_or_default().iter().map(describe).collect())
    }

    async fn update_group(
        &self,
        group_id: &str,
        detail: GroupDetail,
        version: Option<Version>,
    ) -> Result<Version, UpdateError<GroupDetail>> {
        let mut state = self.shared.state.lock();
        let current = state.groups.get(group_id).map(|(_, version)| Version::from(version));
        if let Some((found, at)) = state.groups.get(group_id)
            && current != version
        {
            return Err(UpdateError::Outdated { current: Box::new(found.clone()), version: Version::from(at) });
        }
        let next = Uuid::new_v4();
        state.groups.insert(group_id.to_owned(), (detail, next));
        Ok(Version::from(&next))
    }

    async fn init_producer(
        &self,
        transaction_id: Option<&str>,
        _timeout_ms: i32,
        producer_id: Option<i64>,
        producer_epoch: Option<i16>,
    ) -> Result<ProducerIdResponse> {
        let mut state = self.shared.state.lock();
        let ok = |id, epoch| Ok(ProducerIdResponse { error: ErrorCode::None, id, epoch });
        if let Some(transaction_id) = transaction_id {
            // Fencing a transactional id must work, although nothing transactional can be written with it.
            let known = state.transactional.get(transaction_id).copied();
            let (id, epoch) = match known {
                Some((id, epoch)) => (id, epoch.wrapping_add(1).max(0)),
                None => (state.take_producer_id(), 0),
            };
            state.transactional.insert(transaction_id.to_owned(), (id, epoch));
            return ok(id, epoch);
        }
        match (producer_id, producer_epoch) {
            // A producer that starts over after an error keeps its id and raises its epoch.
            (Some(id), Some(epoch)) if id >= 0 && (0..i16::MAX).contains(&epoch) => ok(id, epoch + 1),
            _ => ok(state.take_producer_id(), 0),
        }
    }

    async fn txn_add_offsets(&self, _id: &str, _producer: i64, _epoch: i16, _group: &str) -> Result<ErrorCode> {
        no_transactions()
    }

    async fn txn_add_partitions(&self, _partitions: TxnAddPartitionsRequest) -> Result<TxnAddPartitionsResponse> {
        no_transactions()
    }

    async fn txn_offset_commit(&self, _offsets: TxnOffsetCommitRequest) -> Result<Vec<TxnOffsetCommitResponseTopic>> {
        no_transactions()
    }

    async fn txn_end(&self, _id: &str, _producer: i64, _epoch: i16, _committed: bool) -> Result<ErrorCode> {
        no_transactions()
    }

    async fn maintain(&self, _now: SystemTime) -> Result<()> {
        Ok(())
    }

    async fn cluster_id(&self) -> Result<String> {
        Ok(self.shared.cluster.clone())
    }

    async fn node(&self) -> Result<i32> {
        Ok(self.shared.node)
    }

    async fn advertised_listener(&self) -> Result<Url> {
        Ok(Url::parse(&format!("tcp://{}", self.shared.address))?)
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn upsert_user_scram_credential(
        &self,
        _user: &str,
        _mechanism: ScramMechanism,
        _credential: ScramCredential,
    ) -> Result<()> {
        Err(Error::Api(ErrorCode::UnsupportedVersion))
    }

    async fn delete_user_scram_credential(&self, _user: &str, _mechanism: ScramMechanism) -> Result<()> {
        Err(Error::Api(ErrorCode::UnsupportedVersion))
    }

    async fn user_scram_credential(&self, _user: &str, _mechanism: ScramMechanism) -> Result<Option<ScramCredential>> {
        Ok(None)
    }
}
