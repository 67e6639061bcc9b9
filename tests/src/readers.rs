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

use serde_json::{Value, json};

use crate::{
    inventory::ITEMS,
    rest::{Answer, Rest, encode},
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Pages of a scan.
const PAGES: usize = 4;

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
    /// Reads all items at once, each with an outcome of its own.
    pub const fn in_batches(self) -> Kind {
        Kind { form: Form::Batch, asking: self }
    }

    /// Reads all items in pages, each page through another instance.
    pub const fn in_scans(self) -> Kind {
        Kind { form: Form::Scan, asking: self }
    }

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

/// How items are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One after the other.
    Key,
    /// All at once.
    Batch,
    /// Page by page.
    Scan,
}

impl Form {
    const ALL: [Self; 3] = [Self::Key, Self::Batch, Self::Scan];
}

/// A kind of read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    form: Form,
    asking: Asking,
}

impl From<Asking> for Kind {
    fn from(asking: Asking) -> Self {
        Self { form: Form::Key, asking }
    }
}

/// A read that was answered "not now".
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What it asked for.
    pub asking: Asking,
    /// How.
    pub form: Form,
    /// The item's number; none where it was asked for all.
    pub item: Option<usize>,
    /// Whom it asked, and what it was told.
    pub told: String,
    /// 503 where somebody said that nobody can answer now, 504 where nobody answered in time: a machine that is too busy.
    pub status: u16,
    /// How long it waited.
    pub waited: Duration,
}

