//! What is noted of the MANIFEST, RocksDB's log of which files belong to the database.
//!
//! RocksDB takes a MANIFEST that lost its end for a whole one, and one in which the length of a record is damaged for one that
//! ends there: files that it does not name any more are as if they had never been, and their rows are gone without an error. So
//! its length and checksum are noted beside it, and looked at before the next open.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crc32fast::Hasher;
use parking_lot::Mutex;

/// In the database's directory; RocksDB leaves names alone that are not its own.
const NOTE: &str = "MANIFEST.noted";

/// A MANIFEST as it was at some time. It only grows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    file: String,
    bytes: u64,
    checksum: u32,
}

impl Mark {
    /// The one that was noted last; a note that is torn or damaged itself says nothing.
    fn noted(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path.join(NOTE)).ok()?;
        let (text, of_text) = text.strip_suffix('\n')?.rsplit_once(' ')?;
        if of_text != checksum_text(text) {
            return None;
        }
        let mut parts = text.split(' ');
        let (file, bytes, checksum) = (parts.next()?, parts.next()?, parts.next()?);
        let (bytes, checksum) = (bytes.parse().ok()?, u32::from_str_radix(checksum, 16).ok()?);
        Some(Self { file: file.to_owned(), bytes, checksum })
    }

    fn note(&self, path: &Path) -> io::Result<()> {
        let text = format!("{} {} {:08x}", self.file, self.bytes, self.checksum);
        let of_text = checksum_text(&text);
        fs::write(path.join(NOTE), format!("{text} {of_text}\n"))
    }
}

fn checksum_text(text: &str) -> String {
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}

/// The name of the file that is in force in the database at `path`.
fn current(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path.join("CURRENT")).ok()?.trim().to_owned())
}

/// Takes the bytes of a file from `from` on, at most up to `to`; where it ended.
fn take(path: &Path, from: u64, to: u64, hasher: &mut Hasher) -> io::Result<u64> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut rest = file.take(to.saturating_sub(from));
    let (mut buffer, mut at) = ([0; 8192], from);
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(at),
            read => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
        }
    }
}

/// What is wrong with the MANIFEST of the database at `path`, which is not open. Each open begins a new file, of which
/// nothing was noted.
pub(super) fn damage(path: &Path) -> Option<String> {
    let (file, noted) = (current(path)?, Mark::noted(path)?);
    if file != noted.file {
        return None;
    }
    let mut hasher = Hasher::new();
    match take(&path.join(&file), 0, noted.bytes, &mut hasher) {
        // RocksDB tells what cannot be read.
        Err(_) => None,
        Ok(bytes) if bytes < noted.bytes => {
            Some(format!("{file} lost its end: it has {bytes} bytes and had {}", noted.bytes))
        }
        Ok(bytes) => (hasher.finalize() != noted.checksum)
            .then(|| format!("{file} is damaged: its first {bytes} bytes are not the ones that were written")),
    }
}

/// Keeps the note of an open database.
#[derive(Debug)]
pub(super) struct ManifestNote {
    path: PathBuf,
    last: Mutex<Option<Seen>>,
}

/// As much of a file as was noted.
#[derive(Clone, Debug)]
struct Seen {
    file: String,
    bytes: u64,
    hasher: Hasher,
}

impl ManifestNote {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), last: Mutex::new(None) }
    }

    /// Notes the MANIFEST as it is now, if it has changed. Reads what came since.
    pub(super) fn update(&self) {
        let mut last = self.last.lock();
        let Some(file) = current(&self.path) else { return };
        let seen = last.as_ref().filter(|seen| seen.file == file);
        let (from, mut hasher) = seen.map_or((0, Hasher::new()), |seen| (seen.bytes, seen.hasher.clone()));
        // An older note notices less, and never what is not so.
        let noted = take(&self.path.join(&file), from, u64::MAX, &mut hasher).and_then(|bytes| {
            if bytes > from {
                Mark { file: file.clone(), bytes, checksum: hasher.clone().finalize() }.note(&self.path)?;
                *last = Some(Seen { file, bytes, hasher });
            }
            Ok(())
        });
        if let Err(error) = noted {
            tracing::debug!(path = %self.path.display(), %error, "the MANIFEST was not noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_same_name_that_is_shorter_or_different_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let damage = || damage(directory.path());
        assert_eq!(damage(), None);
        write("CURRENT", "MANIFEST-1\n");
        write("MANIFEST-1", "01234");
        assert_eq!(damage(), None);
        let note = ManifestNote::new(directory.path());
        note.update();
        assert_eq!(damage(), None);
        write("MANIFEST-1", "0123456789");
        assert_eq!(damage(), None, "it grew after the note");
        note.update();
        assert_eq!(damage(), None);
        write("MANIFEST-1", "0123456789more");
        assert_eq!(damage(), None);
        write("MANIFEST-1", "012345");
        assert!(damage().unwrap().contains("6 bytes and had 10"));
        write("MANIFEST-1", "0123_56789");
        assert!(damage().unwrap().contains("its first 10 bytes"));
        let noted = fs::read_to_string(directory.path().join(NOTE)).unwrap();
        for wrong in [noted.replace("10", "20"), noted[..noted.len() / 2].to_owned(), String::new()] {
            write(NOTE, &wrong);
            assert_eq!(damage(), None, "a damaged note says nothing");
        }
        write(NOTE, &noted);
        write("CURRENT", "MANIFEST-2\n");
        assert_eq!(damage(), None);
    }
}
