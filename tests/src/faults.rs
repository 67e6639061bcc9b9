//! Faults of the machine for one instance: its disk full, read-only or slow, its wall clock moved. They come and go while it
//! runs, and nobody else sees them.
//!
//! The instance is started with a small library (`faults/faults.c`) in front of the C library's functions. It needs a C
//! compiler, as building RocksDB does, and no privilege: mounts, time namespaces and throttles are not to be had everywhere.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use rustix::io::Errno;

/// The faults of one instance.
#[derive(Debug)]
pub struct Faults {
    library: PathBuf,
    file: PathBuf,
    directory: PathBuf,
    now: Mutex<Now>,
}

/// `struct faults` of the library, field by field.
#[derive(Clone, Copy, Debug, Default)]
struct Now {
    clock_offset_ns: i64,
    write_errno: i64,
    sync_delay_ms: i64,
}

impl Faults {
    /// Builds the library in `home`; files below `directory` will be affected.
    #[track_caller]
    pub(crate) fn new(home: &Path, directory: &Path) -> Self {
        let (source, library) = (home.join("faults.c"), home.join("faults.so"));
        fs::write(&source, include_str!("../faults/faults.c")).unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .args(["-ldl", "-lpthread"])
            .output()
            .unwrap_or_else(|e| panic!("this test needs a C compiler, cc, as building RocksDB does: {e}"));
        assert!(built.status.success(), "cc failed:\n{}", String::from_utf8_lossy(&built.stderr));
        let faults = Self {
            library,
            file: home.join("faults"),
            directory: directory.to_owned(),
            now: Mutex::new(Now::default()),
        };
        File::create(&faults.file).unwrap();
        faults.change(|_| {});
        faults
    }

    /// What a process needs to be affected.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            ("FAULTS_FILE".to_owned(), text(&self.file)),
            ("FAULTS_DIR".to_owned(), text(&self.directory)),
        ]
    }

    /// From now on there is no room on its disk.
    pub fn fill_disk(&self) {
        self.change(|now| now.write_errno = Errno::NOSPC.raw_os_error().into());
    }

    /// From now on its file system is mounted read-only.
    pub fn make_read_only(&self) {
        self.change(|now| now.write_errno = Errno::ROFS.raw_os_error().into());
    }

    /// Writes succeed again.
    pub fn mend_disk(&self) {
        self.change(|now| now.write_errno = 0);
    }

    /// Each sync takes so much longer.
    pub fn slow_disk(&self, delay: Duration) {
        self.change(|now| now.sync_delay_ms = i64::try_from(delay.as_millis()).unwrap());
    }

    /// Sets its wall clock to so many seconds from the machine's.
    pub fn move_clock(&self, seconds: i64) {
        self.change(|now| now.clock_offset_ns = seconds * 1_000_000_000);
    }

    fn change(&self, change: impl FnOnce(&mut Now)) {
        let mut now = self.now.lock().unwrap();
        change(&mut now);
        let fields = [now.clock_offset_ns, now.write_errno, now.sync_delay_ms];
        let bytes: Vec<u8> = fields.into_iter().flat_map(i64::to_ne_bytes).collect();
        // The process has the file mapped: it sees the change at once.
        let file = File::options().write(true).open(&self.file).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
    }
}
