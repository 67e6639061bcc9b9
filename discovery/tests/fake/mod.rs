//! A broker that coordinates groups by a script: one process, one TCP port, the broker side of the codec.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsRequest, ApiVersionsResponse, BrokerId, DescribeGroupsRequest, DescribeGroupsResponse,
        FindCoordinatorRequest, FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse, InitProducerIdRequest,
        InitProducerIdResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
        OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, ResponseHeader,
        SyncGroupRequest, SyncGroupResponse,
        api_versions_response::ApiVersion,
        describe_groups_response::DescribedGroup,
        find_coordinator_response::Coordinator,
        join_group_response::JoinGroupResponseMember,
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
        offset_fetch_response::{OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics},
    },
    protocol::{Encodable, HeaderVersion, Message, Request, StrBytes, decode_request_header_from_buffer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// What the next answers are; where the script is silent, a group of one member works as it should.
#[derive(Default)]
pub(crate) struct Script {
    codes: HashMap<i16, Vec<i16>>,
    hidden: Vec<i16>,
    pub(crate) describe: Option<DescribedGroup>,
    pub(crate) seen: Vec<Seen>,
    generation: i32,
    offsets: HashMap<(String, i32), i64>,
}

/// A request that arrived, as far as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) api: i16,
    pub(crate) detail: String,
}

impl Script {
    /// The next requests of this kind are answered with these codes, one each.
    pub(crate) fn answer(&mut self, api: ApiKey, codes: &[i16]) {
        self.codes.entry(api as i16).or_default().extend(codes);
    }

    /// The broker does not offer these.
    pub(crate) fn hide(&mut self, apis: &[ApiKey]) {
        self.hidden.extend(apis.iter().map(|api| *api as i16));
    }

    pub(crate) fn count(&self, api: ApiKey) -> usize {
        self.seen.iter().filter(|seen| seen.api == api as i16).count()
    }

    pub(crate) fn details(&self, api: ApiKey) -> Vec<String> {
        self.seen.iter().filter(|seen| seen.api == api as i16).map(|seen| seen.detail.clone()).collect()
    }

    fn next_code(&mut self, api: i16) -> i16 {
        match self.codes.get_mut(&api) {
            Some(codes) if !codes.is_empty() => codes.remove(0),
            _ => 0,
        }
    }
}

/// The broker. Dropping it closes the port and all connections.
pub(crate) struct FakeBroker {
    pub(crate) address: SocketAddr,
    pub(crate) script: Arc<Mutex<Script>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl FakeBroker {
    pub(crate) fn start(script: Script) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), Arc::new(Mutex::new(script)))
    }

    /// A broker at a given address, with the script (and what it has seen) of an earlier one.
    pub(crate) fn start_at(address: SocketAddr, script: Arc<Mutex<Script>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let scripts = Arc::clone(&script);
        runtime.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, address, Arc::clone(&scripts)));
            }
        });
        Self { address, script, runtime: Some(runtime) }
    }

    pub(crate) fn bootstrap(&self) -> String {
        self.address.to_string()
    }
}

async fn serve(mut stream: TcpStream, address: SocketAddr, script: Arc<Mutex<Script>>) -> io::Result<()> {
    loop {
        let length = stream.read_i32().await?;
        let mut frame = BytesMut::zeroed(usize::try_from(length).unwrap());
        stream.read_exact(&mut frame).await?;
        let mut frame = frame.freeze();
        let header = decode_request_header_from_buffer(&mut frame).unwrap();
        let exchange = Exchange { version: header.request_api_version, correlation_id: header.correlation_id, address };
        let api = ApiKey::try_from(header.request_api_key).unwrap();
        let answer = {
            let mut script = script.lock().unwrap();
            exchange.answer(api, frame, &mut script)
        };
        let Some(answer) = answer else { return Ok(()) };
        stream.write_all(&answer).await?;
    }
}

struct Exchange {
    version: i16,
    correlation_id: i32,
    address: SocketAddr,
}

/// In place of a code: the connection is closed instead of answered.
pub(crate) const CLOSE: i16 = i16::MIN;

impl Exchange {
    fn read<R: Request>(&self, mut frame: Bytes) -> R {
        R::decode(&mut frame, self.version).unwrap()
    }

    fn write<R: Message + Encodable + HeaderVersion>(&self, response: &R) -> Option<BytesMut> {
        let mut bytes = BytesMut::new();
        bytes.put_i32(0);
        ResponseHeader::default()
            .with_correlation_id(self.correlation_id)
            .encode(&mut bytes, R::header_version(self.version))
            .unwrap();
        response.encode(&mut bytes, self.version).unwrap();
        let length = i32::try_from(bytes.len() - 4).unwrap();
        (&mut bytes[..4]).put_i32(length);
        Some(bytes)
    }

