//! Instances of the service: the real binary as a process with its own address, state directory and log.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    faults::Faults,
    kafka::{Kafka, Names},
    process::Process,
    rest::Rest,
    state, wait,
};

const STATE: &str = "state";

/// Join, restore and first commit on a busy machine; usually it takes well under a second.
pub const READY_LIMIT: Duration = Duration::from_secs(60);
/// A drain with its last commit.
pub const STOP_LIMIT: Duration = Duration::from_secs(40);

static NEXT_HOST: AtomicU8 = AtomicU8::new(2);

/// What an instance is started with.
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    settings: BTreeMap<String, String>,
    file: Option<String>,
    program: PathBuf,
    faulty: bool,
    open_files: Option<u32>,
    volume_mib: Option<u32>,
}

impl InstanceConfig {
    /// The inventory service on `kafka` with `names`; fast timeouts, everything else by default.
    pub fn new(kafka: &Kafka, names: &Names) -> Self {
        Self::of(binary(), kafka, &names.application_id)
            .set("items_topic", &names.items)
            .set("store_output_topic", &names.store_output)
            .set("item_output_topic", &names.item_output)
    }

    /// Another service on `kafka`: one of the tests' own examples, by name.
    pub fn example(name: &str, kafka: &Kafka, application_id: &str) -> Self {
        Self::of(example(name), kafka, application_id)
    }

    fn of(program: PathBuf, kafka: &Kafka, application_id: &str) -> Self {
        let config =
            Self { settings: BTreeMap::new(), file: None, program, faulty: false, open_files: None, volume_mib: None };
        config
            .set("bootstrap_servers", kafka.bootstrap())
            .set("application_id", application_id)
            .set("session_timeout_ms", "6000")
            .set("log", "info")
    }

    /// Sets one setting by its file key (`processing_guarantee`), through the environment.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<String>) -> Self {
        self.settings.insert(key.to_owned(), value.into());
        self
    }

    /// Leaves a setting out.
    #[must_use]
    pub fn unset(mut self, key: &str) -> Self {
        self.settings.remove(key);
        self
    }

    /// A configuration file (TOML) besides.
    #[must_use]
    pub fn file(mut self, toml: impl Into<String>) -> Self {
        self.file = Some(toml.into());
        self
    }

    /// Its machine can be made to fail: see [`Instance::faults`].
    #[must_use]
    pub fn faulty(mut self) -> Self {
        self.faulty = true;
        self
    }

    /// It may open so many files and connections.
    #[must_use]
    pub fn open_files(mut self, limit: u32) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// Its state is on a file system of its own, of so many MiB, which is empty at the start of each life. Only the process sees it
    /// where it is; others see it through [`Instance::volume`].
    #[must_use]
    pub fn volume(mut self, mib: u32) -> Self {
        self.volume_mib = Some(mib);
        self
    }

    /// Starts a process; it is not ready yet.
    pub fn start(self) -> Instance {
        let mut instance = self.prepare();
        instance.start_process();
        instance
    }

    /// Starts a process and waits until it is ready.
    #[track_caller]
    pub fn start_ready(self) -> Instance {
        let mut instance = self.start();
        instance.wait_ready();
        instance
    }

    /// An instance that does not run yet: its state directory can be arranged first.
    pub fn prepare(self) -> Instance {
        let home = tempfile::Builder::new().prefix("holdfast-instance-").tempdir().unwrap();
        let host = NEXT_HOST.fetch_add(1, Ordering::Relaxed);
        assert!((2..255).contains(&host), "one test process starts at most 253 instances");
        let faults = self.faulty.then(|| Faults::new(home.path(), &home.path().join(STATE)));
        let host = format!("127.0.0.{host}");
        Instance { config: self, host, home, faults, incarnation: 0, process: None, listening: None }
    }
}

/// What happens to an instance's state between two of its lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateFate {
    /// Stays as the process left it.
    Keep,
    /// Is deleted (a lost volume).
    Remove,
    /// Is replaced by this copy (a volume restored from a snapshot).
    Replace(PathBuf),
}

impl StateFate {
    /// Does it to the state at `state_dir`, which no process uses now.
    pub(crate) fn befall(&self, state_dir: &Path) {
        match self {
            Self::Keep => {}
            Self::Remove => state::remove(state_dir),
            Self::Replace(copy) => {
                state::remove(state_dir);
                state::copy(copy, state_dir);
            }
        }
    }
}

