//! The results as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    bench::Bench,
    case::{Goal, Measured, Metric, Outcome, Spread},
    sweep::{SETTINGS, TRIED},
};

/// The optimisation level that this program was compiled with; its build script tells.
const OPT_LEVEL: &str = env!("HOLDFAST_BENCH_OPT_LEVEL");

/// What the results stand under.
pub(crate) fn heading(bench: &Bench) -> String {
    let sizes = bench.sizes;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut text = format!(
        "Side by side on {cores} processors, shared with the broker and the load; {} run{} each, contenders in turns.\n",
        sizes.runs,
        if sizes.runs == 1 { "" } else { "s" }
    );
    text.push_str(
        "The last column is the first line's figure divided by the line's, run by run: median (least-greatest).\n",
    );
    if bench.flags.quick {
        text.push_str("--quick: these sizes show that it works, not how fast it is.\n");
    }
    text.push_str(&build(OPT_LEVEL, cfg!(debug_assertions)));
    text
}

/// What is to be said of the build; nothing of one as it is shipped.
fn build(opt_level: &str, debug_assertions: bool) -> String {
    match (opt_level, debug_assertions) {
        // What is shared with the tests is at 2, for all contenders alike.
        ("3", false) => String::new(),
        ("3", true) => {
            "Optimised (opt-level 3), with debug assertions, which a release build (`--as-shipped`) has not.\n"
                .to_owned()
        }
        (level, _) => format!("Built with opt-level {level}, a release with 3: the figures say little.\n"),
    }
}

/// One comparison as a table.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    let mut text = format!("{}/{}: {}\n  $ {}\n", outcome.section, outcome.name, outcome.title, outcome.again);
    let width = outcome.measured.iter().map(|measured| measured.name.chars().count()).max().unwrap_or(0).max(8);
    for metric in outcome.metrics {
        if outcome.measured.iter().all(|measured| measured.spread(metric.figure).is_none()) {
            continue;
        }
        let better = if metric.more_is_better { "more is better" } else { "less is better" };
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "  {:<80} {:>10} {:>10} {:>10}  ratio",
            format!("{} ({better})", metric.label),
            "min",
            "median",
            "max"
        );
        for measured in &outcome.measured {
            line(&mut text, outcome, metric, measured, width);
        }
        for goal in outcome.goals.iter().filter(|goal| goal.figure == metric.figure) {
            let _ = writeln!(text, "    {}", goal_line(outcome, goal));
        }
    }
    for measured in &outcome.measured {
        let settings = measured.runs.last().and_then(|run| Some((run.text(SETTINGS)?, run.text(TRIED)?)));
        if let Some((best, tried)) = settings {
            let _ = writeln!(text, "  {} at its best: {best}\n    tried: {tried}", measured.name);
        }
        if let Some(failure) = &measured.failure {
            let _ = writeln!(text, "  {} FAILED: {}", measured.name, failure.replace('\n', "\n    "));
        }
    }
    text
}

fn line(text: &mut String, outcome: &Outcome, metric: &Metric, measured: &Measured, width: usize) {
    let Some(spread) = measured.spread(metric.figure) else { return };
    let ours = outcome.measured.first().is_some_and(|ours| ours.name == measured.name);
    let ratio = if ours { None } else { outcome.ratio(metric.figure, measured) };
    let line = format!(
        "    {:<78} {:>10} {:>10} {:>10}  {}",
        format!("{:<width$}", measured.name),
        number(spread.min),
        number(spread.median),
        number(spread.max),
        ratio.map(ratio_text).unwrap_or_default()
    );
    let _ = writeln!(text, "{}", line.trim_end());
}

fn ratio_text(ratio: Spread) -> String {
    if ratio.min == ratio.max {
        return format!("{:.2}", ratio.median);
    }
    format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max)
}

/// A goal and what became of it.
fn goal_line(outcome: &Outcome, goal: &Goal) -> String {
    let asked = goal_text(goal);
    let Some(verdict) = outcome.verdict(goal) else { return format!("goal {asked}: not measured") };
    let met = if verdict.met { "met" } else { "not met" };
    // Where there are several, it is the best one.
    let by = verdict.against.filter(|by| Some(*by) != goal.against).map(|by| format!(", {by}")).unwrap_or_default();
    format!("goal {asked}: {met} ({}{by})", number(verdict.value))
}

fn goal_text(goal: &Goal) -> String {
    let sign = if goal.at_least { ">=" } else { "<=" };
    match goal.against {
        Some(against) => format!("{sign} {} x {against}", goal.bound),
        None => format!("{sign} {}", goal.bound),
    }
}

/// A number with as many digits as matter, thousands apart.
fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 { format!("-{grouped}") } else { grouped }
}

/// All comparisons with every figure of every run.
pub(crate) fn json(bench: &Bench, outcomes: &[Outcome]) -> Value {
    let cases: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            let contenders: Vec<_> = outcome
                .measured
                .iter()
                .map(|measured| {
                    let runs: Vec<Value> = measured
                        .runs
                        .iter()
                        .map(|run| run.iter().map(|(name, value)| (name.to_owned(), json!(value))).collect())
                        .collect();
                    json!({ "name": measured.name, "runs": runs, "failure": measured.failure })
                })
                .collect();
            let goals: Vec<Value> = outcome
                .goals
                .iter()
                .map(|goal| {
                    let verdict = outcome.verdict(goal);
                    json!({
                        "figure": goal.figure,
                        "goal": goal_text(goal),
                        "against": verdict.and_then(|verdict| verdict.against),
                        "value": verdict.map(|verdict| verdict.value),
                        "met": verdict.map(|verdict| verdict.met),
                    })
                })
                .collect();
            json!({
                "section": outcome.section,
                "case": outcome.name,
                "title": outcome.title,
                "command": outcome.again,
                "contenders": contenders,
                "goals": goals,
            })
        })
        .collect();
    json!({
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "opt_level": OPT_LEVEL,
        "debug_assertions": cfg!(debug_assertions),
        "quick": bench.flags.quick,
        "cases": cases,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_build_is_true() {
        assert_eq!(build("3", false), "");
        assert!(build("3", true).starts_with("Optimised (opt-level 3), with debug assertions"));
        assert!(build("1", true).contains("opt-level 1"));
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(number(1_234_567.4), "1,234,567");
        assert_eq!(number(-1_000.0), "-1,000");
        assert_eq!(number(999.6), "1,000");
        assert_eq!(number(3.456), "3.46");
        assert_eq!(number(100.0), "100");
    }
}
