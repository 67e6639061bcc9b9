//! Ctrl-C and SIGTERM: child processes are ended and the directory is removed before the process ends.

use std::{fs, path::PathBuf, process};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

/// Ends the process with 130 or 143, as a shell expects, and leaves nothing behind.
pub(crate) fn on_signal(runtime: &Runtime, directory: PathBuf) {
    runtime.spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            // Without handlers the children die with this process; only the directory stays.
            return;
        };
        let status = tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        };
        eprintln!("holdfast-bench: stopping");
        for child in children() {
            // It may have ended by itself.
            let _ = kill_process(child, Signal::KILL);
        }
        // What a child still wrote while it was killed is gone with a second try.
        let _ = fs::remove_dir_all(&directory).or_else(|_| fs::remove_dir_all(&directory));
        process::exit(status);
    });
}

/// The processes that this one has started and that have not ended.
fn children() -> Vec<Pid> {
    let own = process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent(*pid) == Some(own)).filter_map(Pid::from_raw).collect()
}

fn parent(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
