//! The librdkafka boundary: what the rdkafka crate does not wrap. The only file with `unsafe`, each block with its reason.
#![allow(unsafe_code, reason = "this file is the boundary to librdkafka's C interface")]

use std::{
    borrow::Cow,
    ffi::{CStr, CString, c_void},
    ptr, slice,
    sync::Arc,
    thread::Thread,
    time::Duration,
};

use holdfast_types::{GroupMetadata, TopicPartition};
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, bindings as sys,
    client::Client,
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode},
    producer::Producer as _,
    topic_partition_list::{Offset, TopicPartitionList},
};
use uuid::Uuid;

use super::{
    consumer::Consumer,
    producer::{InputOffset, Producer, TransactionError},
};

/// Wakes the thread that registered itself, from whichever thread has news for it.
#[derive(Debug, Default)]
pub struct Waker {
    thread: Mutex<Option<Thread>>,
}

impl Waker {
    /// The calling thread is the one to wake from now on.
    pub fn register(&self) {
        *self.thread.lock() = Some(std::thread::current());
    }

    /// Ends the registered thread's `park`, or the next one it begins.
    pub fn wake(&self) {
        if let Some(thread) = &*self.thread.lock() {
            thread.unpark();
        }
    }
}

/// Called by librdkafka, on one of its threads, when a queue turns from empty to not empty.
unsafe extern "C" fn wake_on_event(_: *mut sys::rd_kafka_t, waker: *mut c_void) {
    // SAFETY: `waker` is the pointer that `NativeFetchQueue::open` registered; the queue keeps its Arc until after it has
    // removed the callback, which takes the lock that librdkafka holds while it calls here.
    let waker = unsafe { &*waker.cast::<Waker>() };
    waker.wake();
}

/// A queue of our own to which one partition's fetched messages are forwarded.
///
/// The forward is set before the partition is assigned: a start of fetching leaves a forward that the application set alone,
/// while a queue split off after `assign` races with it. It is set again after each assign, since a stop of fetching clears
/// it (`rd_kafka_toppar_fetch_stop`), later than the unassign that asked for the stop returns.
pub(super) struct NativeFetchQueue {
    consumer: Arc<Consumer>,
    partition_queue: *mut sys::rd_kafka_queue_t,
    own: *mut sys::rd_kafka_queue_t,
    waker: Arc<Waker>,
    batch: Vec<*mut sys::rd_kafka_message_t>,
    next: usize,
}

// SAFETY: librdkafka's queues and messages may be used from any thread, one at a time for a message; `&mut self` guards it.
unsafe impl Send for NativeFetchQueue {}

/// One entry of a fetch queue.
pub(super) enum RawEvent<'a> {
    Message(RawMessage<'a>),
    Eof { offset: i64 },
    Error(RDKafkaErrorCode, String),
}

/// A fetched record, borrowed from librdkafka.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawMessage<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) offset: i64,
    pub(super) timestamp_ms: i64,
    message: &'a sys::rd_kafka_message_t,
}

const BATCH: usize = 1024;

