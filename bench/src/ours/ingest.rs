//! How fast a fresh application works through a topic that is already full.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{Guarantee, RunFlags, application::Application};
use crate::{
    broker::{Broker, GroupProgress},
    error::{Error, Result},
    figures::Figures,
    usage::Usage,
    workload::Topology,
};

/// Runs it; the figures are named as the peer names them.
pub(crate) async fn run(flags: &RunFlags) -> Result<Figures> {
    if Path::new(&flags.state_dir).exists() {
        return Err(Error::other(format!(
            "the state directory {} exists; a fresh run needs a new one",
            flags.state_dir
        )));
    }
    let broker = Broker::new(&flags.input.bootstrap)?;
    let partitions = broker.partitions(flags.input.topic())?;
    let records = broker.records(flags.input.topic())?.unsigned_abs();
    if records == 0 || records != flags.workload.records {
        return Err(Error::other(format!(
            "topic {} holds {records} records, --records says {}",
            flags.input.topic(),
            flags.workload.records
        )));
    }
    // A record counts once for its source and once more for the repartition topic, when there is one.
    let sources = if flags.input.topology == Topology::Both { 2 } else { 1 };
    let tasks = sources * partitions.unsigned_abs() as usize;
    let cpu_before = Usage::own().cpu_s()?;
    let application = Application::start(flags)?;

    let mut began = None;
    let processed_at = loop {
        let status = application.status()?;
        let processed = Application::processed(&status);
        if began.is_none() && (processed > 0 || Application::runs(&status, tasks)) {
            began = Some(Instant::now());
        }
        if processed >= sources as u64 * records {
            break Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let began = began.unwrap_or_else(|| application.started());

    let exactly_once = flags.guarantee == Guarantee::ExactlyOnce;
    let progress = GroupProgress::new(&broker, &flags.application_id, flags.input.topic(), exactly_once)?;
    while progress.missing()? > 0 {
        application.status()?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu_s = Usage::own().cpu_s()? - cpu_before;

    let mut figures = Figures::new();
    let processing = (processed_at - began).as_secs_f64();
    figures.set("topology", if sources == 2 { "both" } else { "count" });
    figures.set("application_id", &flags.application_id);
    figures.set("guarantee", flags.guarantee.names().0);
    figures.set("partitions", partitions);
    figures.set("records", records);
    figures.number("start_to_began_s", (began - application.started()).as_secs_f64());
    figures.number("processed_s", processing);
    figures.number("processed_records_per_s", records as f64 / processing);
    figures.set("committed_by", "interval");
    figures.number("committed_s", seconds);
    figures.number("records_per_s", records as f64 / seconds);
    figures.number("cpu_s", cpu_s);
    figures.number("cpu_us_per_record", cpu_s * 1e6 / records as f64);
    figures.number("peak_rss_mib", Usage::own().peak_rss_mib()?);
    let mut changelog_records = 0;
    for store in application.stores() {
        changelog_records += broker.records(&application.changelog(store))?;
    }
    figures.set("changelog_records", changelog_records);
    application.check(partitions, &mut figures)?;
    application.stop()?;
    Ok(figures)
}