/// Reads all items `Item_0` and on, which exist and whose stock only grows (see [`crate::load::LoadConfig::counting`]). A read
/// may be refused, with a reason and a time to try again; any other answer than the row is wrong, and so is a row that is older
/// than was asked for: what anybody has read by then is committed. A scan may have a page refused, which is asked for again
/// elsewhere; its pages together have every item once, in the order of keys.
#[derive(Debug)]
pub struct Readers {
    threads: Vec<(Form, JoinHandle<()>)>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    through: RwLock<Vec<Rest>>,
    items: Vec<Mutex<History>>,
    /// Rows, by form.
    answered: [AtomicU64; Form::ALL.len()],
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
    pub fn start(rests: &[Rest], kinds: &[impl Into<Kind> + Copy], items: u32) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            through: RwLock::new(rests.to_vec()),
            items: (0..items).map(|_| Mutex::default()).collect(),
            answered: Default::default(),
            refused: Mutex::default(),
        });
        let threads = kinds.iter().flat_map(|kind| (0..rests.len()).map(move |index| ((*kind).into(), index)));
        let threads = threads.map(|(kind, index): (Kind, usize)| {
            let shared = Arc::clone(&shared);
            (kind.form, thread::spawn(move || shared.read_on(kind, index)))
        });
        Self { threads: threads.collect(), shared }
    }

    /// Reads through these from now on. What was asked of others before may go unanswered, as behind a load balancer that took
    /// them out.
    pub fn go_through(&self, rests: &[Rest]) {
        *self.shared.through.write().unwrap() = rests.to_vec();
    }

    /// Waits until the readers of each form have read each item again, on average.
    #[track_caller]
    pub fn wait_answers(&self) {
        let enough = Form::ALL.map(|form| {
            let readers = self.threads.iter().filter(|(of, _)| *of == form).count();
            self.shared.answered(form) + (self.shared.items.len() * readers) as u64
        });
        wait::until("reads to be answered", LIMIT, || {
            assert!(!self.threads.iter().any(|(_, t)| t.is_finished()), "a reader failed; its message is above");
            let answered = Form::ALL.map(|form| self.shared.answered(form));
            let all = answered.iter().zip(&enough).all(|(answered, enough)| answered >= enough);
            if all { Ok(()) } else { Err(format!("{answered:?} of {enough:?}")) }
        });
    }

    /// The reads that were refused since the last call.
    pub fn refused(&self) -> Vec<Refusal> {
        std::mem::take(&mut self.shared.refused.lock().unwrap())
    }

    /// Ends the reading; the number of rows, and what was refused since [`Readers::refused`].
    #[track_caller]
    pub fn finish(mut self) -> (u64, Vec<Refusal>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for (_, thread) in self.threads.drain(..) {
            thread.join().expect("a reader failed; its message is above");
        }
        (Form::ALL.map(|form| self.shared.answered(form)).iter().sum(), self.refused())
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn answered(&self, form: Form) -> u64 {
        self.answered[form as usize].load(Ordering::Relaxed)
    }

    fn read_on(&self, kind: Kind, index: usize) {
        for round in index.. {
            match kind.form {
                Form::Key => {
                    for item in 0..self.items.len() {
                        if self.stops() {
                            return;
                        }
                        self.read(&self.number(round), kind.asking, item);
                    }
                }
                Form::Batch => self.read_batch(&self.number(round), kind.asking),
                Form::Scan => self.read_pages(round, kind.asking),
            }
            if self.stops() {
                return;
            }
        }
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The one whose turn it is.
    fn number(&self, round: usize) -> Rest {
        let through = self.through.read().unwrap();
        through[round % through.len()].clone()
    }

    fn read(&self, rest: &Rest, asking: Asking, item: usize) {
        let asked = Asked::now(self, rest, Kind::from(asking));
        // Looked up before the question: what others read meanwhile may be newer than the answer.
        let at_least = asked.at_least(item);
        let path = format!("/v1/stores/{ITEMS}/keys/Item_{item}?{}", asking.options());
        let Some(answer) = asked.answer(Some(item), rest.get(&path)) else { return };
        asked.check_age(answer.header("Holdfast-Staleness-Ms").parse().ok(), &answer);
        asked.check_row(item, &answer.json()["value"], at_least, &answer);
    }

    fn read_batch(&self, rest: &Rest, asking: Asking) {
        let asked = Asked::now(self, rest, asking.in_batches());
        let at_least: Vec<i64> = (0..self.items.len()).map(|item| asked.at_least(item)).collect();
        let keys: Vec<String> = (0..self.items.len()).map(|item| format!("Item_{item}")).collect();
        let path = format!("/v1/stores/{ITEMS}/keys:batch?{}", asking.options());
        let Some(answer) = asked.answer(None, rest.try_post(&path, &json!({ "keys": keys }))) else { return };
        let body = answer.json();
        let results = body["results"].as_array().unwrap();
        assert_eq!(results.len(), keys.len(), "one outcome for each key: {answer:?}");
        for (item, result) in results.iter().enumerate() {
            let status = match result["code"].as_str() {
                Some("OK") => {
                    assert_eq!(result["key"], keys[item], "in the order asked: {answer:?}");
                    asked.check_age(result["served"]["staleness_ms"].as_u64(), &answer);
                    asked.check_row(item, &result["value"], at_least[item], &answer);
                    continue;
                }
                Some("UNAVAILABLE") => 503,
                Some("DEADLINE_EXCEEDED") => 504,
                _ => panic!("item {item}, {asking:?} in a batch at {}: {result}", rest.address()),
            };
            assert!(result["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "no reason: {result}");
            asked.refused(Some(item), status, &result.to_string());
        }
    }

    /// One scan from its first page to its last one.
    fn read_pages(&self, round: usize, asking: Asking) {
        let mut expected: Vec<String> = (0..self.items.len()).map(|item| format!("Item_{item}")).collect();
        expected.sort();
        let limit = self.items.len() / PAGES + 1;
        let (mut cursor, mut seen) = (None::<String>, Vec::new());
        // Another instance for each page, whether the one before was answered or refused: a cursor is everybody's.
        for turn in round.. {
            if self.stops() {
                return;
            }
            let rest = self.number(turn);
            let asked = Asked::now(self, &rest, asking.in_scans());
            let at_least: Vec<i64> = (0..self.items.len()).map(|item| asked.at_least(item)).collect();
            let from = cursor.as_ref().map_or_else(String::new, |cursor| format!("&cursor={}", encode(cursor)));
            let path = format!("/v1/stores/{ITEMS}/keys?limit={limit}&{}{from}", asking.options());
            let Some(answer) = asked.answer(None, rest.get(&path)) else { continue };
            asked.check_age(answer.header("Holdfast-Staleness-Ms").parse().ok(), &answer);
            let page = answer.json();
            for row in page["rows"].as_array().unwrap() {
                let key = row["key"].as_str().unwrap();
                assert_eq!(Some(key), expected.get(seen.len()).map(String::as_str), "after {seen:?}: {answer:?}");
                let item: usize = key.trim_start_matches("Item_").parse().unwrap();
                asked.check_row(item, &row["value"], at_least[item], &answer);
                seen.push(key.to_owned());
            }
            match page["cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        assert_eq!(seen, expected, "{asking:?}: a scan that ended");
    }
}

/// A question, and to whom.
struct Asked<'a> {
    shared: &'a Shared,
    rest: &'a Rest,
    kind: Kind,
    sent: Instant,
}

impl<'a> Asked<'a> {
    fn now(shared: &'a Shared, rest: &'a Rest, kind: Kind) -> Self {
        Self { shared, rest, kind, sent: Instant::now() }
    }

    /// The stock that an item must show.
    fn at_least(&self, item: usize) -> i64 {
        self.kind.asking.as_of(self.sent).map_or(0, |as_of| self.shared.items[item].lock().unwrap().at_least(as_of))
    }

    /// The answer, if it was not refused.
    fn answer(&self, item: Option<usize>, answer: Result<Answer, reqwest::Error>) -> Option<Answer> {
        let what = || format!("{:?}, item {item:?} at {}", self.kind, self.rest.address());
        let answer = match answer {
            Ok(answer) => answer,
            Err(_) if !self.reads_through() => return None,
            Err(error) => panic!("{}: {error:?}", what()),
        };
        match answer.status {
            200 => Some(answer),
            503 | 504 => {
                assert!(answer.json()["retryable"].as_bool().unwrap(), "{answer:?}");
                self.refused(item, answer.status, &answer.body);
                None
            }
            _ => panic!("{}: {answer:?}", what()),
        }
    }

    fn refused(&self, item: Option<usize>, status: u16, told: &str) {
        let Kind { form, asking } = self.kind;
        let told = format!("{}: {told}", self.rest.address());
        let refusal = Refusal { asking, form, item, told, status, waited: self.sent.elapsed() };
        self.shared.refused.lock().unwrap().push(refusal);
    }

    fn check_age(&self, staleness_ms: Option<u64>, answer: &Answer) {
        if let Asking::Bounded(bound) = self.kind.asking {
            let staleness_ms = u128::from(staleness_ms.unwrap_or_else(|| panic!("no age: {answer:?}")));
            assert!(staleness_ms <= bound.as_millis(), "{:?}: {answer:?}", self.kind);
        }
    }

    fn check_row(&self, item: usize, value: &Value, at_least: i64, answer: &Answer) {
        let stock = value["currentStock"].as_i64().unwrap();
        let kind = self.kind;
        assert!(stock >= at_least, "item {item}, {kind:?}: {stock} when {at_least} was committed: {answer:?}");
        self.shared.items[item].lock().unwrap().learn(stock);
        self.shared.answered[kind.form as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn reads_through(&self) -> bool {
        self.shared.through.read().unwrap().iter().any(|through| through.address() == self.rest.address())
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
