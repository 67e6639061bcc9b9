//! What is noted of the MANIFEST, RocksDB's log of which files belong to the database.
//!
//! RocksDB takes a MANIFEST that lost its end for a whole one: files that it does not name any more are as if they had never
//! been, and their rows are gone without an error. So its length is noted beside it, and looked at before the next open.

use std::{
    fs,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

/// In the database's directory; RocksDB leaves names alone that are not its own.
const NOTE: &str = "MANIFEST.noted";

/// A MANIFEST as it was at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    file: String,
    bytes: u64,
}

impl Mark {
    /// The one that is in force in the database at `path`; `None` when there is none that can be read.
    fn of(path: &Path) -> Option<Self> {
        let file = fs::read_to_string(path.join("CURRENT")).ok()?.trim().to_owned();
        let bytes = fs::metadata(path.join(&file)).ok()?.len();
        Some(Self { file, bytes })
    }

    /// The one that was noted last; a note that is torn itself says nothing.
    fn noted(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path.join(NOTE)).ok()?;
        let (file, bytes) = text.strip_suffix('\n')?.split_once(' ')?;
        Some(Self { file: file.to_owned(), bytes: bytes.parse().ok()? })
    }
}

/// What is missing of the MANIFEST of the database at `path`, which is not open. Each open begins a new file, of which
/// nothing was noted.
pub(super) fn missing(path: &Path) -> Option<String> {
    let (found, noted) = (Mark::of(path)?, Mark::noted(path)?);
    (found.file == noted.file && found.bytes < noted.bytes)
        .then(|| format!("{} lost its end: it has {} bytes and had {}", found.file, found.bytes, noted.bytes))
}

/// Keeps the note of an open database.
#[derive(Debug)]
pub(super) struct ManifestNote {
    path: PathBuf,
    last: Mutex<Option<Mark>>,
}

impl ManifestNote {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), last: Mutex::new(None) }
    }

    /// Notes the MANIFEST as it is now, if it has changed.
    pub(super) fn update(&self) {
        let mut last = self.last.lock();
        let Some(mark) = Mark::of(&self.path) else { return };
        if last.as_ref() == Some(&mark) {
            return;
        }
        // An older note notices less, and never what is not so.
        match fs::write(self.path.join(NOTE), format!("{} {}\n", mark.file, mark.bytes)) {
            Ok(()) => *last = Some(mark),
            Err(error) => tracing::debug!(path = %self.path.display(), %error, "the MANIFEST's length was not noted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_file_of_the_same_name_lost_something() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        assert_eq!(missing(directory.path()), None);
        write("CURRENT", "MANIFEST-1\n");
        write("MANIFEST-1", "0123456789");
        assert_eq!(missing(directory.path()), None);
        ManifestNote::new(directory.path()).update();
        assert_eq!(missing(directory.path()), None);
        write("MANIFEST-1", "012345");
        assert!(missing(directory.path()).unwrap().contains("6 bytes and had 10"));
        write(NOTE, "MANIFEST-1 1");
        assert_eq!(missing(directory.path()), None, "a torn note says nothing");
        write(NOTE, "MANIFEST-2 10\n");
        assert_eq!(missing(directory.path()), None);
    }
}
