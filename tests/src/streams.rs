//! Applications of Kafka Streams: the same topologies in Java, to hand state to and to take it from.
//!
//! The sources are in `tests/java`; they are compiled once per change of them, into the cargo target directory.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::LazyLock,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    instance::StateFate,
    java,
    kafka::{Kafka, Names},
    process::Process,
    rest::Rest,
    state, wait,
};

/// A JVM, a rebalance and a restore on a busy machine; usually it takes 3 s.
const READY_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(60);

const SOURCES: [(&str, &str); 4] = [
    ("Application.java", include_str!("../java/Application.java")),
    ("Inventory.java", include_str!("../java/Inventory.java")),
    ("Json.java", include_str!("../java/Json.java")),
    ("Tables.java", include_str!("../java/Tables.java")),
];
const LOGGING: &str = include_str!("../kafka/log4j2.yaml");

static CLASSES: LazyLock<PathBuf> = LazyLock::new(compile);

/// What an application is started with: its topology's name and topics, and properties of Kafka Streams.
#[derive(Clone, Debug)]
pub struct StreamsConfig {
    arguments: BTreeMap<String, String>,
}

impl StreamsConfig {
    /// The inventory on `kafka` with `names`.
    pub fn inventory(kafka: &Kafka, names: &Names) -> Self {
        Self::of("inventory", kafka, &names.application_id)
            .set("items_topic", &names.items)
            .set("store_output_topic", &names.store_output)
            .set("item_output_topic", &names.item_output)
    }

    /// The counterpart of the example `tables`.
    pub fn tables(kafka: &Kafka, application_id: &str) -> Self {
        Self::of("tables", kafka, application_id)
    }

    fn of(topology: &str, kafka: &Kafka, application_id: &str) -> Self {
        Self { arguments: BTreeMap::new() }
            .set("topology", topology)
            .set("leave_group", "true")
            .set("bootstrap.servers", kafka.bootstrap())
            .set("application.id", application_id)
            .set("num.stream.threads", "2")
            .set("commit.interval.ms", "100")
            .set("main.consumer.session.timeout.ms", "6000")
            .set("main.consumer.heartbeat.interval.ms", "1000")
    }

    /// Sets a topic (`items_topic`) or a property (`processing.guarantee`).
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<String>) -> Self {
        self.arguments.insert(key.to_owned(), value.into());
        self
    }

    /// An application that does not run yet.
    pub fn prepare(self) -> Streams {
        let home = tempfile::Builder::new().prefix("holdfast-streams-").tempdir().unwrap();
        Streams { config: self, incarnation: 0, rest: None, process: None, home }
    }
}

/// One application of Kafka Streams over all its lives.
#[derive(Debug)]
pub struct Streams {
    config: StreamsConfig,
    incarnation: u32,
    rest: Option<Rest>,
    // Dropped before the directory with its log, which a failed test shows then.
    process: Option<Process>,
    home: TempDir,
}

impl Streams {
    fn state_dir(&self) -> PathBuf {
        self.home.path().join("state")
    }

    fn start_process(&mut self) {
        assert!(self.process.is_none(), "the Java application runs already");
        self.incarnation += 1;
        self.rest = None;
        let logging = self.home.path().join("log4j2.yaml");
        fs::write(&logging, LOGGING).unwrap();
        // Small and quick to start, like the broker.
        let mut args = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"].map(str::to_owned).to_vec();
        args.push(format!("-Dlog4j2.configurationFile={}", logging.display()));
        args.extend(["-cp".to_owned(), class_path(&CLASSES), "Application".to_owned()]);
        args.push(format!("state.dir={}", self.state_dir().display()));
        args.extend(self.config.arguments.iter().map(|(key, value)| format!("{key}={value}")));
        let name = format!("Kafka Streams {} life {}", self.config.arguments["application.id"], self.incarnation);
        let log = self.home.path().join(format!("life-{}.log", self.incarnation));
        self.process = Some(Process::start(&name, &java::java(), &args, &[], &log));
    }

    /// Changes an argument for its next life.
    pub fn reconfigure(&mut self, key: &str, value: &str) {
        self.config.arguments.insert(key.to_owned(), value.to_owned());
    }

