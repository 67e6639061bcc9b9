//! What processors see of the task and of the record at hand, and what they leave there.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use holdfast_types::{Clock, TaskId, TimestampMs};

use crate::codec::CodecId;

/// A record header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub key: Arc<str>,
    /// Its value; Kafka allows null.
    pub value: Option<Bytes>,
}

impl Header {
    /// A header with a text value.
    pub fn text(key: impl Into<Arc<str>>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: Some(Bytes::from(value.into())) }
    }
}

/// An input record, its bytes borrowed from where they were read.
#[derive(Clone, Copy, Debug)]
pub struct SourceRecord<'a> {
    /// The key's bytes.
    pub key: Option<&'a [u8]>,
    /// The value's bytes.
    pub value: Option<&'a [u8]>,
    /// The record's time stamp.
    pub timestamp_ms: TimestampMs,
    /// Its offset.
    pub offset: i64,
    /// Its partition.
    pub partition: i32,
    /// Its topic, as the broker names it.
    pub topic: &'a Arc<str>,
    /// Its headers; mostly empty.
    pub headers: &'a [Header],
}

impl SourceRecord<'_> {
    /// Bytes of key and value.
    pub fn size_bytes(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len)
    }
}

/// A record for a sink's topic, to be sent with the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Index into the sub-topology's sinks.
    pub sink: usize,
    /// The key's bytes; the default partitioner hashes them.
    pub key: Option<Bytes>,
    /// The value's bytes; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Time stamp.
    pub timestamp_ms: TimestampMs,
    /// Headers of the input record, passed on; empty for what a table emits.
    pub headers: Vec<Header>,
}

impl Output {
    /// Bytes that it holds, for the dirty budget.
    pub fn size_bytes(&self) -> usize {
        let headers = |header: &Header| size_of::<Header>() + header.value.as_ref().map_or(0, Bytes::len);
        size_of::<Self>()
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + self.headers.iter().map(headers).sum::<usize>()
    }
}

/// A changed row of a store, encoded: one changelog record and one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRow {
    /// The key's bytes.
    pub key: Bytes,
    /// The value's bytes; `None` deletes the row.
    pub value: Option<Bytes>,
    /// Time stamp: the latest of the records that made the value.
    pub timestamp_ms: TimestampMs,
}

/// Records that were skipped because a null is nothing that the node can use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedRecords {
    /// Null keys where a key is needed.
    pub null_key: u64,
    /// Null values where a value is needed.
    pub null_value: u64,
}

impl DroppedRecords {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.null_key + self.null_value
    }
}

/// Bytes of outputs are cut from blocks of this size, so that a record costs no allocation of its own.
const OUTPUT_BLOCK_BYTES: usize = 64 * 1024;

/// The longest value that is passed on as it was read: what its codec does not look at goes with it.
const PASSED_ON_BYTES: usize = 64 * 1024;

/// How long a panic is remembered.
const CAUTIOUS_RECORDS: u32 = 10_000;

/// One task's context: who it is, the record at hand, and what processing left to be committed.
#[derive(Debug)]
pub struct TaskContext {
    /// The task.
    pub task: TaskId,
    /// The largest time stamp seen by the task, -1 before the first; restored with the task, and moved by each record.
    pub stream_time_ms: TimestampMs,
    /// Records for sinks since they were last taken.
    pub outputs: Vec<Output>,
    /// Whether the record at hand changed a row or left an output. After a failed record it says whether the task must be
    /// rolled back (`true`: a table was changed before the failure) or can simply go on (`false`: nothing happened).
    pub mutated: bool,
    /// Records skipped since the task was built.
    pub dropped: DroppedRecords,
    /// Whether a closure is changing a row in place: what is left of it after a panic is not known.
    pub(crate) row_at_risk: bool,
    /// Records for which closures change a copy of the row, because one has panicked lately.
    cautious_records: u32,
    /// The longest that a closure's look at one row, or at a few, took since it was last taken, where that is told.
    pub(crate) slow_rows: Option<(Duration, usize)>,
    /// How long is too long.
    pub(crate) slow_after: Duration,
    /// Outputs and stream time before the record at hand.
    outputs_before: usize,
    stream_time_before_ms: TimestampMs,
    clock: Arc<dyn Clock>,
    timestamp_ms: TimestampMs,
    headers: Vec<Header>,
    origin: Option<(i32, i64)>,
    /// The bytes of the value at hand, and what they were read with, where a node below passes them on.
    value_read: Vec<u8>,
    value_read_with: Option<CodecId>,
    block: BytesMut,
    scratch: Vec<u8>,
}