impl NativeFetchQueue {
    pub(super) fn open(
        consumer: Arc<Consumer>,
        topic: &str,
        partition: i32,
        waker: Arc<Waker>,
    ) -> Result<Self, KafkaError> {
        let name = CString::new(topic)?;
        let client = consumer.client().native_ptr();
        // A topic that librdkafka meets in an assignment waits for the next of the rounds in which it asks for missing leaders,
        // one a second. That of a handle is asked for at once, and again soon while there is none.
        // SAFETY: `client` lives as long as `consumer`, which this value keeps; `name` is a valid C string for the call; without a
        // configuration librdkafka uses that of the client.
        let handle = unsafe { sys::rd_kafka_topic_new(client, name.as_ptr(), ptr::null_mut()) };
        if handle.is_null() {
            // SAFETY: reads the calling thread's last error.
            let code = unsafe { sys::rd_kafka_last_error() };
            return Err(KafkaError::Subscription(format!("{topic}: {}", RDKafkaErrorCode::from(code))));
        }
        // SAFETY: as above.
        let partition_queue = unsafe { sys::rd_kafka_queue_get_partition(client, name.as_ptr(), partition) };
        // SAFETY: made above, and not used after this; the partition's queue keeps the topic.
        unsafe { sys::rd_kafka_topic_destroy(handle) };
        if partition_queue.is_null() {
            return Err(KafkaError::Subscription(format!("librdkafka knows no queue for {topic}-{partition}")));
        }
        // SAFETY: as above; the new queue is destroyed in `drop`.
        let own = unsafe { sys::rd_kafka_queue_new(client) };
        let queue = Self { consumer, partition_queue, own, waker, batch: Vec::with_capacity(BATCH), next: 0 };
        // SAFETY: the queue is alive until `drop`; the waker's pointer stays valid because `queue` holds its Arc until after the
        // callback is removed there.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(own, Some(wake_on_event), Arc::as_ptr(&queue.waker).cast_mut().cast());
        }
        queue.forward();
        Ok(queue)
    }

    /// Has librdkafka put the partition's messages here, with those that wait there now; after each time that it is assigned.
    pub(super) fn forward(&self) {
        // SAFETY: both queues are alive until `drop`.
        unsafe { sys::rd_kafka_queue_forward(self.partition_queue, self.own) }
    }

    /// The next entry, fetching a batch from librdkafka without waiting when none is at hand.
    pub(super) fn peek(&mut self) -> Option<RawEvent<'_>> {
        if self.next == self.batch.len() {
            self.refill();
        }
        let &message = self.batch.get(self.next)?;
        // SAFETY: the message is ours until `advance` or `drop` destroys it, and the borrow of `self` ends before either.
        let message = unsafe { &*message };
        if message.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Some(RawEvent::Message(RawMessage {
                key: bytes_of(message.key, message.key_len),
                value: bytes_of(message.payload, message.len),
                offset: message.offset,
                timestamp_ms: timestamp_of(message),
                message,
            }));
        }
        let code = RDKafkaErrorCode::from(message.err);
        if code == RDKafkaErrorCode::PartitionEOF {
            return Some(RawEvent::Eof { offset: message.offset });
        }
        let text = bytes_of(message.payload, message.len).map(|text| String::from_utf8_lossy(text).into_owned());
        Some(RawEvent::Error(code, text.unwrap_or_else(|| code.to_string())))
    }

    /// Done with the entry that `peek` showed.
    pub(super) fn advance(&mut self) {
        if let Some(&message) = self.batch.get(self.next) {
            // SAFETY: each message is destroyed once: here, after which `next` has passed it, or in `drop`.
            unsafe { sys::rd_kafka_message_destroy(message) };
            self.next += 1;
        }
    }

    /// Forgets the batch at hand; what librdkafka still queues of before a seek it filters itself.
    pub(super) fn discard(&mut self) {
        while self.next < self.batch.len() {
            self.advance();
        }
    }

    fn refill(&mut self) {
        self.batch.clear();
        self.next = 0;
        // SAFETY: the array has room for BATCH pointers; librdkafka writes `count` valid ones, which become ours.
        unsafe {
            let count = sys::rd_kafka_consume_batch_queue(self.own, 0, self.batch.as_mut_ptr(), BATCH);
            self.batch.set_len(usize::try_from(count).unwrap_or(0).min(BATCH));
        }
    }
}

impl Drop for NativeFetchQueue {
    fn drop(&mut self) {
        self.discard();
        // SAFETY: the queues are ours and not used after this; the callback goes before the Arc that it points to.
        unsafe {
            sys::rd_kafka_queue_forward(self.partition_queue, ptr::null_mut());
            sys::rd_kafka_queue_cb_event_enable(self.own, None, ptr::null_mut());
            sys::rd_kafka_queue_destroy(self.partition_queue);
            sys::rd_kafka_queue_destroy(self.own);
        }
        debug_assert!(Arc::strong_count(&self.consumer) > 0);
    }
}

