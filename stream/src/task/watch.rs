//! How long records take: what a stream thread has in hand, for whoever watches it from outside, and the slow ones.
//!
//! Asking for the time costs about as much as a simple record, so a thread does it now and then only, until it has met a slow
//! record or somebody outside sees that few records get done: then after each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use holdfast_types::TopicPartition;
use parking_lot::Mutex;

/// Records between two looks at the clock while none is slow.
const RECORDS_PER_LOOK: u32 = 64;
/// How long each record is timed after a slow one.
const ATTENTION: Duration = Duration::from_secs(10);
/// A record that is in hand for so long is told of before it is done; and again after ten times as long.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// What a stream thread has in hand. The thread writes, anybody may look.
#[derive(Debug, Default)]
pub(crate) struct RecordInHand {
    inputs: Mutex<Option<Arc<[TopicPartition]>>>,
    busy: AtomicBool,
    begun: AtomicU64,
    input: AtomicUsize,
    offset: AtomicI64,
    /// Whether few records get done, as seen from outside.
    is_slow: AtomicBool,
}

impl RecordInHand {
    /// A task with these inputs begins on its records.
    pub(super) fn enter(&self, inputs: &Arc<[TopicPartition]>) {
        *self.inputs.lock() = Some(Arc::clone(inputs));
        self.busy.store(true, Relaxed);
    }

    /// The task is done with its records for now.
    pub(super) fn leave(&self) {
        self.busy.store(false, Relaxed);
    }

    /// The thread takes this record in hand.
    #[inline]
    pub(super) fn begin(&self, input: usize, offset: i64) {
        self.input.store(input, Relaxed);
        self.offset.store(offset, Relaxed);
        // One writer: no locked instruction.
        self.begun.store(self.begun.load(Relaxed) + 1, Relaxed);
    }

    fn record(&self) -> Option<(TopicPartition, i64)> {
        let inputs = self.inputs.lock();
        Some((inputs.as_ref()?.get(self.input.load(Relaxed))?.clone(), self.offset.load(Relaxed)))
    }
}

/// Looks at a thread's record in hand, ten times a second.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    begun: u64,
    since: Option<Instant>,
    told: Duration,
}

impl Watcher {
    /// A record that is in hand for long and was not told of yet, with for how long it has been seen there.
    pub(crate) fn look(&mut self, hand: &RecordInHand, now: Instant) -> Option<(TopicPartition, i64, Duration)> {
        let (busy, begun) = (hand.busy.load(Relaxed), hand.begun.load(Relaxed));
        hand.is_slow.store(busy && begun - self.begun < u64::from(RECORDS_PER_LOOK), Relaxed);
        if !busy || begun != self.begun {
            *self = Self { begun, since: None, told: Duration::ZERO };
        }
        let took = now - *self.since.get_or_insert(now);
        if took < TOLD_AFTER || took < self.told * 10 {
            return None;
        }
        self.told = took;
        let (partition, offset) = hand.record()?;
        Some((partition, offset, took))
    }
}

/// The stream thread's own clock over its records.
#[derive(Debug)]
pub(super) struct Stopwatch {
    slow: Duration,
    attentive_until: Option<Instant>,
    last: Instant,
    since_last: u32,
}

impl Stopwatch {
    /// Records that take `slow` or longer are slow.
    pub(super) fn new(slow: Duration) -> Self {
        Self { slow, attentive_until: None, last: Instant::now(), since_last: 0 }
    }

    /// Records are about to be taken.
    pub(super) fn start(&mut self, now: Instant) {
        self.last = now;
        self.since_last = 0;
        if self.attentive_until.is_some_and(|until| now > until) {
            self.attentive_until = None;
        }
    }

    /// A record is done: the time, if it was looked at.
    #[inline]
    pub(super) fn lap(&mut self, hand: &RecordInHand) -> Option<Instant> {
        self.since_last += 1;
        let due = self.since_last >= RECORDS_PER_LOOK || self.attentive_until.is_some() || hand.is_slow.load(Relaxed);
        due.then(Instant::now)
    }

    /// What was slow since the last look, if anything: how long it took, and for how many records.
    pub(super) fn look(&mut self, now: Instant) -> Option<(Duration, u32)> {
        let (took, records) = (now - self.last, std::mem::take(&mut self.since_last));
        self.last = now;
        if records == 0 || took < self.slow {
            return None;
        }
        self.attentive_until = Some(now + ATTENTION);
        Some((took, records))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_tells_of_a_record_once_and_again_much_later() {
        let hand = RecordInHand::default();
        let inputs: Arc<[TopicPartition]> = [TopicPartition::new("items", 3)].into();
        let (mut watcher, start) = (Watcher::default(), Instant::now());
        let mut look = |hand: &RecordInHand, ms| {
            let seen = watcher.look(hand, start + Duration::from_millis(ms));
            seen.map(|(partition, offset, took)| (partition.to_string(), offset, took.as_millis()))
        };
        hand.enter(&inputs);
        hand.begin(0, 7);
        assert_eq!(look(&hand, 0), None);
        assert_eq!(look(&hand, 999), None);
        assert!(hand.is_slow.load(Relaxed));
        assert_eq!(look(&hand, 1_000), Some(("items-3".to_owned(), 7, 1_000)));
        assert_eq!(look(&hand, 9_999), None);
        assert_eq!(look(&hand, 10_000).map(|(.., took)| took), Some(10_000));
        hand.begin(0, 8);
        assert_eq!(look(&hand, 11_000), None);
        hand.leave();
        assert_eq!(look(&hand, 20_000), None);
        assert!(!hand.is_slow.load(Relaxed));
    }

    #[test]
    fn the_first_slow_one_makes_the_thread_attentive() {
        let (hand, slow) = (RecordInHand::default(), Duration::from_millis(100));
        let mut clock = Stopwatch::new(slow);
        let start = Instant::now();
        clock.start(start);
        assert_eq!(clock.lap(&hand), None, "not after each record");
        let look = |clock: &mut Stopwatch, ms| clock.look(start + Duration::from_millis(ms));
        assert_eq!(look(&mut clock, 50), None);
        assert_eq!(clock.lap(&hand), None);
        assert_eq!(clock.lap(&hand), None);
        assert_eq!(look(&mut clock, 250), Some((Duration::from_millis(200), 2)), "one of two");
        assert!(clock.lap(&hand).is_some(), "after each record from now on");
    }
}