    /// Starts its next life, after a stop, with its state dealt with.
    pub fn start_again(&mut self, fate: &StateFate) {
        fate.befall(&self.state_dir());
        self.start_process();
    }

    /// Waits until its state is `RUNNING`: joined and restored.
    #[track_caller]
    pub fn wait_running(&mut self) {
        let process = self.process.as_mut().expect("the Java application does not run");
        let rest = wait::until("the Java application to run", READY_LIMIT, || {
            if let Some(status) = process.exited() {
                panic!("the Java application ended with {status}\n{}", process.tail());
            }
            let rest = listening(&process.log()).ok_or("no line with its address")?;
            match rest.get("/state") {
                Ok(answer) if answer.body == "RUNNING" => Ok(rest),
                _ => Err("not RUNNING"),
            }
        });
        self.rest = Some(rest);
    }

    /// All rows of a store, by key; `Err` while a rebalance or a restore goes on.
    #[track_caller]
    pub fn rows(&self, store: &str) -> Result<BTreeMap<String, Value>, String> {
        let rest = self.rest.as_ref().expect("wait_running comes first");
        let answer = rest.fetch(&format!("/rows/{store}"));
        if answer.status != 200 {
            return Err(answer.body);
        }
        let Value::Object(rows) = answer.json() else { panic!("no object: {}", answer.body) };
        Ok(rows.into_iter().collect())
    }

    /// What its present life has logged.
    pub fn log(&self) -> String {
        self.process.as_ref().expect("the Java application does not run").log()
    }

    /// Whether its process has not ended.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.exited().is_none())
    }

    /// SIGTERM: it commits and closes. Does not wait: see [`Streams::wait_for_exit`].
    pub fn begin_termination(&mut self) {
        self.process.as_mut().expect("the Java application does not run").signal(rustix::process::Signal::TERM);
    }

    /// Waits until it has ended; answers how, and its log.
    #[track_caller]
    pub fn wait_for_exit(&mut self) -> (ExitStatus, String) {
        let mut process = self.process.take().expect("the Java application does not run");
        let status = process.wait_for_exit(STOP_LIMIT);
        (status, process.log())
    }
}

fn listening(log: &str) -> Option<Rest> {
    log.lines().find_map(|line| line.strip_prefix("listening on ")).map(Rest::new)
}

fn class_path(classes: &Path) -> String {
    format!("{}:{}", classes.display(), java::kafka_lib().join("*").display())
}

/// Compiles the sources, unless it was done before; answers the directory of the classes.
fn compile() -> PathBuf {
    let lib = java::kafka_lib();
    let streams = lib.join(format!("kafka-streams-{}.jar", java::kafka_version()));
    assert!(
        streams.exists(),
        "{} is missing: `cargo xtask kafka --fetch` gets it (`cargo xtask test` does so by itself)",
        streams.display()
    );
    let mut hasher = DefaultHasher::new();
    (SOURCES, java::kafka_version()).hash(&mut hasher);
    let home = java::target_dir().join("kafka");
    let classes = home.join(format!("streams-{:016x}", hasher.finish()));
    if classes.exists() {
        return classes;
    }
    fs::create_dir_all(&home).unwrap();
    let work = tempfile::Builder::new().prefix("streams-").tempdir_in(&home).unwrap();
    for (name, text) in SOURCES {
        fs::write(work.path().join(name), text).unwrap();
    }
    let output = Command::new(java::javac())
        .current_dir(&work)
        .args(["-Xlint:all,-processing,-try", "-Werror", "-proc:none", "-cp"])
        .arg(lib.join("*"))
        .args(SOURCES.map(|(name, _)| name))
        .output()
        .unwrap_or_else(|e| panic!("cannot run javac (a JDK, 17 or newer; Debian's default-jdk-headless): {e}"));
    assert!(
        output.status.success(),
        "javac ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // Whole or not at all: another test process may be at it too, and whoever is first makes the same classes.
    let work = work.keep();
    if fs::rename(&work, &classes).is_err() {
        state::remove(&work);
    }
    classes
}