/// One instance over all its lives.
#[derive(Debug)]
pub struct Instance {
    config: InstanceConfig,
    host: String,
    incarnation: u32,
    faults: Option<Faults>,
    listening: Option<Listening>,
    // Dropped before the directory with its log, which a failed test shows then.
    process: Option<Process>,
    home: TempDir,
}

#[derive(Clone, Debug)]
struct Listening {
    public: String,
    peer: String,
}

impl Instance {
    /// Its own loopback address, which it gets as POD_IP too.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its state directory (the setting `state_dir`).
    pub fn state_dir(&self) -> PathBuf {
        self.home.path().join(STATE)
    }

    /// Where others see the file system that is its own, while it runs.
    pub fn volume(&self) -> PathBuf {
        let state = self.state_dir();
        Path::new("/proc").join(self.pid().to_string()).join("root").join(state.strip_prefix("/").unwrap())
    }

    /// The faults of its machine, over all its lives.
    pub fn faults(&self) -> &Faults {
        self.faults.as_ref().expect("the instance was not configured as faulty")
    }

    /// Process id of its present life.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the instance does not run").pid()
    }

    /// Changes a setting for its next life.
    pub fn reconfigure(&mut self, key: &str, value: &str) {
        self.config.settings.insert(key.to_owned(), value.to_owned());
    }

    fn start_process(&mut self) {
        assert!(self.process.is_none(), "the instance runs already");
        self.incarnation += 1;
        self.listening = None;
        let mut args = vec!["serve".to_owned()];
        if let Some(toml) = &self.config.file {
            let file = self.home.path().join("holdfast.toml");
            fs::write(&file, toml).unwrap();
            args.extend(["--config".to_owned(), file.display().to_string()]);
        }
        let environment = self.environment();
        let name = format!("holdfast {} life {}", self.host, self.incarnation);
        let log = self.home.path().join(format!("life-{}.log", self.incarnation));
        let mut program = self.config.program.clone();
        if let Some(limit) = self.config.open_files {
            // Becomes the service, as setpriv does: the process id is the same.
            args.splice(0..0, [format!("--nofile={limit}:{limit}"), program.display().to_string()]);
            program = "prlimit".into();
        }
        if let Some(mib) = self.config.volume_mib {
            // As above. Whoever may make user namespaces needs no other privilege to mount.
            let state = self.state_dir();
            fs::create_dir_all(&state).unwrap();
            let mount = "mount -t tmpfs -o size=$1m tmpfs \"$0\" && shift && exec \"$@\"";
            let before = ["--user", "--map-root-user", "--mount", "sh", "-c", mount].map(str::to_owned);
            let named = [state.display().to_string(), mib.to_string(), program.display().to_string()];
            args.splice(0..0, before.into_iter().chain(named));
            program = "unshare".into();
        }
        self.process = Some(Process::start(&name, &program, &args, &environment, &log));
    }

    /// Its settings, as a process gets them.
    fn environment(&self) -> Vec<(String, String)> {
        let mut settings = self.config.settings.clone();
        for (key, value) in [
            ("state_dir", self.state_dir().display().to_string()),
            ("listen", format!("{}:0", self.host)),
            ("peer_listen", format!("{}:0", self.host)),
        ] {
            settings.entry(key.to_owned()).or_insert(value);
        }
        let mut environment: Vec<_> =
            settings.into_iter().map(|(key, value)| (format!("HOLDFAST_{}", key.to_uppercase()), value)).collect();
        environment.push(("POD_IP".to_owned(), self.host.clone()));
        environment.extend(self.faults.iter().flat_map(Faults::environment));
        environment
    }

    /// Runs another of the binary's commands (`reset`) with this instance's settings, which must succeed.
    #[track_caller]
    pub fn command(&self, args: &[&str]) -> String {
        let log = self.home.path().join("command.log");
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut process = Process::start("holdfast command", &self.config.program, &args, &self.environment(), &log);
        let status = process.wait_for_exit(STOP_LIMIT);
        assert!(status.success(), "{args:?} ended with {status}\n{}", process.log());
        process.log()
    }

    /// Starts its next life, after a kill or a stop, with its state dealt with.
    pub fn start_again(&mut self, fate: &StateFate) {
        fate.befall(&self.state_dir());
        self.start_process();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().expect("the instance does not run").kill();
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the instance does not run");
        process.terminate(STOP_LIMIT)
    }

    /// SIGTERM, without waiting: see [`Instance::wait_for_exit`].
    pub fn begin_termination(&mut self) {
        self.process().signal(Signal::TERM);
    }

    /// Waits until it ends by itself; answers how, and its log.
    #[track_caller]
    pub fn wait_for_exit(&mut self) -> (ExitStatus, String) {
        let mut process = self.process.take().expect("the instance does not run");
        let status = process.wait_for_exit(STOP_LIMIT);
        (status, process.log())
    }

    /// SIGSTOP: it answers nothing, and its connections stay open.
    pub fn pause(&mut self) {
        self.process().signal(Signal::STOP);
    }

    /// SIGCONT after [`Instance::pause`].
    pub fn resume(&mut self) {
        self.process().signal(Signal::CONT);
    }

    /// Whether its process has not ended.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.exited().is_none())
    }

    /// What its present life has logged.
    pub fn log(&self) -> String {
        self.process.as_ref().expect("the instance does not run").log()
    }

    /// Waits until it listens.
    #[track_caller]
    pub fn wait_listening(&mut self) {
        if self.listening.is_some() {
            return;
        }
        let host = self.host.clone();
        let process = self.process();
        let found = wait::until(format!("{host} to log where it listens"), READY_LIMIT, || {
            if let Some(status) = process.exited() {
                panic!("the instance ended with {status} before it listened\n{}", process.tail());
            }
            listening(&process.log()).ok_or("no line with its addresses")
        });
        self.listening = Some(found);
    }

    /// Waits until `/healthz/ready` answers 200.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        self.wait_listening();
        let rest = self.rest();
        let process = self.process();
        wait::until(format!("{} to be ready", rest.address()), READY_LIMIT, || {
            if let Some(status) = process.exited() {
                panic!("the instance ended with {status} before it was ready\n{}", process.tail());
            }
            match rest.get("/healthz/ready") {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("{} {}", answer.status, answer.body)),
                Err(error) => Err(error.to_string()),
            }
        });
    }

    /// A REST client of its public listener.
    #[track_caller]
    pub fn rest(&mut self) -> Rest {
        self.wait_listening();
        Rest::new(&self.listening.as_ref().unwrap().public)
    }

    /// `host:port` of its public listener.
    #[track_caller]
    pub fn address(&mut self) -> String {
        self.wait_listening();
        self.listening.as_ref().unwrap().public.clone()
    }

    /// `host:port` of its listener for peers and operators.
    #[track_caller]
    pub fn peer_address(&mut self) -> String {
        self.wait_listening();
        self.listening.as_ref().unwrap().peer.clone()
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the instance does not run")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- instance {} in its life {}", self.host, self.incarnation);
        }
    }
}

