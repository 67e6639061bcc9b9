//! `holdfast demo`: a broker in this process, one instance and the scenario's load, in one command.

pub mod broker;
mod check;
mod ends;
mod report;

use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use broker::{EmbeddedBroker, LogBounds};
use holdfast_store::StateDirectory;

use crate::{
    app::Instance,
    cli::{
        Failure, Invocation, Load, LoadError, Progress, Service,
        generate::{connection, pace, partitions, plan},
    },
    config::{ProcessingGuarantee, Settings, Sources},
};
use ends::Ends;
use report::{Counts, Reporter};

/// The load waits while more records than this are not processed: the broker keeps the newest records only.
const MOST_LAG_RECORDS: i64 = 200_000;
/// Without a change of any count for so long, a demo that should end does not get further.
const STUCK_AFTER: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs the demo until Ctrl-C, or with `--exit` until every record is processed and every row is compared.
pub(crate) fn run(service: &Service, invocation: &Invocation) -> Result<(), Failure> {
    let scenario = Arc::clone(service.load_scenario()?);
    let plan = plan(invocation)?;
    let end = invocation.switch("exit");
    if end && plan.records.is_none() {
        return Err(Failure::new("--exit needs a number of records: add --records N"));
    }
    let port = invocation.number("broker-port").unwrap_or(0);
    let port =
        u16::try_from(port).map_err(|_| Failure::new(format!("--broker-port must be at most 65535, got {port}")))?;

    let broker = EmbeddedBroker::start(port, LogBounds::default())?;
    let state = StateDir::new(invocation)?;
    let settings = settings(service, invocation, &broker, &state)?;
    // The broker starts empty, and so must the state: what is left of another demo would not fit its topics.
    StateDirectory::reset(&settings.state_dir, &settings.application_id)?;

    let load = Load {
        topic: scenario.topic(&settings.domain),
        partitions: partitions(invocation, &settings),
        connection: connection(&settings, "load"),
        scenario,
        plan,
    };
    // Before the instance: it would create the topic with the partitions of the settings.
    load.ensure_topic()?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let interrupted = Interrupt::listen(&runtime)?;
    let instance = runtime.block_on(Instance::start(service, settings))?;
    let mut reporter = Reporter::new(io::stdout().is_terminal());
    reporter.greet(&instance, &broker.address().to_string(), &load, pace(invocation))?;

    let progress = Arc::new(Progress::default());
    let outcome = thread::scope(|scope| {
        let sender = scope.spawn(|| load.send(pace(invocation), &progress));
        let ends = end.then(|| Ends::new(&load.connection)).transpose();
        let outcome =
            ends.and_then(|ends| watch(&instance, &progress, &sender, &interrupted, ends.as_ref(), &mut reporter));
        progress.stop();
        let sent = sender.join().map_err(|_| Failure::new("the load ended with a panic"))?;
        // What stopped the load is the cause of whatever else went wrong.
        sent?;
        outcome
    });
    let outcome = match outcome {
        Ok(Ended::Processed) => {
            let expected = load.scenario.expected(&load.plan);
            reporter.line("comparing every row with what was sent")?;
            runtime.block_on(check::compare(instance.queries(), &expected)).and_then(|rows| {
                reporter
                    .line(&format!("all {rows} rows are as sent: {} records, none lost, none twice", progress.sent()))
            })
        }
        Ok(Ended::Interrupted) => reporter.line("stopping"),
        Err(failure) => Err(failure),
    };
    let clean = runtime.block_on(instance.shutdown()).map_err(Failure::from);
    // What still runs of the instance holds connections; the broker goes last.
    runtime.shutdown_timeout(Duration::from_secs(5));
    drop(broker);
    outcome.and(clean)
}

/// Why the demo stopped watching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Everything that was sent is processed and committed.
    Processed,
    /// Ctrl-C, or SIGTERM.
    Interrupted,
}

type Sender<'scope> = thread::ScopedJoinHandle<'scope, Result<u64, LoadError>>;

fn watch(
    instance: &Instance,
    progress: &Progress,
    sender: &Sender<'_>,
    interrupted: &Interrupt,
    ends: Option<&Ends>,
    reporter: &mut Reporter,
) -> Result<Ended, Failure> {
    let mut last = Counts::default();
    let mut changed = Instant::now();
    loop {
        thread::sleep(LOOK_EVERY);
        let counts = Counts::read(instance, progress.sent());
        progress.hold(counts.lag_records > MOST_LAG_RECORDS);
        reporter.progress(&counts)?;
        if interrupted.happened() {
            return Ok(Ended::Interrupted);
        }
        if let Some(reason) = instance.fatal() {
            return Err(Failure::new(reason));
        }
        if counts != last {
            last = counts;
            changed = Instant::now();
        }
        if sender.is_finished() {
            // Without one the load may end, and the instance goes on answering.
            let Some(ends) = ends else { continue };
            if last.committed == progress.sent() && last.lag_records == 0 && ends.are_committed(instance)? {
                return Ok(Ended::Processed);
            }
            if changed.elapsed() > STUCK_AFTER {
                return Err(Failure::outcome(format!("nothing has moved for {} s: {last}", STUCK_AFTER.as_secs())));
            }
        }
    }
}

/// Where the state lives: a directory of the demo's own, removed at the end, unless a setting names one.
struct StateDir {
    path: PathBuf,
}

impl StateDir {
    fn new(invocation: &Invocation) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("holdfast-demo-{}", std::process::id()));
        if invocation.text("state_dir").is_none() {
            fs::create_dir_all(&path)?;
        }
        Ok(Self { path })
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // What cannot be removed stays in the system's directory for temporary files.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The settings of a demo: its own defaults below what file, environment and flags say, but for what the broker dictates.
fn settings(
    service: &Service,
    invocation: &Invocation,
    broker: &EmbeddedBroker,
    state: &StateDir,
) -> Result<Settings, Failure> {
    let demo = "the demo";
    let sources: Sources = invocation
        .sources()
        .derived("state_dir", state.path.display().to_string(), demo)
        .derived("processing_guarantee", "at_least_once", "the demo: its broker has no transactions")
        .derived("log", "warn,librdkafka=off,tansu_broker=error,tansu_storage=error", demo)
        .derived("log_format", "text", demo)
        .derived("memory_limit", "256MiB", demo)
        .flag("bootstrap_servers", broker.address().to_string())
        // A fetch at this broker always lasts as long as it may wait.
        .kafka_default("fetch.wait.max.ms", "10");
    let settings = invocation.settings(service, sources)?;
    if settings.processing_guarantee == ProcessingGuarantee::ExactlyOnce {
        return Err(Failure::new(
            "the demo's broker has no transactions: it runs with processing_guarantee=at_least_once; for exactly-once run \
             `serve` against Apache Kafka (cargo xtask kafka)",
        ));
    }
    Ok(settings)
}

/// Ctrl-C and SIGTERM.
struct Interrupt {
    happened: Arc<std::sync::atomic::AtomicBool>,
}

impl Interrupt {
    fn listen(runtime: &tokio::runtime::Runtime) -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let happened = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let _entered = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let flag = Arc::clone(&happened);
        runtime.spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            flag.store(true, std::sync::atomic::Ordering::Release);
        });
        Ok(Self { happened })
    }

    fn happened(&self) -> bool {
        self.happened.load(std::sync::atomic::Ordering::Acquire)
    }
}

/// Writes to standard output; a closed one ends the demo.
fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::from)
}
