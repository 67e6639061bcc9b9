//! Child processes that die with the test process, write into a log file, and can be signalled.

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// Lines of a log that a failed test shows.
const TAIL_LINES: usize = 80;

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// The thread that forks all children. The kernel's parent-death signal follows the *thread* that forked: a test's own
/// thread ends with the test, and a broker that all tests share would be killed with it.
static NURSERY: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (jobs, queue) = mpsc::channel::<Job>();
    thread::Builder::new()
        .name("nursery".into())
        .spawn(move || {
            for (mut command, answer) in queue {
                // A test that panicked meanwhile no longer waits for its child; the child is reaped by its drop.
                let _ = answer.send(command.spawn());
            }
        })
        .unwrap();
    jobs
});

/// A running (or ended) child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `program` with standard output and error in `log`. It is killed when this process ends, however it ends
    /// (through `setpriv`, part of util-linux).
    pub fn start(name: &str, program: &Path, args: &[String], environment: &[(String, String)], log: &Path) -> Self {
        let out = File::create(log).unwrap_or_else(|e| panic!("cannot write {name}'s log {}: {e}", log.display()));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
        // What is set for the tests is not meant for what they start, and the service refuses settings it does not know.
        for (key, _) in env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("HOLDFAST_")) {
            command.env_remove(key);
        }
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let (answer, child) = mpsc::channel();
        NURSERY.send((command, answer)).unwrap();
        let child = child.recv().unwrap().unwrap_or_else(|e| {
            panic!("cannot start {name} ({} through setpriv of util-linux): {e}", program.display())
        });
        Self { name: name.to_owned(), child, log: log.to_owned(), ended: None }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; a process that has ended gets none.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            let pid = Pid::from_child(&self.child);
            kill_process(pid, signal).unwrap_or_else(|e| panic!("cannot signal {} ({pid:?}): {e}", self.name));
        }
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// SIGKILL, and waits until the kernel has taken it down.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if self.ended.is_none() {
            self.ended = Some(self.child.wait().unwrap());
        }
    }

    /// SIGTERM, and waits until it has ended.
    #[track_caller]
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_exit(limit)
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait_for_exit(&mut self, limit: Duration) -> ExitStatus {
        let name = self.name.clone();
        wait::until(format!("{name} to end"), limit, || self.exited().ok_or("it still runs"))
    }

    /// Everything that it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines that it has written, with a heading.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        format!("--- {}: last {} of {} lines\n{}", self.name, lines.len() - from, lines.len(), lines[from..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.tail());
        }
        self.kill();
    }
}

/// The exit code, or minus the number of the signal that ended the process.
pub fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| -signal)).unwrap_or(i32::MIN)
}