impl<'a> RawMessage<'a> {
    /// The headers, in order; empty for most records, and parsed only when asked.
    pub(super) fn headers(&self) -> Vec<(Cow<'a, str>, Option<&'a [u8]>)> {
        let mut list: *mut sys::rd_kafka_headers_t = ptr::null_mut();
        // SAFETY: the message is alive for 'a, and librdkafka keeps the parsed headers with it.
        let found = unsafe { sys::rd_kafka_message_headers(self.message, &mut list) };
        if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Vec::new();
        }
        let mut headers = Vec::new();
        for index in 0.. {
            let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
            // SAFETY: `list` is valid (checked above); out pointers are written only on success.
            let more = unsafe { sys::rd_kafka_header_get_all(list, index, &mut name, &mut value, &mut length) };
            if more != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                break;
            }
            // SAFETY: librdkafka terminates header names, and keeps them with the message for 'a.
            let name: &'a CStr = unsafe { CStr::from_ptr(name) };
            // A name that is not UTF-8 breaks Kafka's own rule; Java reads it with replacements too.
            headers.push((name.to_string_lossy(), bytes_of(value.cast_mut(), length)));
        }
        headers
    }
}

/// Bytes that live as long as the message they belong to; the caller's signature ties `'a` to it.
fn bytes_of<'a>(data: *mut c_void, length: usize) -> Option<&'a [u8]> {
    if data.is_null() {
        return None;
    }
    // SAFETY: librdkafka gives a pointer and its length together; callers bind the lifetime to the message's.
    Some(unsafe { slice::from_raw_parts(data.cast::<u8>(), length) })
}

fn timestamp_of(message: &sys::rd_kafka_message_t) -> i64 {
    let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: both arguments are valid references for the call.
    unsafe { sys::rd_kafka_message_timestamp(message, &mut kind) }
}

/// The low and high watermark as the last fetch answer told them, without asking the broker; −1001 is "not known".
pub(super) fn cached_watermarks(consumer: &Consumer, topic: &str, partition: i32) -> Option<(i64, i64)> {
    let name = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the handle outlives the call and the out pointers are valid for it.
    let answer = unsafe {
        sys::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            name.as_ptr(),
            partition,
            &mut low,
            &mut high,
        )
    };
    (answer == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some((low, high))
}

/// Adds input offsets to the open transaction under a member and generation that librdkafka does not know of: its own
/// consumer is not a member, and its metadata type cannot be made from Rust.
pub(super) fn send_offsets(
    producer: &Producer,
    offsets: &[InputOffset],
    group: &GroupMetadata,
    deadline: Duration,
) -> Result<(), TransactionError> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for InputOffset { topic, partition, next, metadata } in offsets {
        list.add_partition_offset(topic, *partition, Offset::Offset(*next)).map_err(TransactionError::from)?;
        if !metadata.is_empty()
            && let Some(mut element) = list.find_partition(topic, *partition)
        {
            element.set_metadata(metadata.as_str());
        }
    }
    let text = |text: &str| CString::new(text).map_err(|error| TransactionError::from(KafkaError::Nul(error)));
    let (group_id, member_id) = (text(&group.group_id)?, text(&group.member_id)?);
    // SAFETY: the strings live through the call, which copies them; a null instance id means "not static".
    let metadata = unsafe {
        sys::rd_kafka_consumer_group_metadata_new_with_genid(
            group_id.as_ptr(),
            group.generation,
            member_id.as_ptr(),
            ptr::null(),
        )
    };
    let timeout = i32::try_from(deadline.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: producer, list and metadata are alive through the call, and the metadata is ours to destroy after it.
    let error = unsafe {
        let error =
            sys::rd_kafka_send_offsets_to_transaction(producer.client().native_ptr(), list.ptr(), metadata, timeout);
        sys::rd_kafka_consumer_group_metadata_destroy(metadata);
        error
    };
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null error is a valid object that is ours; its strings are copied before it is destroyed.
    let told = unsafe {
        let told = TransactionError {
            code: RDKafkaErrorCode::from(sys::rd_kafka_error_code(error)),
            message: CStr::from_ptr(sys::rd_kafka_error_string(error)).to_string_lossy().into_owned(),
            fatal: sys::rd_kafka_error_is_fatal(error) != 0,
            retriable: sys::rd_kafka_error_is_retriable(error) != 0,
            requires_abort: sys::rd_kafka_error_txn_requires_abort(error) != 0,
        };
        sys::rd_kafka_error_destroy(error);
        told
    };
    Err(told)
}

