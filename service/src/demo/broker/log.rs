//! The log of one partition: batches as they came, with the bound that keeps a demo from eating the machine.

use std::collections::{HashMap, VecDeque};

use tansu_sans_io::record::{deflated, inflated};

/// How much a broker keeps.
#[derive(Clone, Copy, Debug)]
pub struct LogBounds {
    /// Bytes of a partition; the oldest batches go when it has more.
    pub partition_bytes: usize,
}

impl Default for LogBounds {
    fn default() -> Self {
        Self { partition_bytes: 64 << 20 }
    }
}

/// Why a batch was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The batch was taken before.
    #[error("this batch was appended before")]
    Duplicate,
    /// A batch in front of it is missing.
    #[error("a batch in front of this one is missing")]
    OutOfOrder,
    /// A newer instance of the producer writes.
    #[error("a newer instance of this producer writes")]
    Fenced,
}

/// One partition.
#[derive(Debug)]
pub(crate) struct PartitionLog {
    batches: VecDeque<deflated::Batch>,
    start: i64,
    end: i64,
    bytes: usize,
    bounds: LogBounds,
    producers: HashMap<i64, ProducerState>,
}

/// What is known of an idempotent producer.
#[derive(Clone, Copy, Debug)]
struct ProducerState {
    epoch: i16,
    next_sequence: i32,
}

impl PartitionLog {
    pub(crate) fn new(bounds: LogBounds) -> Self {
        Self { batches: VecDeque::new(), start: 0, end: 0, bytes: 0, bounds, producers: HashMap::new() }
    }

    /// First offset that can be read.
    pub(crate) fn start(&self) -> i64 {
        self.start
    }

    /// Offset that the next record gets.
    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    /// Appends a batch and answers its first offset.
    pub(crate) fn append(&mut self, mut batch: deflated::Batch) -> Result<i64, LogError> {
        self.check_sequence(&batch)?;
        let base = self.end;
        batch.base_offset = base;
        self.end += i64::from(batch.last_offset_delta) + 1;
        self.bytes += batch_bytes(&batch);
        self.batches.push_back(batch);
        while self.bytes > self.bounds.partition_bytes && self.batches.len() > 1 {
            self.drop_first();
        }
        Ok(base)
    }

    /// Batches from `offset` on, up to about `max_bytes`, at least one when there is one.
    pub(crate) fn read(&self, offset: i64, max_bytes: usize) -> Vec<deflated::Batch> {
        let first = self.batches.partition_point(|batch| last_offset(batch) < offset);
        let mut bytes = 0;
        let mut read = Vec::new();
        for batch in self.batches.range(first..) {
            if bytes > 0 && bytes + batch_bytes(batch) > max_bytes {
                break;
            }
            bytes += batch_bytes(batch);
            // The layer above counts records to find the next offset: a batch must start where it was asked for.
            let cut = if batch.base_offset < offset { cut_front(batch, offset) } else { None };
            read.push(cut.unwrap_or_else(|| batch.clone()));
        }
        read
    }

    /// The offset and time of the first batch with a record at or after `timestamp_ms`.
    pub(crate) fn offset_at(&self, timestamp_ms: i64) -> Option<(i64, i64)> {
        let batch = self.batches.iter().find(|batch| batch.max_timestamp >= timestamp_ms)?;
        Some((batch.base_offset.max(self.start), batch.max_timestamp))
    }

    /// Forgets records before `offset` (−1: all) and answers the new start.
    pub(crate) fn delete_before(&mut self, offset: i64) -> i64 {
        let offset = if offset < 0 { self.end } else { offset.min(self.end) };
        while self.batches.front().is_some_and(|batch| last_offset(batch) < offset) {
            self.drop_first();
        }
        self.start = self.start.max(offset);
        self.start
    }

    fn drop_first(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            self.bytes -= batch_bytes(&batch);
            self.start = self.start.max(last_offset(&batch) + 1);
        }
    }

    /// Kafka's rule: the sequence goes on where the producer's last batch ended; a new epoch starts anew.
    fn check_sequence(&mut self, batch: &deflated::Batch) -> Result<(), LogError> {
        if batch.producer_id < 0 {
            return Ok(());
        }
        let count = i64::from(batch.last_offset_delta) + 1;
        let next = ((i64::from(batch.base_sequence) + count) % (i64::from(i32::MAX) + 1)) as i32;
        let state = ProducerState { epoch: batch.producer_epoch, next_sequence: next };
        match self.producers.get_mut(&batch.producer_id) {
            Some(known) if known.epoch > batch.producer_epoch => return Err(LogError::Fenced),
            Some(known) if known.epoch == batch.producer_epoch && known.next_sequence != batch.base_sequence => {
                let duplicate = known.next_sequence > batch.base_sequence;
                return Err(if duplicate { LogError::Duplicate } else { LogError::OutOfOrder });
            }
            Some(known) => *known = state,
            None => {
                self.producers.insert(batch.producer_id, state);
            }
        }
        Ok(())
    }
}

