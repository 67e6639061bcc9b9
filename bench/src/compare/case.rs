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
    pub(crate) metrics: &'static [Metric],
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
    pub(crate) measured: Vec<Measured>,
    /// The command that shows it again.
    pub(crate) again: String,
}

impl Outcome {
    /// Whether every contender finished with a right result.
    pub(crate) fn succeeded(&self) -> bool {
        self.measured.iter().all(|measured| measured.failure.is_none())
    }
}

impl Case<'_> {
    /// Runs the contenders in turns: A B A B. One that fails is left out from then on.
    pub(crate) fn run(mut self, bench: &Bench, section: &'static str) -> Outcome {
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
        Outcome { section, name: self.name, title: self.title, metrics: self.metrics, measured, again }
    }
}

/// The least, the middle and the greatest value of a figure; the middle of an even number is the mean of two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Measured {
    /// A figure over all runs; `None` if no run has it.
    pub(crate) fn spread(&self, figure: &str) -> Option<Spread> {
        let mut values: Vec<f64> = self.runs.iter().filter_map(|run| run.get(figure)).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0,
            _ => *values.get(middle)?,
        };
        Some(Spread { min: *values.first()?, median, max: *values.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_runs() {
        let measured = |values: &[f64]| Measured {
            name: "x",
            runs: values
                .iter()
                .map(|value| {
                    let mut figures = Figures::new();
                    figures.number("s", *value);
                    figures
                })
                .collect(),
            failure: None,
        };
        assert_eq!(measured(&[3.0, 1.0, 2.0]).spread("s"), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(measured(&[3.0, 1.0]).spread("s"), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(measured(&[]).spread("s"), None);
        assert_eq!(measured(&[1.0]).spread("other"), None);
    }
}
