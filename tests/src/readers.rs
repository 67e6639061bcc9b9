//! Reads of the inventory's items all the while, through several instances, each answer held against what its kind of read
//! promises, whoever gave it.

use std::{
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{inventory::ITEMS, rest::Rest, wait};

const LIMIT: Duration = Duration::from_secs(60);

/// What a read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// Nothing older than the question.
    Strong,
    /// Nothing older than this.
    Bounded(Duration),
    /// Whatever there is.
    Any,
}

/// The default of the service.
pub const BOUNDED: Asking = Asking::Bounded(Duration::from_secs(5));

impl Asking {
    fn options(self) -> String {
        match self {
            Self::Strong => "consistency=strong".to_owned(),
            Self::Bounded(bound) => format!("consistency=bounded&max_staleness={}", bound.as_millis()),
            Self::Any => "consistency=any".to_owned(),
        }
    }

    /// The oldest moment of which the answer to a question of `sent` may be; `None` when any will do.
    fn as_of(self, sent: Instant) -> Option<Instant> {
        match self {
            Self::Strong => Some(sent),
            Self::Bounded(bound) => sent.checked_sub(bound),
            Self::Any => None,
        }
    }
}

/// A read that was answered "not now".
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What it asked for.
    pub asking: Asking,
    /// The item's number.
    pub item: usize,
    /// Whom it asked, and what it was told.
    pub told: String,
    /// 503 where somebody said that nobody can answer now, 504 where nobody answered in time: a machine that is too busy.
    pub status: u16,
    /// How long it waited.
    pub waited: Duration,
}

/// Reads all items `Item_0` and on, which exist and whose stock only grows (see [`crate::load::LoadConfig::counting`]). A read
/// may be refused, with a reason and a time to try again; any other answer than the row is wrong, and so is a row that is older
/// than was asked for: what anybody has read by then is committed.
#[derive(Debug)]
pub struct Readers {
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    through: RwLock<Vec<Rest>>,
    items: Vec<Mutex<History>>,
    answered: AtomicU64,
    refused: Mutex<Vec<Refusal>>,
}

/// What was read of an item: each stock with the moment by which it was committed.
#[derive(Debug, Default)]
struct History(Vec<(Instant, i64)>);

impl History {
    /// The stock that was committed by `at`, as far as anybody knows.
    fn at_least(&self, at: Instant) -> i64 {
        let later = self.0.partition_point(|(known, _)| *known <= at);
        later.checked_sub(1).map_or(0, |index| self.0[index].1)
    }

    fn learn(&mut self, stock: i64) {
        if self.0.last().is_none_or(|(_, known)| *known < stock) {
            self.0.push((Instant::now(), stock));
        }
    }
}

impl Readers {
    /// Reads `items` items through each of `rests`, by each kind of read.
    pub fn start(rests: &[Rest], kinds: &[Asking], items: u32) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            through: RwLock::new(rests.to_vec()),
            items: (0..items).map(|_| Mutex::default()).collect(),
            answered: AtomicU64::new(0),
            refused: Mutex::default(),
        });
        let threads = kinds.iter().flat_map(|asking| (0..rests.len()).map(move |index| (*asking, index)));
        let threads = threads.map(|(asking, index)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.read_on(asking, index))
        });
        Self { threads: threads.collect(), shared }
    }

    /// Reads through these from now on. What was asked of others before may go unanswered, as behind a load balancer that took
    /// them out.
    pub fn go_through(&self, rests: &[Rest]) {
        *self.shared.through.write().unwrap() = rests.to_vec();
    }

    /// Waits until every reader has read each item again, on average.
    #[track_caller]
    pub fn wait_answers(&self) {
        let answered = || self.shared.answered.load(Ordering::Relaxed);
        let enough = answered() + (self.shared.items.len() * self.threads.len()) as u64;
        wait::until("reads to be answered", LIMIT, || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a reader failed; its message is above");
            if answered() >= enough { Ok(()) } else { Err(format!("{} of {enough}", answered())) }
        });
    }

    /// The reads that were refused since the last call.
    pub fn refused(&self) -> Vec<Refusal> {
        std::mem::take(&mut self.shared.refused.lock().unwrap())
    }

    /// Ends the reading; the number of answers, and what was refused since [`Readers::refused`].
    #[track_caller]
    pub fn finish(mut self) -> (u64, Vec<Refusal>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a reader failed; its message is above");
        }
        (self.shared.answered.load(Ordering::Relaxed), self.refused())
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn read_on(&self, asking: Asking, index: usize) {
        for round in index.. {
            for item in 0..self.items.len() {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let through = self.through.read().unwrap();
                let rest = through[round % through.len()].clone();
                drop(through);
                self.read(&rest, asking, item);
            }
        }
    }

    fn read(&self, rest: &Rest, asking: Asking, item: usize) {
        let sent = Instant::now();
        // Looked up before the question: what others read meanwhile may be newer than the answer.
        let at_least = asking.as_of(sent).map_or(0, |as_of| self.items[item].lock().unwrap().at_least(as_of));
        let answer = match rest.get(&format!("/v1/stores/{ITEMS}/keys/Item_{item}?{}", asking.options())) {
            Ok(answer) => answer,
            Err(_) if !self.reads_through(rest) => return,
            Err(error) => panic!("item {item} at {}: {error}", rest.address()),
        };
        match answer.status {
            200 => {}
            503 | 504 => {
                assert!(answer.json()["retryable"].as_bool().unwrap(), "{answer:?}");
                let told = format!("{}: {}", rest.address(), answer.body);
                return self.refused.lock().unwrap().push(Refusal {
                    asking,
                    item,
                    told,
                    status: answer.status,
                    waited: sent.elapsed(),
                });
            }
            _ => panic!("item {item}, {asking:?} at {}: {answer:?}", rest.address()),
        }
        let stock = answer.json()["value"]["currentStock"].as_i64().unwrap();
        assert!(stock >= at_least, "item {item}, {asking:?}: {stock} when {at_least} was committed: {answer:?}");
        if let Asking::Bounded(bound) = asking {
            let staleness_ms: u128 = answer.header("Holdfast-Staleness-Ms").parse().unwrap();
            assert!(staleness_ms <= bound.as_millis(), "item {item}, {asking:?}: {answer:?}");
        }
        self.items[item].lock().unwrap().learn(stock);
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    fn reads_through(&self, rest: &Rest) -> bool {
        self.through.read().unwrap().iter().any(|through| through.address() == rest.address())
    }
}

/// Waits until each of `items` items exists, whomever one asks.
#[track_caller]
pub fn wait_items(rests: &[Rest], items: u32) {
    for rest in rests {
        wait::until_equal(format!("rows of {items} items"), LIMIT, &(items as usize), || {
            rest.try_scan(ITEMS, 100).map_or(0, |rows| rows.len())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_must_show_what_was_read_by_then() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let history = History(vec![(at(10), 5), (at(20), 7)]);
        for (when, stock) in [(0, 0), (9, 0), (10, 5), (19, 5), (20, 7), (99, 7)] {
            assert_eq!(history.at_least(at(when)), stock, "{when}");
        }
        let bounded = Asking::Bounded(Duration::from_millis(10));
        assert_eq!((bounded.as_of(at(25)), Asking::Strong.as_of(at(25))), (Some(at(15)), Some(at(25))));
        assert_eq!(Asking::Any.as_of(at(25)), None);
    }
}
