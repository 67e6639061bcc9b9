//! What a process uses, as Linux tells it: processor time and resident memory.

use std::{fs, io};

/// The unit of processor time under /proc: `USER_HZ`, which the kernel's interface fixes.
const TICKS_PER_S: f64 = 100.0;

/// A process, by its id; `self` is this one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pid: u32,
}

impl Usage {
    /// This process.
    pub(crate) fn own() -> Self {
        Self { pid: std::process::id() }
    }

    /// Another process of this machine.
    pub(crate) fn of(pid: u32) -> Self {
        Self { pid }
    }

    /// Processor time used so far, user and system, all threads, in seconds.
    pub(crate) fn cpu_s(self) -> io::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The second field is the name in parentheses, which may hold anything; utime and stime are the 14th and 15th.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |index: usize| -> Option<f64> { fields.get(index)?.parse().ok() };
        match (ticks(11), ticks(12)) {
            (Some(user), Some(system)) => Ok((user + system) / TICKS_PER_S),
            _ => Err(io::Error::other(format!("/proc/{}/stat does not look like Linux's", self.pid))),
        }
    }

    /// The most memory that was resident so far, in MiB.
    pub(crate) fn peak_rss_mib(self) -> io::Result<f64> {
        self.status_mib("VmHWM:")
    }

    /// The memory that is resident now, in MiB.
    pub(crate) fn rss_mib(self) -> io::Result<f64> {
        self.status_mib("VmRSS:")
    }

    fn status_mib(self, field: &str) -> io::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|kib| kib.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0).ok_or_else(|| io::Error::other(format!("/proc/{}/status has no {field}", self.pid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::own();
        assert!(usage.cpu_s().unwrap() >= 0.0);
        assert!(usage.rss_mib().unwrap() > 1.0);
        assert!(usage.peak_rss_mib().unwrap() >= usage.rss_mib().unwrap() / 2.0);
    }
}
