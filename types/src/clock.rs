//! Time, behind a trait that tests can move.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch, as Kafka's record time stamps are.
pub type TimestampMs = i64;

/// Where code reads the time.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Wall-clock time; may jump when the machine's clock is set.
    fn now_ms(&self) -> TimestampMs;
    /// Time that only goes forward; for intervals, deadlines and staleness.
    fn monotonic(&self) -> Instant;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> TimestampMs {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            // A clock set before 1970: zero is as good as any other wrong time, and it is not a reason to stop.
            Err(_) => 0,
        }
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that moves when told, for tests.
#[derive(Clone, Debug)]
pub struct ManualClock {
    start: Instant,
    elapsed_ms: Arc<AtomicI64>,
    epoch_ms: TimestampMs,
}

impl ManualClock {
    /// A clock standing at `epoch_ms`.
    pub fn at(epoch_ms: TimestampMs) -> Self {
        Self { start: Instant::now(), elapsed_ms: Arc::new(AtomicI64::new(0)), epoch_ms }
    }

    /// Moves both readings forward.
    pub fn advance(&self, by: Duration) {
        self.elapsed_ms.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> TimestampMs {
        self.epoch_ms.saturating_add(self.elapsed_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Instant {
        self.start + Duration::from_millis(self.elapsed_ms.load(Ordering::SeqCst).unsigned_abs())
    }
}
