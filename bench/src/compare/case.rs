//! One comparison: contenders in turns, several runs, and what they measured.

use super::bench::Bench;
use crate::{error::Result, figures::Figures};

/// A figure that is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    /// Its name among the figures.
    pub(crate) figure: &'static str,
    /// How a person calls it, with its unit.
    pub(crate) label: &'static str,
    pub(crate) more_is_better: bool,
}

impl Metric {
    pub(crate) const fn more(figure: &'static str, label: &'static str) -> Self {
        Self { figure, label, more_is_better: true }
    }

    pub(crate) const fn less(figure: &'static str, label: &'static str) -> Self {
        Self { figure, label, more_is_better: false }
    }
}

/// What the project's issues ask of a figure of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// The figure's name.
    pub(crate) figure: &'static str,
    pub(crate) bound: f64,
    /// Whether the bound is the least that will do, or the most.
    pub(crate) at_least: bool,
    /// Whose figure ours is divided by; of several whose names begin so, the best one's. `None`: ours stands for itself.
    pub(crate) against: Option<&'static str>,
}

impl Goal {
    /// At least so many times another one's.
    pub(crate) const fn times(figure: &'static str, bound: f64, against: &'static str) -> Self {
        Self { figure, bound, at_least: true, against: Some(against) }
    }

    /// At most so many times another one's.
    pub(crate) const fn at_most_times(figure: &'static str, bound: f64, against: &'static str) -> Self {
        Self { figure, bound, at_least: false, against: Some(against) }
    }

    /// At most so much, whoever else is measured.
    pub(crate) const fn at_most(figure: &'static str, bound: f64) -> Self {
        Self { figure, bound, at_least: false, against: None }
    }

    fn met(&self, value: f64) -> bool {
        if self.at_least { value >= self.bound } else { value <= self.bound }
    }
}

/// What became of a goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// Who ours was compared with.
    pub(crate) against: Option<&'static str>,
    /// The median of our figure, or of the runs' ratios.
    pub(crate) value: f64,
    pub(crate) met: bool,
}

/// One run of a contender; its number is from 0.
pub(crate) type Run<'a> = Box<dyn FnMut(u32) -> Result<Figures> + 'a>;

/// Who is measured. The first one is this project.
pub(crate) struct Contender<'a> {
    pub(crate) name: &'static str,
    pub(crate) run: Run<'a>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(name: &'static str, run: impl FnMut(u32) -> Result<Figures> + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// A comparison that has not run yet.
pub(crate) struct Case<'a> {
    pub(crate) name: &'static str,
    /// What is measured, for a person.
    pub(crate) title: String,
    /// The first one tells which of several contenders did best.
    pub(crate) metrics: &'static [Metric],
    pub(crate) goals: &'static [Goal],
    pub(crate) contenders: Vec<Contender<'a>>,
}

/// What a contender measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    /// One entry a run.
    pub(crate) runs: Vec<Figures>,
    /// Why it did not finish, or what was wrong.
    pub(crate) failure: Option<String>,
}

/// A comparison that has run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) section: &'static str,
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) metrics: &'static [Metric],
    pub(crate) goals: &'static [Goal],
    pub(crate) measured: Vec<Measured>,
    /// The command that shows it again.
    pub(crate) again: String,
}

impl Outcome {
    /// Whether every contender finished with a right result.
    pub(crate) fn succeeded(&self) -> bool {
        self.measured.iter().all(|measured| measured.failure.is_none())
    }

    /// Our figure divided by another contender's, run by run: they took turns, so that what befell one befell the other.
    pub(crate) fn ratio(&self, figure: &str, other: &Measured) -> Option<Spread> {
        let ours = self.measured.first()?;
        let pairs = ours.runs.iter().zip(&other.runs);
        let ratios = pairs.filter_map(|(ours, other)| Some(ours.get(figure)? / other.get(figure)?));
        Spread::of(ratios.filter(|ratio| ratio.is_finite()).collect())
    }

    /// Of the contenders whose names begin so, the one that did best in what matters most.
    fn best(&self, name: &str) -> Option<&Measured> {
        let first = self.metrics.first()?;
        let median = |measured: &&Measured| {
            let median = measured.spread(first.figure).map_or(f64::NEG_INFINITY, |spread| spread.median);
            if first.more_is_better { median } else { -median }
        };
        let others = self.measured.iter().skip(1).filter(|measured| measured.name.starts_with(name));
        others.max_by(|one, other| median(one).total_cmp(&median(other)))
    }