/// The addresses of the first log line that has them as JSON fields `public` and `peer`: the instance is up.
fn listening(log: &str) -> Option<Listening> {
    log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|line| {
        let text = |key: &str| line[key].as_str().map(str::to_owned);
        Some(Listening { public: text("public")?, peer: text("peer")? })
    })
}

/// The service's binary: `HOLDFAST_BIN`, or the one in the target directory that this test was built into.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("HOLDFAST_BIN") {
        return PathBuf::from(path);
    }
    let test = env::current_exe().unwrap();
    // target/debug/deps/<test>, or target/debug/<program>.
    let candidates: Vec<PathBuf> =
        test.ancestors().skip(1).take(2).map(|directory| directory.join("holdfast")).collect();
    let Some(binary) = candidates.iter().find(|path| path.exists()) else {
        let places: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
        panic!("no service binary at {}: {BUILD_IT}", places.join(" or "))
    };
    check_age(binary);
    binary.clone()
}

/// The program of an example of this package, in the target directory that this test was built into.
fn example(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let program = test.ancestors().skip(2).map(|directory| directory.join("examples").join(name)).next().unwrap();
    assert!(program.exists(), "no example at {}: {BUILD_IT}", program.display());
    check_age(&program);
    program
}

fn check_age(program: &Path) {
    if let Some(newer) = newer_source(program) {
        panic!("the program {} is older than {newer}: {BUILD_IT}", program.display());
    }
}

const BUILD_IT: &str = "build it with `cargo build --workspace --all-targets` (`cargo xtask test` does)";

/// A source of the binary that has changed since it was built: `cargo test -p holdfast-tests` does not build other
/// packages' binaries, and a test of yesterday's binary proves nothing. Cargo's dep-info names the sources.
fn newer_source(binary: &Path) -> Option<String> {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let built = modified(binary)?;
    let sources = fs::read_to_string(binary.with_extension("d")).ok()?;
    let (_, sources) = sources.split_once(": ")?;
    sources
        .split_whitespace()
        .find(|source| modified(Path::new(source)).is_some_and(|at| at > built))
        .map(str::to_owned)
}