/// Waits until everything produced is acknowledged or failed, on librdkafka's condition variable: the crate's `flush`
/// steps in 100 ms. Returns whether nothing is left.
pub(super) fn flush(producer: &Producer, deadline: Duration) -> bool {
    let timeout = i32::try_from(deadline.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the handle outlives the call.
    unsafe {
        sys::rd_kafka_flush(producer.client().native_ptr(), timeout)
            == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
    }
}

/// What the broker says of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawTopic {
    pub(super) name: String,
    pub(super) answer: Result<RawTopicShape, RDKafkaErrorCode>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawTopicShape {
    /// Changes when a topic is deleted and created again; brokers before 2.8 tell none.
    pub(super) id: Option<Uuid>,
    pub(super) partitions: i32,
}

/// Asks for topics by name, ids included, which the crate's metadata leaves out. Creates none, whatever the broker's settings.
pub(super) fn describe_topics<C: ClientContext>(
    client: &Client<C>,
    names: &[String],
    deadline: Duration,
) -> Result<Vec<RawTopic>, KafkaError> {
    let names = names.iter().map(|name| CString::new(name.as_str())).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let timeout = i32::try_from(deadline.as_millis()).unwrap_or(i32::MAX);
    let mut problem = [0; 128];
    // SAFETY: handle, names and buffer outlive the calls; librdkafka copies the names; whatever is made here is destroyed here,
    // once, and the event only after everything in it was copied.
    unsafe {
        let native = client.native_ptr();
        let queue = sys::rd_kafka_queue_new(native);
        let options =
            sys::rd_kafka_AdminOptions_new(native, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout, problem.as_mut_ptr(), problem.len());
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        sys::rd_kafka_DescribeTopics(native, topics, options, queue);
        // The request's own time-out ends the wait; the margin is for its answer to come through.
        let event = sys::rd_kafka_queue_poll(queue, timeout.saturating_add(1_000));
        let outcome = topics_of(event);
        if !event.is_null() {
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_TopicCollection_destroy(topics);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_queue_destroy(queue);
        outcome
    }
}

/// Copies the topics out of the event that answers a description.
///
/// # Safety
/// `event` is null or a valid event, alive through the call.
unsafe fn topics_of(event: *mut sys::rd_kafka_event_t) -> Result<Vec<RawTopic>, KafkaError> {
    use sys::rd_kafka_resp_err_t::{RD_KAFKA_RESP_ERR__TIMED_OUT, RD_KAFKA_RESP_ERR_NO_ERROR};
    if event.is_null() {
        return Err(KafkaError::AdminOp(RDKafkaErrorCode::from(RD_KAFKA_RESP_ERR__TIMED_OUT)));
    }
    // SAFETY: the event is valid (checked above, promised by the caller); each pointer is used only while it is, and only where
    // librdkafka says that there is one.
    unsafe {
        let error = sys::rd_kafka_event_error(event);
        if error != RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::from(error)));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        let mut count = 0;
        let found = match result.is_null() {
            true => ptr::null_mut(),
            false => sys::rd_kafka_DescribeTopics_result_topics(result, &mut count),
        };
        let found = if found.is_null() { &[] } else { slice::from_raw_parts(found, count) };
        let describe = |&topic: &*const sys::rd_kafka_TopicDescription_t| {
            let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic)).to_string_lossy().into_owned();
            // Null where all is well.
            let error = sys::rd_kafka_TopicDescription_error(topic);
            let code = if error.is_null() { RD_KAFKA_RESP_ERR_NO_ERROR } else { sys::rd_kafka_error_code(error) };
            if code != RD_KAFKA_RESP_ERR_NO_ERROR {
                return RawTopic { name, answer: Err(RDKafkaErrorCode::from(code)) };
            }
            let mut partitions = 0;
            sys::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
            let id = sys::rd_kafka_TopicDescription_topic_id(topic);
            let id = (!id.is_null()).then(|| {
                let (most, least) =
                    (sys::rd_kafka_Uuid_most_significant_bits(id), sys::rd_kafka_Uuid_least_significant_bits(id));
                Uuid::from_u64_pair(most.cast_unsigned(), least.cast_unsigned())
            });
            let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
            RawTopic { name, answer: Ok(RawTopicShape { id: id.filter(|id| !id.is_nil()), partitions }) }
        };
        Ok(found.iter().map(describe).collect())
    }
}

