//! What a comparison runs on: a broker of its own, a directory of its own, and the programs.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use holdfast_tests::{
    instance,
    kafka::{Kafka, KafkaConfig},
    process::Process,
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::{CompareFlags, Sizes, stop};
use crate::{
    broker::{Broker, internal_topics},
    error::{Error, Result},
    figures::Figures,
    workload::WorkloadFlags,
};

/// Longest time that one program may take.
const LIMIT: Duration = Duration::from_secs(900);
/// How long a broker works before what it does is measured.
const WARM_UP: Duration = Duration::from_secs(40);

/// The environment of a comparison. Dropping it stops the broker and removes the directory.
pub(crate) struct Bench {
    pub(crate) flags: CompareFlags,
    pub(crate) sizes: Sizes,
    pub(crate) broker: Broker,
    pub(crate) peer: Option<Peer>,
    pub(crate) runtime: Runtime,
    next: AtomicU32,
    warmed_up: AtomicBool,
    own: PathBuf,
    service: PathBuf,
    // In this order: the broker goes before its directory.
    _kafka: Kafka,
    root: TempDir,
}

/// The peer's directory.
pub(crate) struct Peer {
    script: PathBuf,
}

impl Bench {
    pub(crate) fn start(flags: &CompareFlags, sizes: Sizes) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("holdfast-bench-").tempdir()?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        stop::on_signal(&runtime, root.path().to_owned());
        let peer = flags.peer.as_deref().map(Peer::new).transpose()?;
        // More memory than a test's broker, and the compiler that a long run deserves. Old segments stay until they are
        // deleted with their topic, so that no cleaner works beside a measurement.
        let jvm = ["-Xms1g", "-Xmx1g", "-XX:+UseParallelGC"].map(str::to_owned).to_vec();
        let properties = BTreeMap::from([("log.cleaner.backoff.ms".to_owned(), "3600000".to_owned())]);
        let home = Some(root.path().join("kafka"));
        let kafka = Kafka::start_with(KafkaConfig { jvm: Some(jvm), properties, home, ..KafkaConfig::default() });
        let broker = Broker::new(&kafka.bootstrap())?;
        Ok(Self {
            flags: flags.clone(),
            sizes,
            broker,
            peer,
            runtime,
            next: AtomicU32::new(1),
            warmed_up: AtomicBool::new(false),
            own: env::current_exe()?,
            service: instance::binary(),
            _kafka: kafka,
            root,
        })
    }

    /// Copies the logs of all processes to where the flags want them.
    pub(crate) fn keep_logs(&self) {
        if let Some(directory) = &self.flags.keep_logs {
            let copied = fs::create_dir_all(directory).and_then(|()| {
                for entry in fs::read_dir(self.root.path())? {
                    let path = entry?.path();
                    if let (true, Some(name)) = (path.extension().is_some_and(|e| e == "log"), path.file_name()) {
                        fs::copy(&path, directory.join(name))?;
                    }
                }
                Ok(())
            });
            if let Err(error) = copied {
                eprintln!("holdfast-bench: the logs could not be kept in {}: {error}", directory.display());
            }
        }
    }

    /// A name that nothing else in this comparison has, for an application and its files.
    pub(crate) fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Has the broker do `work` until it has warmed up, if it has not: until the compiler has seen what it does, a seventh of the
    /// processors goes to the compiler, and who is measured first would pay for it.
    pub(crate) fn warm_up(&self, mut work: impl FnMut() -> Result<()>) -> Result<()> {
        if self.flags.quick || self.warmed_up.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        eprintln!("# warming the broker up …");
        let began = Instant::now();
        while began.elapsed() < WARM_UP {
            work()?;
        }
        Ok(())
    }

    /// A path in the comparison's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Runs one of this program's own commands to its end.
    pub(crate) fn own(&self, command: &str, arguments: &[String]) -> Result<Figures> {
        self.run(command, &self.own, &[vec![command.to_owned()], arguments.to_vec()].concat(), &[])
    }

    /// Loads a server with look-ups of a workload's rows.
    pub(crate) fn load(&self, flags: &[(&str, String)], workload: &WorkloadFlags) -> Result<Figures> {
        let flags = flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()]);
        self.own("load", &flags.chain(workload.arguments()).collect::<Vec<_>>())
    }

    /// Runs one of the peer's commands to its end.
    pub(crate) fn peer(&self, peer: &Peer, command: &str, arguments: &[String]) -> Result<Figures> {
        self.run("peer", &peer.script, &[vec![command.to_owned()], arguments.to_vec()].concat(), &[])
    }

    /// Starts one of this program's own servers.
    pub(crate) fn start_own(&self, command: &str, arguments: &[String]) -> Process {
        let log = self.path(&format!("{}.log", self.name(command)));
        Process::start(command, &self.own, &[vec![command.to_owned()], arguments.to_vec()].concat(), &[], &log)
    }

    /// Starts the service's binary.
    pub(crate) fn start_service(&self, arguments: &[String], environment: &[(String, String)]) -> Process {
        let log = self.path(&format!("{}.log", self.name("holdfast")));
        Process::start("holdfast", &self.service, arguments, environment, &log)
    }

    /// Starts the peer's service.
    pub(crate) fn start_peer(&self, peer: &Peer, arguments: &[String]) -> Process {
        let log = self.path(&format!("{}.log", self.name("peer-app")));
        Process::start("peer", &peer.script, &[vec!["app".to_owned()], arguments.to_vec()].concat(), &[], &log)
    }

    fn run(
        &self,
        name: &str,
        program: &Path,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> Result<Figures> {
        let log = self.path(&format!("{}.log", self.name(name)));
        let mut process = Process::start(name, program, arguments, environment, &log);
        let status = process.wait_for_exit(LIMIT);
        let figures = Figures::parse(&process.log());
        // Status 1 is a wrong result, which its figures say.
        if status.success() || (status.code() == Some(1) && !figures.correct()) {
            return Ok(figures);
        }
        let command = format!("{} {}", program.display(), arguments.join(" "));
        Err(Error::other(format!("{command} ended with {status}\n{}", process.tail())))
    }

    /// Removes an application's topics and state.
    pub(crate) fn clean(&self, application_id: &str) -> Result<()> {
        let topics = internal_topics(&self.broker.topics()?, application_id);
        self.runtime.block_on(self.broker.delete(&topics))?;
        match fs::remove_dir_all(self.path(application_id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Removes a topic.
    pub(crate) fn delete_topic(&self, topic: &str) -> Result<()> {
        self.runtime.block_on(self.broker.delete(&[topic.to_owned()]))
    }
}

impl Peer {
    /// Builds the peer where it is not built yet.
    fn new(directory: &Path) -> Result<Self> {
        let script = directory.join("run.sh");
        if !script.exists() {
            return Err(Error::other(format!("--peer {}: there is no run.sh", directory.display())));
        }
        let script = script.canonicalize()?;
        if !directory.join("target/peer.jar").exists() {
            eprintln!("# building the peer …");
            let status = Command::new(&script).arg("build").stdin(process::Stdio::null()).status()?;
            if !status.success() {
                return Err(Error::other(format!("{} build ended with {status}", script.display())));
            }
        }
        Ok(Self { script })
    }
}