impl TaskContext {
    /// The context of a task that has seen nothing.
    pub fn new(task: TaskId, clock: Arc<dyn Clock>) -> Self {
        Self {
            task,
            stream_time_ms: -1,
            outputs: Vec::new(),
            mutated: false,
            dropped: DroppedRecords::default(),
            row_at_risk: false,
            cautious_records: 0,
            slow_rows: None,
            slow_after: Duration::MAX,
            outputs_before: 0,
            stream_time_before_ms: -1,
            clock,
            timestamp_ms: 0,
            headers: Vec::new(),
            origin: None,
            value_read: Vec::new(),
            value_read_with: None,
            block: BytesMut::new(),
            scratch: Vec::new(),
        }
    }

    /// Time stamp of the record at hand; of the row, where a table emits.
    pub fn timestamp_ms(&self) -> TimestampMs {
        self.timestamp_ms
    }

    /// Headers of the input record at hand.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// Partition and offset of the input record at hand; `None` where a table emits.
    pub fn origin(&self) -> Option<(i32, i64)> {
        self.origin
    }

    /// Wall-clock time.
    pub fn wall_clock_ms(&self) -> TimestampMs {
        self.clock.now_ms()
    }

    pub(crate) fn begin_record(&mut self, record: &SourceRecord<'_>) {
        self.timestamp_ms = record.timestamp_ms;
        self.stream_time_before_ms = self.stream_time_ms;
        self.stream_time_ms = self.stream_time_ms.max(record.timestamp_ms);
        self.origin = Some((record.partition, record.offset));
        self.value_read_with = None;
        self.mutated = false;
        self.cautious_records = self.cautious_records.saturating_sub(1);
        self.outputs_before = self.outputs.len();
        self.headers.clear();
        if !record.headers.is_empty() {
            self.headers.extend_from_slice(record.headers);
        }
    }

    /// The record at hand failed: it has left nothing for sinks and has not moved time, unless it changed a row; then all goes
    /// back to the last commit.
    pub(crate) fn record_failed(&mut self) {
        if !self.mutated {
            self.outputs.truncate(self.outputs_before);
            self.stream_time_ms = self.stream_time_before_ms;
        }
    }

    /// A closure panicked at the record at hand. Whether a row is half changed shows in `mutated`; the next ones are changed as
    /// copies, so that a flood of panics does not cost a way back to the last commit each.
    pub(crate) fn record_panicked(&mut self) {
        self.mutated |= std::mem::take(&mut self.row_at_risk);
        self.cautious_records = CAUTIOUS_RECORDS;
        self.record_failed();
    }

    /// So many rows took so long to be forwarded.
    pub(crate) fn forwarded(&mut self, rows: usize, took: Duration) {
        if took >= self.slow_after && self.slow_rows.is_none_or(|(longest, _)| took > longest) {
            self.slow_rows = Some((took, rows));
        }
    }

    /// Whether rows are to be changed as copies.
    #[inline]
    pub(crate) fn is_cautious(&self) -> bool {
        self.cautious_records > 0
    }

    pub(crate) fn begin_row(&mut self, timestamp_ms: TimestampMs) {
        self.timestamp_ms = timestamp_ms;
        self.origin = None;
        self.value_read_with = None;
        self.headers.clear();
    }

    /// The value at hand was read with this codec from these bytes; `None` where nobody passes them on.
    #[inline]
    pub(crate) fn value_was_read(&mut self, with: Option<CodecId>, bytes: Option<&[u8]>) {
        self.value_read_with = None;
        if let (Some(_), Some(bytes)) = (with, bytes)
            && bytes.len() <= PASSED_ON_BYTES
        {
            self.value_read_with = with;
            self.value_read.clear();
            self.value_read.extend_from_slice(bytes);
        }
    }

    /// The bytes of the value at hand, if it was read with this codec: writing it again would say the same.
    #[inline]
    pub(crate) fn value_as_read(&self, with: CodecId) -> Option<&[u8]> {
        (self.value_read_with == Some(with)).then_some(self.value_read.as_slice())
    }

    /// A buffer to encode into; give it back with [`TaskContext::give_scratch`].
    pub(crate) fn take_scratch(&mut self) -> Vec<u8> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch
    }

    pub(crate) fn give_scratch(&mut self, scratch: Vec<u8>) {
        self.scratch = scratch;
    }

    /// Leaves a record for `sink`: the first `key_length` bytes of `encoded` are its key, the rest its value.
    pub(crate) fn emit(&mut self, sink: usize, encoded: &[u8], key_length: Option<usize>, has_value: bool) {
        if self.block.capacity() < encoded.len() {
            self.block = BytesMut::with_capacity(OUTPUT_BLOCK_BYTES.max(encoded.len()));
        }
        self.block.extend_from_slice(encoded);
        let mut bytes = self.block.split().freeze();
        let key = key_length.map(|length| bytes.split_to(length));
        let value = has_value.then_some(bytes);
        self.outputs.push(Output { sink, key, value, timestamp_ms: self.timestamp_ms, headers: self.headers.clone() });
    }
}