fn last_offset(batch: &deflated::Batch) -> i64 {
    batch.base_offset + i64::from(batch.last_offset_delta)
}

fn batch_bytes(batch: &deflated::Batch) -> usize {
    const HEADER_BYTES: usize = 61;
    HEADER_BYTES + batch.record_data.len()
}

/// The part of a batch from `offset` on; `None` when its records cannot be read.
fn cut_front(batch: &deflated::Batch, offset: i64) -> Option<deflated::Batch> {
    let mut whole = inflated::Batch::try_from(batch).ok()?;
    let skipped = i32::try_from(offset - whole.base_offset).ok()?;
    whole.records.retain(|record| record.offset_delta >= skipped);
    for record in &mut whole.records {
        record.offset_delta -= skipped;
    }
    whole.base_offset = offset;
    whole.last_offset_delta -= skipped;
    // The builder computes lengths and checksum anew.
    whole.into_builder().build().and_then(deflated::Batch::try_from).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tansu_sans_io::record::Record;

    use super::*;

    fn batch(producer: i64, epoch: i16, sequence: i32, records: i32) -> deflated::Batch {
        let mut builder = inflated::Batch::builder()
            .producer_id(producer)
            .producer_epoch(epoch)
            .base_sequence(sequence)
            .last_offset_delta(records - 1);
        for delta in 0..records {
            let value = Bytes::from(format!("{}", sequence + delta));
            builder = builder.record(Record::builder().offset_delta(delta).value(Some(value)));
        }
        builder.build().and_then(deflated::Batch::try_from).unwrap()
    }

    fn values(batches: &[deflated::Batch]) -> Vec<(i64, String)> {
        let inflate = |batch: &deflated::Batch| inflated::Batch::try_from(batch).unwrap();
        batches
            .iter()
            .map(inflate)
            .flat_map(|batch| {
                let base = batch.base_offset;
                batch.records.into_iter().map(move |record| {
                    let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                    (base + i64::from(record.offset_delta), value)
                })
            })
            .collect()
    }

    fn log() -> PartitionLog {
        PartitionLog::new(LogBounds::default())
    }

    #[test]
    fn reading_may_start_inside_a_batch() {
        let mut log = log();
        assert_eq!(log.append(batch(1, 0, 0, 5)), Ok(0));
        assert_eq!(log.append(batch(1, 0, 5, 3)), Ok(5));
        assert_eq!(log.end(), 8);
        for offset in 0..8 {
            let read = log.read(offset, 1 << 20);
            let expected: Vec<_> = (offset..8).map(|n| (n, n.to_string())).collect();
            assert_eq!(values(&read), expected, "from {offset}");
            let counted: u32 = read.iter().map(|batch| batch.record_count).sum();
            assert_eq!(i64::from(counted), 8 - offset, "the layer above adds record counts");
        }
        assert!(log.read(8, 1 << 20).is_empty());
        assert_eq!(values(&log.read(0, 1)).len(), 5, "one batch at least");
    }

    #[test]
    fn sequences_are_kafkas() {
        let mut log = log();
        assert_eq!(log.append(batch(7, 0, 0, 2)), Ok(0));
        assert_eq!(log.append(batch(7, 0, 0, 2)), Err(LogError::Duplicate));
        assert_eq!(log.append(batch(7, 0, 3, 1)), Err(LogError::OutOfOrder));
        assert_eq!(log.append(batch(7, 1, 0, 1)), Ok(2));
        assert_eq!(log.append(batch(7, 0, 2, 1)), Err(LogError::Fenced));
        assert_eq!(log.append(batch(-1, -1, -1, 1)), Ok(3));
        let mut wrapping = PartitionLog::new(LogBounds::default());
        assert_eq!(wrapping.append(batch(1, 0, i32::MAX - 1, 2)), Ok(0));
        assert_eq!(wrapping.append(batch(1, 0, 0, 1)), Ok(2));
    }

    #[test]
    fn old_records_go() {
        let mut log = log();
        for sequence in 0..10 {
            log.append(batch(1, 0, sequence, 1)).unwrap();
        }
        assert_eq!(log.delete_before(4), 4);
        assert_eq!(values(&log.read(0, 1 << 20))[0].0, 4);
        assert_eq!(log.delete_before(-1), 10);
        assert!(log.read(0, 1 << 20).is_empty());

        let mut small = PartitionLog::new(LogBounds { partition_bytes: 300 });
        for sequence in 0..10 {
            small.append(batch(1, 0, sequence, 1)).unwrap();
        }
        assert!(small.start() > 0 && small.start() < 10);
        assert_eq!(small.end(), 10);
    }
}