    /// Whether a goal is met; `None` if who it needs was not measured.
    pub(crate) fn verdict(&self, goal: &Goal) -> Option<Verdict> {
        let (against, spread) = match goal.against {
            Some(name) => {
                let other = self.best(name)?;
                (Some(other.name), self.ratio(goal.figure, other)?)
            }
            None => (None, self.measured.first()?.spread(goal.figure)?),
        };
        Some(Verdict { against, value: spread.median, met: goal.met(spread.median) })
    }
}

impl Case<'_> {
    /// Runs the contenders in turns: A B A B. One that fails is left out from then on.
    pub(crate) fn run(mut self, bench: &Bench, section: &'static str) -> Outcome {
        // It is shown below its figure.
        debug_assert!(self.goals.iter().all(|goal| self.metrics.iter().any(|metric| metric.figure == goal.figure)));
        let mut measured: Vec<Measured> =
            self.contenders.iter().map(|c| Measured { name: c.name, runs: Vec::new(), failure: None }).collect();
        for run in 0..bench.sizes.runs {
            for (contender, measured) in self.contenders.iter_mut().zip(&mut measured) {
                if measured.failure.is_some() {
                    continue;
                }
                match (contender.run)(run) {
                    Ok(figures) => {
                        if !figures.correct() {
                            let shown: Vec<_> = figures.iter().map(|(name, value)| format!("{name}={value}")).collect();
                            measured.failure = Some(format!("wrong result: {}", shown.join(" ")));
                        }
                        measured.runs.push(figures);
                    }
                    Err(error) => measured.failure = Some(error.to_string()),
                }
            }
        }
        let again = bench.flags.again(section, self.name);
        let Case { name, title, metrics, goals, .. } = self;
        Outcome { section, name, title, metrics, goals, measured, again }
    }
}

/// The least, the middle and the greatest value of a figure; the middle of an even number is the mean of two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` if there are no values.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0,
            _ => *values.get(middle)?,
        };
        Some(Self { min: *values.first()?, median, max: *values.last()? })
    }
}

impl Measured {
    /// A figure over all runs; `None` if no run has it.
    pub(crate) fn spread(&self, figure: &str) -> Option<Spread> {
        Spread::of(self.runs.iter().filter_map(|run| run.get(figure)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Metric = Metric::more("s", "records/s");

    fn measured(name: &'static str, values: &[f64]) -> Measured {
        let figures = |value: &f64| {
            let mut figures = Figures::new();
            figures.number("s", *value);
            figures
        };
        Measured { name, runs: values.iter().map(figures).collect(), failure: None }
    }

    fn outcome(measured: Vec<Measured>) -> Outcome {
        let (title, again) = (String::new(), String::new());
        Outcome { section: "x", name: "y", title, metrics: &[RATE], goals: &[], measured, again }
    }

    #[test]
    fn the_spread_of_runs() {
        let spread = |values: &[f64]| measured("x", values).spread("s");
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(spread(&[3.0, 1.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(spread(&[]), None);
        assert_eq!(measured("x", &[1.0]).spread("other"), None);
    }

    #[test]
    fn a_ratio_is_that_of_each_run() {
        // By the medians it would be 20 / 10.
        let outcome = outcome(vec![measured("holdfast", &[30.0, 20.0, 10.0]), measured("peer", &[10.0, 20.0, 1.0])]);
        let ratio = outcome.ratio("s", &outcome.measured[1]);
        assert_eq!(ratio, Some(Spread { min: 1.0, median: 3.0, max: 10.0 }));
        // Runs that one of them did not finish count for nobody, nor does what cannot be divided.
        assert_eq!(outcome.ratio("s", &measured("peer", &[15.0])).map(|ratio| ratio.max), Some(2.0));
        assert_eq!(outcome.ratio("s", &measured("peer", &[0.0])), None);
        assert_eq!(outcome.ratio("other", &outcome.measured[1]), None);
    }

    #[test]
    fn a_goal_is_held_against_the_best() {
        let ours = measured("holdfast", &[40.0]);
        let outcome = outcome(vec![ours, measured("peer, no cache", &[8.0]), measured("peer, cache", &[10.0])]);
        let verdict = |goal: Goal| outcome.verdict(&goal);
        let against = Some("peer, cache");
        let times = |bound| verdict(Goal::times("s", bound, "peer"));
        assert_eq!(times(4.0), Some(Verdict { against, value: 4.0, met: true }));
        assert_eq!(times(4.1), Some(Verdict { against, value: 4.0, met: false }));
        let at_most_times = verdict(Goal::at_most_times("s", 4.0, "peer"));
        assert_eq!(at_most_times.map(|verdict| verdict.met), Some(true));
        assert_eq!(verdict(Goal::at_most("s", 39.0)), Some(Verdict { against: None, value: 40.0, met: false }));
        assert_eq!(verdict(Goal::times("s", 1.0, "floor")), None);
    }
}
