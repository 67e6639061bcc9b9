//! Restore: how long an application without local state takes until it has replayed its changelog.

use super::{
    Show,
    bench::Bench,
    case::{Case, Contender, Goal, Metric},
};
use crate::{
    error::Result,
    figures::Figures,
    generate,
    workload::{Distribution, WorkloadFlags},
};

const NAME: &str = "changelog";
const PARTITIONS: i32 = 6;
/// The input that the restored applications read: empty, so that nothing but the changelog counts.
const INPUT: &str = "events-restore";

const METRICS: &[Metric] = &[
    Metric::more("records_per_s", "changelog records/s, from the start until running"),
    Metric::less("start_to_running_s", "from the start until running, s"),
    Metric::less("cpu_s", "processor time, s"),
    Metric::less("peak_rss_mib", "peak resident memory, MiB"),
];
const GOALS: &[Goal] = &[Goal::times("records_per_s", 1.7, "peer"), Goal::times("records_per_s", 1.0, "floor")];

/// Restores of the same changelog.
pub(crate) fn restore(bench: &Bench, show: &mut Show<'_>) -> Result<()> {
    if !show.wants("restore", NAME) {
        return Ok(());
    }
    let sizes = bench.sizes;
    let records = sizes.restore_records;
    let workload =
        WorkloadFlags { records, keys: sizes.keys, skus: 20, seed: 42, dist: Distribution::Uniform, theta: 0.99 };
    bench.runtime.block_on(bench.broker.create(INPUT, PARTITIONS, &[]))?;
    let (ours, theirs) = (bench.name("restored"), bench.name("peer-restored"));
    eprintln!("# writing a changelog of {records} records …");
    bench.runtime.block_on(generate::changelog(&bench.broker, &ours, PARTITIONS, &workload))?;
    let mut contenders = vec![
        Contender::new("holdfast", |_| {
            run(bench, &ours, |arguments| bench.own("restore", &[arguments, input()].concat()), &workload)
        }),
        Contender::new("floor", |_| run(bench, &ours, |arguments| bench.own("floor-restore", &arguments), &workload)),
    ];
    if let Some(peer) = &bench.peer {
        bench.runtime.block_on(generate::changelog(&bench.broker, &theirs, PARTITIONS, &workload))?;
        contenders.push(Contender::new("peer", |_| {
            let flags = ["--guarantee", "exactly_once_v2"].map(str::to_owned).to_vec();
            let restore = |arguments: Vec<String>| bench.peer(peer, "restore", &[arguments, input(), flags].concat());
            run(bench, &theirs, restore, &workload)
        }));
    }
    let title = format!("changelog of {records} records over {} keys into an empty state directory", sizes.keys);
    show.case("restore", Case { name: NAME, title, metrics: METRICS, goals: GOALS, contenders })?;
    bench.clean(&ours)?;
    bench.clean(&theirs)?;
    bench.delete_topic(INPUT)
}

fn input() -> Vec<String> {
    ["--topology", "count", "--topic", INPUT].map(str::to_owned).to_vec()
}

fn run(
    bench: &Bench,
    application_id: &str,
    restore: impl FnOnce(Vec<String>) -> Result<Figures>,
    workload: &WorkloadFlags,
) -> Result<Figures> {
    let state = bench.path(&bench.name("restored-state"));
    let mut arguments: Vec<String> = [
        ("--bootstrap", bench.broker.bootstrap().to_owned()),
        ("--application-id", application_id.to_owned()),
        ("--state-dir", state.display().to_string()),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect();
    arguments.extend(workload.arguments());
    let figures = restore(arguments);
    match std::fs::remove_dir_all(&state) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => figures,
    }
}
