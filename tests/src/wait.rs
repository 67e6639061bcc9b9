//! Waiting for a condition with a deadline, and the times that are simulated. The only place in the harness that sleeps.

use std::{
    fmt::{Debug, Display},
    thread,
    time::{Duration, Instant},
};

use rand::RngExt;

/// Time between two looks at a condition: short against everything that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until `look` is `Ok` and returns its value; panics after `limit` with what was waited for and the last `Err`.
#[track_caller]
pub fn until<T, E: Display>(what: impl Display, limit: Duration, look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    match try_until(limit, look) {
        Ok(value) => value,
        Err(last) => panic!("waited {:.1} s for {what}; last seen: {last}", start.elapsed().as_secs_f64()),
    }
}

/// As [`until`]; the last `Err` after `limit`.
pub fn try_until<T, E>(limit: Duration, mut look: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let start = Instant::now();
    loop {
        match look() {
            Err(_) if start.elapsed() < limit => thread::sleep(LOOK_EVERY),
            done => return done,
        }
    }
}

/// [`until`] for a condition that is simply true or false.
#[track_caller]
pub fn until_true(what: impl Display, limit: Duration, mut look: impl FnMut() -> bool) {
    until(what, limit, || if look() { Ok(()) } else { Err("false") });
}

/// [`until`] `look` returns `expected`.
#[track_caller]
pub fn until_equal<T: PartialEq + Debug>(
    what: impl Display,
    limit: Duration,
    expected: &T,
    mut look: impl FnMut() -> T,
) {
    until(what, limit, || {
        let seen = look();
        if seen == *expected { Ok(()) } else { Err(format!("{seen:?}, expected {expected:?}")) }
    });
}

/// Lets a random time pass before a fault: synchronises nothing, chooses the moment.
pub fn random_moment(rng: &mut impl rand::Rng, at_most: Duration) -> Duration {
    let micros = u64::try_from(at_most.as_micros()).unwrap_or(u64::MAX);
    let chosen = Duration::from_micros(rng.random_range(0..=micros));
    thread::sleep(chosen);
    chosen
}

/// Holds a rate: call it before each unit of work with the number of units done so far.
#[derive(Debug)]
pub struct Pace {
    start: Instant,
    per_s: f64,
}

impl Pace {
    /// `per_s` units of work per second, from now.
    pub fn new(per_s: f64) -> Self {
        Self { start: Instant::now(), per_s }
    }

    /// Returns when unit number `done` is due.
    pub fn hold(&self, done: u64) {
        let due = Duration::from_secs_f64(done as f64 / self.per_s);
        if let Some(early) = due.checked_sub(self.start.elapsed()) {
            thread::sleep(early);
        }
    }
}

/// Holds a thread of the harness while `holds` says so: a condition that is looked at, without a deadline, because what it
/// simulates (silence) has none.
pub(crate) fn hold_while(look_every: Duration, holds: impl Fn() -> bool) {
    while holds() {
        thread::sleep(look_every);
    }
}