/// A question where partitions end that is on its way to the brokers.
pub(super) struct NativeEndsQuery {
    // Keeps the client that the queue belongs to.
    consumer: Arc<Consumer>,
    queue: *mut sys::rd_kafka_queue_t,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for NativeEndsQuery {}

/// What the brokers say of one partition.
pub(super) type RawEnd = (String, i32, Result<i64, RDKafkaErrorCode>);

impl NativeEndsQuery {
    /// Asks for the high watermark of each partition, all in one request per broker.
    pub(super) fn ask(
        consumer: Arc<Consumer>,
        partitions: &[TopicPartition],
        deadline: Duration,
    ) -> Result<Self, KafkaError> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            // The end is what librdkafka calls the "latest" offset.
            list.add_partition_offset(&partition.topic, partition.partition, Offset::End)?;
        }
        let timeout = i32::try_from(deadline.as_millis()).unwrap_or(i32::MAX);
        let mut problem = [0; 128];
        let native = consumer.client().native_ptr();
        // SAFETY: handle, list and buffer outlive the calls; librdkafka copies the list and the options. The queue is destroyed in
        // `drop`, the options here, an error (null where all is well) at once.
        let queue = unsafe {
            let queue = sys::rd_kafka_queue_new(native);
            let options =
                sys::rd_kafka_AdminOptions_new(native, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS);
            sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout, problem.as_mut_ptr(), problem.len());
            let error = sys::rd_kafka_AdminOptions_set_isolation_level(
                options,
                sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
            );
            if !error.is_null() {
                sys::rd_kafka_error_destroy(error);
            }
            sys::rd_kafka_ListOffsets(native, list.ptr(), options, queue);
            sys::rd_kafka_AdminOptions_destroy(options);
            queue
        };
        Ok(Self { consumer, queue })
    }

    /// The answer, without waiting for it.
    pub(super) fn answer(&self) -> Option<Result<Vec<RawEnd>, KafkaError>> {
        // SAFETY: the queue is alive until `drop`; the event is destroyed once, after everything in it was copied.
        unsafe {
            let event = sys::rd_kafka_queue_poll(self.queue, 0);
            if event.is_null() {
                return None;
            }
            let outcome = ends_of(event);
            sys::rd_kafka_event_destroy(event);
            Some(outcome)
        }
    }
}

impl Drop for NativeEndsQuery {
    fn drop(&mut self) {
        // SAFETY: the queue is ours and not used after this; an answer that comes later is dropped by librdkafka.
        unsafe { sys::rd_kafka_queue_destroy(self.queue) }
        debug_assert!(Arc::strong_count(&self.consumer) > 0);
    }
}

/// Copies the ends out of the event that answers the question.
///
/// # Safety
/// `event` is a valid event, alive through the call.
unsafe fn ends_of(event: *mut sys::rd_kafka_event_t) -> Result<Vec<RawEnd>, KafkaError> {
    use sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    // SAFETY: promised by the caller; each pointer is used only while the event is alive, and only where librdkafka says that
    // there is one.
    unsafe {
        let error = sys::rd_kafka_event_error(event);
        if error != RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::from(error)));
        }
        let result = sys::rd_kafka_event_ListOffsets_result(event);
        let mut count = 0;
        let found = match result.is_null() {
            true => ptr::null_mut(),
            false => sys::rd_kafka_ListOffsets_result_infos(result, &mut count),
        };
        let found = if found.is_null() { &[] } else { slice::from_raw_parts(found, count) };
        let end = |&info: &*const sys::rd_kafka_ListOffsetsResultInfo_t| {
            let partition = &*sys::rd_kafka_ListOffsetsResultInfo_topic_partition(info);
            let topic = CStr::from_ptr(partition.topic).to_string_lossy().into_owned();
            let end = match partition.err {
                RD_KAFKA_RESP_ERR_NO_ERROR if partition.offset >= 0 => Ok(partition.offset),
                // librdkafka forgets the error of a leader that could not be asked, and leaves "invalid offset" in its place.
                RD_KAFKA_RESP_ERR_NO_ERROR => Err(RDKafkaErrorCode::NoOffset),
                failed => Err(RDKafkaErrorCode::from(failed)),
            };
            (topic, partition.partition, end)
        };
        Ok(found.iter().map(end).collect())
    }
}
