//! The peer at its best: the first run tries several of its settings, and those that did best are kept for the others.

use super::ingest::RATE;
use crate::{
    error::{Error, Result},
    figures::Figures,
};

/// The figures' names for the settings that did best, and for what each of them reached.
pub(super) const SETTINGS: &str = "settings";
pub(super) const TRIED: &str = "settings_tried";

/// Kafka Streams refuses a transaction that may not last as long as its commit interval; this is its default.
const TRANSACTION_MS: u32 = 10_000;

/// Settings of the peer that its README tells to measure, each interval with each cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tries {
    pub(super) guarantee: &'static str,
    pub(super) commit_ms: &'static [u32],
    pub(super) cache_mib: &'static [u32],
}

impl Tries {
    fn settings(self) -> Vec<Setting> {
        let caches = self.cache_mib.iter();
        caches.flat_map(|cache| self.commit_ms.iter().map(move |commit| self.setting(*commit, *cache))).collect()
    }

    fn setting(self, commit_ms: u32, cache_mib: u32) -> Setting {
        let mut flags: Vec<String> = [
            ("--guarantee", self.guarantee.to_owned()),
            ("--commit-interval-ms", commit_ms.to_string()),
            ("--cache-bytes", (u64::from(cache_mib) << 20).to_string()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        if commit_ms >= TRANSACTION_MS {
            flags.extend([
                "--set".to_owned(),
                format!("producer.transaction.timeout.ms={}", commit_ms.saturating_mul(2)),
            ]);
        }
        Setting { name: format!("commits every {commit_ms} ms, cache of {cache_mib} MiB"), flags }
    }
}

/// One of them.
#[derive(Clone, Debug)]
struct Setting {
    name: String,
    flags: Vec<String>,
}

/// The contender.
pub(super) struct Sweep<R> {
    left: Vec<Setting>,
    /// What each of them reached, once there is nothing left to find out.
    tried: Option<String>,
    run: R,
}

impl<R: FnMut(&[String]) -> Result<Figures>> Sweep<R> {
    /// `run` runs the peer with flags; at most so many settings are tried.
    pub(super) fn new(tries: Tries, at_most: usize, run: R) -> Self {
        let mut left = tries.settings();
        left.truncate(at_most);
        Self { left, tried: None, run }
    }

    /// One run; the first one takes as many times as long as there are settings.
    pub(super) fn run(&mut self) -> Result<Figures> {
        let mut best: Option<(f64, Setting, Figures)> = None;
        let (mut tried, mut failure) = (Vec::new(), None);
        for setting in self.left.drain(..) {
            let figures = match (self.run)(&setting.flags) {
                Ok(figures) => figures,
                Err(error) => {
                    // More than its heap holds, say: they are not its best.
                    tried.push(format!("{}: failed", setting.name));
                    failure = Some(error);
                    continue;
                }
            };
            if !figures.correct() {
                return Ok(figures);
            }
            let rate = figures.get(RATE.figure).unwrap_or_default();
            tried.push(format!("{}: {rate:.0}", setting.name));
            if best.as_ref().is_none_or(|(least, ..)| rate > *least) {
                best = Some((rate, setting, figures));
            }
        }
        let none = || failure.unwrap_or_else(|| Error::other("there is no setting to try"));
        let (_, setting, mut figures) = best.ok_or_else(none)?;
        figures.set(SETTINGS, &setting.name);
        figures.set(TRIED, self.tried.get_or_insert_with(|| tried.join("; ")));
        self.left.push(setting);
        Ok(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIES: Tries = Tries { guarantee: "exactly_once_v2", commit_ms: &[100, 30_000], cache_mib: &[0, 64] };

    #[test]
    fn the_best_settings_stay() {
        let mut asked = Vec::new();
        let mut sweep = Sweep::new(TRIES, usize::MAX, |flags: &[String]| {
            asked.push(flags.join(" "));
            let mut figures = Figures::new();
            // The third one is the best.
            figures.number(RATE.figure, if asked.len() == 3 { 20.0 } else { 10.0 });
            Ok(figures)
        });
        let (first, second) = (sweep.run().unwrap(), sweep.run().unwrap());
        drop(sweep);
        assert_eq!(first.get(RATE.figure), Some(20.0));
        let best = "commits every 100 ms, cache of 64 MiB";
        assert_eq!((first.text(SETTINGS), second.text(SETTINGS)), (Some(best), Some(best)));
        assert_eq!(first.text(TRIED), second.text(TRIED));
        assert_eq!(asked.len(), 5);
        assert_eq!(asked[4], asked[2]);
        assert_eq!(asked[2], "--guarantee exactly_once_v2 --commit-interval-ms 100 --cache-bytes 67108864");
        assert!(asked[1].ends_with(" --cache-bytes 0 --set producer.transaction.timeout.ms=60000"));
    }

    #[test]
    fn settings_that_fail_are_not_the_best() {
        let mut left = 4;
        let mut sweep = Sweep::new(TRIES, usize::MAX, |_: &[String]| {
            left -= 1;
            if left > 0 { Err(Error::other("no memory")) } else { Ok(Figures::new()) }
        });
        let figures = sweep.run().unwrap();
        assert_eq!(figures.text(SETTINGS), Some("commits every 30000 ms, cache of 64 MiB"));
        assert_eq!(figures.text(TRIED).unwrap().matches("failed").count(), 3);
        let mut sweep = Sweep::new(TRIES, usize::MAX, |_: &[String]| Err(Error::other("no memory")));
        assert!(sweep.run().is_err_and(|error| error.to_string() == "no memory"));
    }

    #[test]
    fn a_wrong_result_is_not_hidden() {
        let mut sweep = Sweep::new(TRIES, usize::MAX, |_: &[String]| {
            let mut figures = Figures::new();
            figures.set("correct", false);
            Ok(figures)
        });
        assert!(!sweep.run().unwrap().correct());
    }
}