    fn answer(&self, api: ApiKey, frame: Bytes, script: &mut Script) -> Option<BytesMut> {
        let code = script.next_code(api as i16);
        let mut saw = |detail: String| script.seen.push(Seen { api: api as i16, detail });
        if code == CLOSE {
            saw("closed".to_owned());
            return None;
        }
        match api {
            ApiKey::ApiVersions => {
                let _: ApiVersionsRequest = self.read(frame);
                self.write(&ApiVersionsResponse::default().with_error_code(code).with_api_keys(offered(&script.hidden)))
            }
            ApiKey::FindCoordinator => {
                let request: FindCoordinatorRequest = self.read(frame);
                saw(request.coordinator_keys.first().map(ToString::to_string).unwrap_or_default());
                let coordinator = Coordinator::default()
                    .with_error_code(code)
                    .with_node_id(BrokerId(1))
                    .with_host(text(&self.address.ip().to_string()))
                    .with_port(i32::from(self.address.port()));
                self.write(&FindCoordinatorResponse::default().with_coordinators(vec![coordinator]))
            }
            ApiKey::JoinGroup => {
                let request: JoinGroupRequest = self.read(frame);
                saw(request.member_id.to_string());
                if code != 0 {
                    let member_id = if code == 79 { text("given-1") } else { StrBytes::default() };
                    return self.write(&JoinGroupResponse::default().with_error_code(code).with_member_id(member_id));
                }
                script.generation += 1;
                let me = if request.member_id.is_empty() { text("member-1") } else { request.member_id };
                let member = JoinGroupResponseMember::default()
                    .with_member_id(me.clone())
                    .with_metadata(request.protocols[0].metadata.clone());
                self.write(
                    &JoinGroupResponse::default()
                        .with_generation_id(script.generation)
                        .with_protocol_type(Some(request.protocol_type))
                        .with_protocol_name(Some(request.protocols[0].name.clone()))
                        .with_leader(me.clone())
                        .with_member_id(me)
                        .with_members(vec![member]),
                )
            }
            ApiKey::SyncGroup => {
                let request: SyncGroupRequest = self.read(frame);
                saw(request.generation_id.to_string());
                let assignment = request.assignments.first().map(|one| one.assignment.clone()).unwrap_or_default();
                self.write(&SyncGroupResponse::default().with_error_code(code).with_assignment(assignment))
            }
            ApiKey::Heartbeat => {
                let request: HeartbeatRequest = self.read(frame);
                saw(request.generation_id.to_string());
                self.write(&HeartbeatResponse::default().with_error_code(code))
            }
            ApiKey::LeaveGroup => {
                let request: LeaveGroupRequest = self.read(frame);
                let members: Vec<_> = request.members.iter().map(|member| member.member_id.to_string()).collect();
                saw(members.join(","));
                self.write(&LeaveGroupResponse::default().with_error_code(code))
            }
            ApiKey::DescribeGroups => {
                let _: DescribeGroupsRequest = self.read(frame);
                saw(String::new());
                let group = script.describe.clone().unwrap_or_default().with_error_code(code);
                self.write(&DescribeGroupsResponse::default().with_groups(vec![group]))
            }
            ApiKey::InitProducerId => {
                let request: InitProducerIdRequest = self.read(frame);
                saw(request.transactional_id.map(|id| id.to_string()).unwrap_or_default());
                self.write(&InitProducerIdResponse::default().with_error_code(code))
            }
            ApiKey::OffsetCommit => self.commit(frame, code, script),
            ApiKey::OffsetFetch => self.fetch(frame, code, script),
            other => panic!("the script has no answer to {other:?}"),
        }
    }

    fn commit(&self, frame: Bytes, code: i16, script: &mut Script) -> Option<BytesMut> {
        let request: OffsetCommitRequest = self.read(frame);
        let detail = request.generation_id_or_member_epoch.to_string();
        script.seen.push(Seen { api: ApiKey::OffsetCommit as i16, detail });
        let mut topics = Vec::new();
        for topic in request.topics {
            let mut partitions = Vec::new();
            for partition in topic.partitions {
                let index = partition.partition_index;
                if code == 0 {
                    script.offsets.insert((topic.name.to_string(), index), partition.committed_offset);
                }
                partitions
                    .push(OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code));
            }
            topics.push(OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions));
        }
        self.write(&OffsetCommitResponse::default().with_topics(topics))
    }

    fn fetch(&self, frame: Bytes, code: i16, script: &mut Script) -> Option<BytesMut> {
        let request: OffsetFetchRequest = self.read(frame);
        assert!(request.require_stable);
        script.seen.push(Seen { api: ApiKey::OffsetFetch as i16, detail: String::new() });
        let mut topics = Vec::new();
        for topic in request.groups.into_iter().next().unwrap().topics.unwrap() {
            let rows = topic.partition_indexes.iter().map(|index| {
                let offset = script.offsets.get(&(topic.name.to_string(), *index)).copied().unwrap_or(-1);
                OffsetFetchResponsePartitions::default()
                    .with_partition_index(*index)
                    .with_committed_offset(if code == 0 { offset } else { -1 })
                    .with_error_code(code)
            });
            let rows = rows.collect();
            topics.push(OffsetFetchResponseTopics::default().with_name(topic.name).with_partitions(rows));
        }
        let group = OffsetFetchResponseGroup::default().with_topics(topics);
        self.write(&OffsetFetchResponse::default().with_groups(vec![group]))
    }
}

fn offered(hidden: &[i16]) -> Vec<ApiVersion> {
    let all = [
        (ApiKey::ApiVersions, 0, 4),
        (ApiKey::FindCoordinator, 0, 6),
        (ApiKey::JoinGroup, 2, 9),
        (ApiKey::SyncGroup, 0, 5),
        (ApiKey::Heartbeat, 0, 4),
        (ApiKey::LeaveGroup, 0, 5),
        (ApiKey::DescribeGroups, 0, 6),
        (ApiKey::InitProducerId, 0, 6),
        (ApiKey::OffsetCommit, 2, 10),
        (ApiKey::OffsetFetch, 1, 10),
    ];
    let shown = all.into_iter().filter(|(api, ..)| !hidden.contains(&(*api as i16)));
    let version =
        |(api, min, max)| ApiVersion::default().with_api_key(api as i16).with_min_version(min).with_max_version(max);
    shown.map(version).collect()
}

pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
