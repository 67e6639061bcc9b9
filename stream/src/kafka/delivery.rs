//! What a producer's handle is told: which records were written where, which were refused, and whether a connection broke.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryResult, ProducerContext},
};

use super::report;

#[derive(Debug, Default)]
pub(super) struct Deliveries {
    /// Offset per record, in the order produced.
    pub(super) offsets: Vec<i64>,
    /// Partition per record.
    pub(super) partitions: Vec<i32>,
    pub(super) worst: Option<Refused>,
}

/// A record that was not written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub(super) index: usize,
    pub(super) code: RDKafkaErrorCode,
    bytes: usize,
}

impl Refused {
    /// Whether it explains more than `other`: a broker refuses whole batches, and the one at fault is the one that it names, or
    /// where the size is at fault the largest.
    fn is_worse_than(&self, other: &Self) -> bool {
        match (is_consequence(self.code), is_consequence(other.code)) {
            (false, true) => true,
            (false, false) => {
                self.code == RDKafkaErrorCode::MessageSizeTooLarge
                    && self.code == other.code
                    && self.bytes > other.bytes
            }
            (true, _) => false,
        }
    }
}

/// Keeps the offsets of acknowledged records.
#[derive(Debug, Default)]
pub(super) struct DeliveryContext {
    pub(super) deliveries: Mutex<Deliveries>,
    /// An open connection broke.
    pub(super) disconnected: AtomicBool,
}

impl ClientContext for DeliveryContext {
    fn error(&self, error: KafkaError, reason: &str) {
        // A broker that cannot be connected to was not part of anything.
        let broke = error.rdkafka_error_code() == Some(RDKafkaErrorCode::BrokerTransportFailure);
        if broke && !reason.contains("Connect to") {
            self.disconnected.store(true, Ordering::Release);
        }
        report::error("producing", &error, reason);
    }

    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        if is_break(facility, line) {
            self.disconnected.store(true, Ordering::Release);
        }
        report::log("producing", facility, line);
    }
}

/// Whether a log line tells of an open connection that ended, which is no error to librdkafka: "Disconnected: connection reset
/// by peer (after 7035ms in state UP)". One that is only idle is closed without a line.
fn is_break(facility: &str, line: &str) -> bool {
    facility == "FAIL" && line.contains("in state UP")
}

impl ProducerContext for DeliveryContext {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let mut deliveries = self.deliveries.lock();
        match result {
            Ok(message) => {
                if let Some(offset) = deliveries.offsets.get_mut(index) {
                    *offset = message.offset();
                }
                if let Some(partition) = deliveries.partitions.get_mut(index) {
                    *partition = message.partition();
                }
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                let bytes = message.payload_len() + message.key_len();
                let refused = Refused { index, code, bytes };
                if deliveries.worst.is_none_or(|worst| refused.is_worse_than(&worst)) {
                    deliveries.worst = Some(refused);
                }
            }
        }
    }
}

/// Purged records, and those that share a batch with a refused one, are never the cause.
pub(super) fn is_consequence(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight | RDKafkaErrorCode::InvalidDifferentRecord
    )
}
