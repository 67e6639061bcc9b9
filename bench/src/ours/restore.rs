//! How long an application whose local state is gone takes to come back.

use std::{path::Path, time::Duration};

use super::{RunFlags, application::Application};
use crate::{
    broker::Broker,
    error::{Error, Result},
    figures::Figures,
    usage::Usage,
    workload::Topology,
};

/// Runs it; the figures are named as the peer names them.
pub(crate) async fn run(flags: &RunFlags) -> Result<Figures> {
    if Path::new(&flags.state_dir).exists() {
        return Err(Error::other(format!("the state directory {} exists; a restore needs a new one", flags.state_dir)));
    }
    let broker = Broker::new(&flags.input.bootstrap)?;
    let partitions = broker.partitions(flags.input.topic())?;
    let tasks = partitions.unsigned_abs() as usize * if flags.input.topology == Topology::Both { 2 } else { 1 };
    let cpu_before = Usage::own().cpu_s()?;
    let application = Application::start(flags)?;
    while !Application::runs(&*application.status()?, tasks) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let seconds = application.started().elapsed().as_secs_f64();
    let cpu_s = Usage::own().cpu_s()? - cpu_before;

    let mut restored = 0;
    for store in application.stores() {
        restored += broker.records(&application.changelog(store))?;
    }
    let mut figures = Figures::new();
    figures.set("application_id", &flags.application_id);
    figures.set("restored_records", restored);
    figures.number("start_to_running_s", seconds);
    figures.number("records_per_s", restored as f64 / seconds);
    figures.number("cpu_s", cpu_s);
    figures.number("peak_rss_mib", Usage::own().peak_rss_mib()?);
    application.check(partitions, &mut figures)?;
    application.stop()?;
    Ok(figures)
}
