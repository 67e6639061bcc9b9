//! One run of the application inside this process: what the service starts, without its listeners.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast::{
    app::processing::Processing,
    config::{Defaults, DomainSettings, Settings, Sources},
    inventory,
    query::StoreView as _,
};
use holdfast_store::ScanRange;
use holdfast_stream::{
    engine::{EngineState, EngineStatus},
    prelude::*,
};
use holdfast_types::{Endpoint, Role};
use tokio::runtime::Handle;

use super::RunFlags;
use crate::{
    error::{Error, Result, other},
    figures::Figures,
    workload::{Expected, Tally, Topology as Kind},
};

/// Store of the counts, named as the peer names it.
pub(super) const COUNTS: &str = "Counts";

/// Rows and bytes of a page when all rows are read.
const PAGE: (usize, usize) = (4096, 4 << 20);

/// A running application.
#[derive(Debug)]
pub(super) struct Application {
    flags: RunFlags,
    processing: Arc<Processing>,
    started: Instant,
    deadline: Instant,
}

impl Application {
    /// Opens the state directory and starts to join.
    pub(super) fn start(flags: &RunFlags) -> Result<Self> {
        let settings = settings(flags)?;
        let topology = topology(flags).map_err(other)?;
        let started = Instant::now();
        // Nobody calls these: the engine is asked in this process.
        let (public, peer) = (Endpoint::new("127.0.0.1", 1), Endpoint::new("127.0.0.1", 2));
        let processing = Processing::open(&settings, topology, public, peer).map_err(other)?;
        processing.start(Handle::current()).map_err(other)?;
        Ok(Self { flags: flags.clone(), processing, started, deadline: started + Duration::from_secs(flags.limit_s) })
    }

    /// When it was started.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// What the engine says of itself; an error when it has failed, or the time is up.
    pub(super) fn status(&self) -> Result<Arc<EngineStatus>> {
        if let Some(reason) = self.processing.fatal().borrow().as_ref() {
            return Err(Error::other(format!("the application stopped: {reason}")));
        }
        let status = self.processing.status();
        if Instant::now() > self.deadline {
            return Err(Error::other(format!("not done within the limit; the engine says {status:?}")));
        }
        Ok(status)
    }

    /// Whether every task of the assignment processes.
    pub(super) fn runs(status: &EngineStatus, tasks: usize) -> bool {
        status.state == EngineState::Running
            && status.tasks.len() == tasks
            && status.tasks.iter().all(|task| task.role == Role::Active && task.restore.is_none())
    }

    /// Records that went through a processor so far, those of repartition topics included.
    pub(super) fn processed(status: &EngineStatus) -> u64 {
        status.threads.iter().map(|thread| thread.processed_records).sum()
    }

    /// The stores of the topology.
    pub(super) fn stores(&self) -> &'static [&'static str] {
        match self.flags.input.topology {
            Kind::Count => &[COUNTS],
            Kind::Both => &[inventory::STORE_INVENTORY, inventory::ITEM_STOCK],
        }
    }

    /// Changelog topic of a store.
    pub(super) fn changelog(&self, store: &str) -> String {
        format!("{}-{store}-changelog", self.flags.application_id)
    }

    /// Reads every row that readers see and compares it with what the workload must lead to.
    pub(super) fn check(&self, partitions: i32, figures: &mut Figures) -> Result<bool> {
        let expected = Expected::new(self.flags.input.topology, &self.flags.workload);
        let mut tallies = match self.flags.input.topology {
            Kind::Count => vec![expected.counts()],
            Kind::Both => vec![expected.stores(), expected.items()],
        };
        for (store, tally) in self.stores().iter().zip(&mut tallies) {
            for partition in 0..partitions {
                self.each(store, partition, tally)?;
            }
        }
        Ok(expected.check(&tallies, figures))
    }

    fn each(&self, store: &str, partition: i32, tally: &mut Tally<'_>) -> Result<()> {
        let copy = self
            .processing
            .copy(store, partition)
            .ok_or_else(|| Error::other(format!("partition {partition} of {store} is not served here")))?;
        let mut range = ScanRange::all();
        loop {
            let page = copy.table.scan(&range, PAGE.0, PAGE.1).map_err(other)?;
            for (key, row) in &page.rows {
                tally.row(key, &row.value);
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = range.after(last),
                _ => return Ok(()),
            }
        }
    }

    /// Commits, closes the stores, leaves the group.
    pub(super) fn stop(self) -> Result<()> {
        if self.processing.shutdown(Duration::from_secs(60)) {
            return Ok(());
        }
        Err(Error::other("the application did not stop cleanly within a minute"))
    }
}

/// The service's settings.
pub(super) fn settings(flags: &RunFlags) -> Result<Settings> {
    let mut sources = Sources::new()
        .flag("bootstrap_servers", &flags.input.bootstrap)
        .flag("application_id", &flags.application_id)
        .flag("state_dir", &flags.state_dir)
        .flag("processing_guarantee", flags.guarantee.names().1)
        .flag("listen", "127.0.0.1:0");
    for pair in &flags.set {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| Error::other(format!("--set expects KEY=VALUE, got {pair}")))?;
        sources = match key.strip_prefix("kafka.") {
            Some(property) => sources.kafka_flag(&format!("{property}={value}")),
            None => sources.flag(key, value),
        };
    }
    let defaults = Defaults { service_name: "holdfast-bench".to_owned() };
    Settings::resolve(sources, &[], &defaults).map_err(other)
}

/// The topology: the counts that the peer counts, or the example domain's inventory.
pub(super) fn topology(flags: &RunFlags) -> std::result::Result<Topology, TopologyError> {
    match flags.input.topology {
        Kind::Count => {
            let builder = TopologyBuilder::new();
            builder
                .stream(flags.input.topic(), Consumed::with(Utf8, ByteArray))
                .group_by_key()
                .count(Materialized::named(COUNTS));
            builder.build()
        }
        Kind::Both => {
            let output = |table: &str| format!("{}-{table}-output", flags.application_id);
            inventory::topology(&DomainSettings::with([
                ("items_topic", flags.input.topic().to_owned()),
                ("store_output_topic", output(inventory::STORE_INVENTORY)),
                ("item_output_topic", output(inventory::ITEM_STOCK)),
            ]))
        }
    }
}
