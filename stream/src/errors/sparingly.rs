//! Lines for an operator that do not flood: the first at once, then one in a while with how many were left out.

use std::time::{Duration, Instant};

/// Lets one through per pause, and counts what it holds back.
#[derive(Debug)]
pub(crate) struct Sparingly {
    pause: Duration,
    closed_until: Option<Instant>,
    held_back: u64,
}

impl Sparingly {
    pub(crate) const fn new(pause: Duration) -> Self {
        Self { pause, closed_until: None, held_back: 0 }
    }

    /// Whether what happens at `now` may be told, and how many were held back before it.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.closed_until.is_some_and(|until| now < until) {
            self.held_back += 1;
            return None;
        }
        self.closed_until = Some(now + self.pause);
        Some(std::mem::take(&mut self.held_back))
    }

    /// How many were held back, once the pause is over: what ended in silence is told too.
    pub(crate) fn rest(&mut self, now: Instant) -> Option<u64> {
        if self.held_back == 0 || self.closed_until.is_some_and(|until| now < until) {
            return None;
        }
        self.closed_until = Some(now + self.pause);
        Some(std::mem::take(&mut self.held_back))
    }

    /// Whether [`Sparingly::rest`] may have something to tell; without asking what time it is.
    pub(crate) fn holds_back(&self) -> bool {
        self.held_back > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_untold() {
        let mut lines = Sparingly::new(Duration::from_secs(5));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(lines.admit(at(0)), Some(0));
        assert_eq!([lines.admit(at(1)), lines.admit(at(4_999))], [None, None]);
        assert_eq!(lines.rest(at(4_999)), None);
        assert_eq!(lines.admit(at(5_000)), Some(2));
        assert_eq!(lines.admit(at(5_001)), None);
        assert!(lines.holds_back());
        assert_eq!(lines.rest(at(10_000)), Some(1));
        assert_eq!(lines.rest(at(20_000)), None);
    }
}
