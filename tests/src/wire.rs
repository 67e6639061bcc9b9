//! Kafka's protocol by hand, for what no client does: writes that a transaction's coordinator knows nothing of.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    indexmap::IndexMap,
    messages::{
        DescribeTransactionsRequest, FindCoordinatorRequest, GroupId, InitProducerIdRequest, OffsetFetchRequest,
        ProduceRequest, ProducerId, RequestHeader, ResponseHeader, TopicName, TransactionalId, TxnOffsetCommitRequest,
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics},
        produce_request::{PartitionProduceData, TopicProduceData},
        txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic},
    },
    protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes},
    records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType},
};

use crate::kafka::Kafka;

/// A connection to a broker.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
}

/// Who writes in a transaction.
#[derive(Clone, Debug)]
pub struct TransactionalProducer {
    /// Its transactional id.
    pub transactional_id: String,
    /// Its producer id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
}

impl Wire {
    /// Connects to the plain listener.
    pub fn connect(kafka: &Kafka) -> Self {
        Self { stream: TcpStream::connect(kafka.bootstrap()).unwrap() }
    }

    /// The node id of the broker that coordinates a group; `None` while there is none.
    pub fn group_coordinator(&mut self, group: &str) -> Option<i32> {
        let key = StrBytes::from_string(group.to_owned());
        let request = FindCoordinatorRequest::default().with_key_type(0).with_coordinator_keys(vec![key]);
        let found = &self.call(&request, 4).coordinators[0];
        (found.error_code == 0).then_some(found.node_id.0)
    }

    /// Becomes the owner of a transactional id.
    pub fn init_producer(&mut self, transactional_id: &str) -> TransactionalProducer {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(StrBytes::from_string(transactional_id.to_owned()))))
            .with_transaction_timeout_ms(10_000);
        let answer = self.call(&request, 4);
        assert_eq!(answer.error_code, 0);
        TransactionalProducer {
            transactional_id: transactional_id.to_owned(),
            id: answer.producer_id.0,
            epoch: answer.producer_epoch,
        }
    }

    /// Writes a record in a transaction of which the coordinator is not told; its offset.
    pub fn produce_untold(&mut self, producer: &TransactionalProducer, topic: &str, partition: i32, key: &[u8]) -> i64 {
        let record = Record {
            transactional: true,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            timestamp_type: TimestampType::Creation,
            offset: 0,
            sequence: 0,
            timestamp: 0,
            key: Some(Bytes::copy_from_slice(key)),
            value: Some(Bytes::from_static(b"{}")),
            headers: IndexMap::new(),
        };
        let mut batch = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut batch, [&record], &options).unwrap();
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch.freeze()));
        let topic = TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_transactional_id(Some(TransactionalId(StrBytes::from_string(producer.transactional_id.clone()))))
            .with_acks(-1)
            .with_timeout_ms(10_000)
            .with_topic_data(vec![topic]);
        let answer = self.call(&request, 9);
        let written = &answer.responses[0].partition_responses[0];
        assert_eq!(written.error_code, 0, "{answer:?}");
        written.base_offset
    }

    /// The producer that uses a transactional id at the moment; `None` where nobody has.
    pub fn producer_of(&mut self, transactional_id: &str) -> Option<TransactionalProducer> {
        let id = TransactionalId(StrBytes::from_string(transactional_id.to_owned()));
        let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![id]);
        let state = self.call(&request, 0).transaction_states.swap_remove(0);
        (state.error_code == 0).then(|| TransactionalProducer {
            transactional_id: transactional_id.to_owned(),
            id: state.producer_id.0,
            epoch: state.producer_epoch,
        })
    }

    /// Sends an offset of a group in a transaction of which the coordinator is not told.
    pub fn send_offset_untold(
        &mut self,
        producer: &TransactionalProducer,
        group: &str,
        topic: &str,
        partition: i32,
        offset: i64,
    ) {
        let partition =
            TxnOffsetCommitRequestPartition::default().with_partition_index(partition).with_committed_offset(offset);
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
            .with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(TransactionalId(StrBytes::from_string(producer.transactional_id.clone())))
            .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
            .with_producer_id(ProducerId(producer.id))
            .with_producer_epoch(producer.epoch)
            .with_topics(vec![topic]);
        let answer = self.call(&request, 3);
        assert_eq!(answer.topics[0].partitions[0].error_code, 0, "{answer:?}");
    }

    /// A group's offset in a partition, as far as nothing open may change it: `Err` is the broker's code.
    pub fn stable_offset(&mut self, group: &str, topic: &str, partition: i32) -> Result<i64, i16> {
        let topic = OffsetFetchRequestTopics::default()
            .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
            .with_partition_indexes(vec![partition]);
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
            .with_topics(Some(vec![topic]));
        let request = OffsetFetchRequest::default().with_groups(vec![group]).with_require_stable(true);
        let answer = self.call(&request, 8).groups.swap_remove(0);
        let found = answer.topics.first().map(|topic| &topic.partitions[0]);
        match (answer.error_code, found) {
            (0, Some(found)) if found.error_code == 0 => Ok(found.committed_offset),
            (0, Some(found)) => Err(found.error_code),
            (code, _) => Err(code),
        }
    }

    fn call<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let header = RequestHeader::default().with_request_api_key(R::KEY).with_request_api_version(version);
        let mut frame = BytesMut::new();
        header.encode(&mut frame, R::header_version(version)).unwrap();
        request.encode(&mut frame, version).unwrap();
        self.stream.write_all(&u32::try_from(frame.len()).unwrap().to_be_bytes()).unwrap();
        self.stream.write_all(&frame).unwrap();
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).unwrap();
        let mut answer = BytesMut::zeroed(usize::try_from(u32::from_be_bytes(length)).unwrap());
        self.stream.read_exact(&mut answer).unwrap();
        let mut answer = answer.freeze();
        ResponseHeader::decode(&mut answer, R::Response::header_version(version)).unwrap();
        R::Response::decode(&mut answer, version).unwrap()
    }
}
