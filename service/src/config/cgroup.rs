//! How much memory there is: the container's limit, else the machine's.

use std::{fs, path::Path};

/// Where a default memory limit was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Limit of the control group, in bytes.
    Container(u64),
    /// Memory of the machine, in bytes.
    Machine(u64),
    /// Nobody says.
    Unknown,
}

/// Share of a container's limit that goes to the budget; the rest is for code, client queues and the allocator.
const CONTAINER_PERCENT: u64 = 60;
/// Without a limit the machine is shared with others.
const MACHINE_PERCENT: u64 = 25;
const MACHINE_MOST_BYTES: u64 = 4 << 30;
const UNKNOWN_BYTES: u64 = 512 << 20;
/// Below this nothing works; a smaller container gets it all the same and is told so by its limit.
pub(crate) const LEAST_BYTES: u64 = 32 << 20;

impl Memory {
    /// Reads control group version 2, then version 1, then `/proc/meminfo`.
    pub(crate) fn read(root: &Path) -> Self {
        let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        });
        let limit = ["sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"]
            .iter()
            .find_map(|path| fs::read_to_string(root.join(path)).ok()?.trim().parse::<u64>().ok())
            // Version 1 writes a huge number for "no limit".
            .filter(|limit| machine.is_none_or(|machine| *limit < machine));
        match (limit, machine) {
            (Some(limit), _) => Self::Container(limit),
            (None, Some(machine)) => Self::Machine(machine),
            (None, None) => Self::Unknown,
        }
    }

    /// The default of `memory_limit` in bytes, and how it came about.
    pub(crate) fn default_limit(self) -> (u64, String) {
        let show = super::units::show_bytes;
        let (bytes, how) = match self {
            Self::Container(limit) => {
                (limit / 100 * CONTAINER_PERCENT, format!("{CONTAINER_PERCENT} % of the container's {}", show(limit)))
            }
            Self::Machine(total) => (
                (total / 100 * MACHINE_PERCENT).min(MACHINE_MOST_BYTES),
                format!("{MACHINE_PERCENT} % of the machine's {}, at most {}", show(total), show(MACHINE_MOST_BYTES)),
            ),
            Self::Unknown => {
                (UNKNOWN_BYTES, "neither a container's limit nor the machine's memory is known".to_owned())
            }
        };
        (bytes.max(LEAST_BYTES), how)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(files: &[(&str, &str)]) -> Memory {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Memory::read(root.path())
    }

    #[test]
    fn the_containers_limit_comes_first() {
        let machine = ("proc/meminfo", "MemTotal:       16384000 kB\nMemFree: 1 kB\n");
        let total = 16_384_000 * 1024;
        assert_eq!(at(&[machine, ("sys/fs/cgroup/memory.max", "1073741824\n")]), Memory::Container(1 << 30));
        assert_eq!(at(&[machine, ("sys/fs/cgroup/memory.max", "max\n")]), Memory::Machine(total));
        let v1 = "sys/fs/cgroup/memory/memory.limit_in_bytes";
        assert_eq!(at(&[machine, (v1, "9223372036854771712\n")]), Memory::Machine(total));
        assert_eq!(at(&[machine, (v1, "536870912\n")]), Memory::Container(512 << 20));
        assert_eq!(at(&[]), Memory::Unknown);
    }

    #[test]
    fn a_share_of_it_is_the_default() {
        assert_eq!(Memory::Container(1000 << 20).default_limit().0, 600 << 20);
        assert_eq!(Memory::Machine(64 << 30).default_limit().0, 4 << 30);
        assert_eq!(Memory::Container(1 << 20).default_limit().0, LEAST_BYTES);
    }
}
