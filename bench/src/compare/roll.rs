//! Three instances with one standby each, under reads and writes; one after the other is stopped and started again.

use std::{sync::Arc, time::Duration};

use super::{
    Show,
    bench::Bench,
    case::{Case, Contender, Goal, Metric},
    cluster::{Cluster, PEER_SETTLES},
    pauses::Pauses,
    readers::{self, Readers, Reads, Targets},
    server::Kind,
};
use crate::{
    background::Background,
    error::Result,
    figures::Figures,
    generate,
    load::{self, http::Get},
    workload::{Expected, Topology, WorkloadFlags},
};

const NAME: &str = "restart";
const TOPIC: &str = "items-roll";
const PARTITIONS: i32 = 6;
const INSTANCES: u8 = 3;
/// Records a second, all the while: so many that each task has something to do in every commit interval.
const RATE: u64 = 500;
/// Reads before each restart, and when all is settled again.
const READS: u64 = 2_000;
/// Rows that are compared in the end.
const COMPARED: usize = 200;

const METRICS: &[Metric] = &[
    readers::FAILED,
    readers::SLOW_PERCENT,
    readers::WORST,
    readers::READS,
    Metric::less("pause_usual_ms", "longest time without output of a task while nothing happens, median, ms"),
    Metric::less("pause_median_ms", "the same while an instance restarts, median, ms"),
    Metric::less("pause_worst_ms", "the same, worst task, ms"),
    Metric::less("stop_worst_s", "from SIGTERM until the process has ended, worst, s"),
    Metric::less("ready_worst_s", "from the start of the process until ready, worst, s"),
];
const GOALS: &[Goal] = &[Goal::at_most("reads_failed", 0.0), Goal::at_most("pause_worst_ms", 500.0)];

/// A rolling restart.
pub(crate) fn roll(bench: &Bench, show: &mut Show<'_>) -> Result<()> {
    if !show.wants("roll", NAME) {
        return Ok(());
    }
    let workload = WorkloadFlags::tables(bench.sizes.lookup_rows / 10);
    bench.runtime.block_on(generate::records(&bench.broker, TOPIC, Topology::Both, PARTITIONS, &workload))?;
    let restarts = if bench.flags.quick { 1 } else { usize::from(INSTANCES) };
    let mut contenders = vec![Contender::new("holdfast", |_| run(bench, Kind::Holdfast, &workload, restarts))];
    if bench.peer.is_some() {
        contenders.push(Contender::new("peer", |_| run(bench, Kind::Peer, &workload, restarts)));
    }
    let title = format!(
        "{restarts} of {INSTANCES} instances restarted one after the other; one standby, {RATE} records/s, {PARTITIONS} \
         partitions"
    );
    show.case("roll", Case { name: NAME, title, metrics: METRICS, goals: GOALS, contenders })?;
    bench.delete_topic(TOPIC)
}

fn run(bench: &Bench, kind: Kind, workload: &WorkloadFlags, restarts: usize) -> Result<Figures> {
    let flags: Vec<&str> = match kind {
        Kind::Peer => ["--standby", "1"].into_iter().chain(PEER_SETTLES).collect(),
        _ => vec!["--num-standby-replicas", "1"],
    };
    let mut cluster = Cluster::start(bench, kind, TOPIC, workload, INSTANCES, &flags)?;
    cluster.wait_settled(1)?;
    let rows: Vec<(String, i64)> = Expected::new(Topology::Both, workload).skus().collect();
    let skus: Arc<[String]> = rows.iter().map(|(sku, _)| sku.clone()).collect();
    let background = Background::start(bench.broker.bootstrap(), TOPIC, RATE)?;
    let pauses = Pauses::start(&bench.broker, &cluster.outputs())?;
    let (targets, reads) = (Arc::new(Targets::default()), Arc::new(Reads::default()));
    targets.set(cluster.addresses());
    let readers = Readers::start(bench, &targets, &skus, &reads);
    reads.warm_up(bench)?;
    pauses.take();
    reads.wait_more(READS)?;
    let usual = pauses.take();

    let (mut paused, mut stopped, mut ready) = (Vec::new(), Duration::ZERO, Duration::ZERO);
    for number in 0..restarts {
        if let Some(address) = cluster.addresses().get(number) {
            targets.remove(*address);
        }
        stopped = stopped.max(cluster.terminate(number)?);
        ready = ready.max(cluster.start_again(number)?);
        targets.set(cluster.addresses());
        cluster.wait_settled(1)?;
        reads.wait_more(READS)?;
        paused.extend(pauses.take());
    }
    readers.stop(bench)?;
    drop((pauses, background));
    let mut wrong = 0;
    for address in cluster.addresses() {
        let compared =
            async { load::compare(&mut Get::connect(address, readers::ITEMS).await?, &rows, COMPARED).await };
        wrong += bench.runtime.block_on(compared)?;
    }
    cluster.remove()?;

    let mut figures = Figures::new();
    reads.report(&mut figures);
    figures.number("pause_usual_ms", median_ms(usual));
    figures.number("pause_worst_ms", paused.iter().max().map_or(0.0, |worst| worst.as_secs_f64() * 1e3));
    figures.number("pause_median_ms", median_ms(paused));
    figures.number("stop_worst_s", stopped.as_secs_f64());
    figures.number("ready_worst_s", ready.as_secs_f64());
    figures.set("wrong", wrong);
    // The peer's reads do fail, which is what is measured.
    figures.set("correct", wrong == 0 && (kind == Kind::Peer || reads.failed() == 0));
    Ok(figures)
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |median| median.as_secs_f64() * 1e3)
}
