//! JSON files that are either old or new, never half: written beside, synced, renamed.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{DirectoryError, FORMAT_VERSION, error::IoContext};

/// Behind the name of a file while its next version is written.
pub(super) const BESIDE: &str = ".new";

/// Writes `value` to `path`, atomically and lastingly.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DirectoryError> {
    let mut json = serde_json::to_vec_pretty(value).context("encode", path)?;
    json.push(b'\n');
    let mut beside = path.as_os_str().to_owned();
    beside.push(BESIDE);
    let beside = PathBuf::from(beside);
    let mut file = File::create(&beside).context("create", &beside)?;
    file.write_all(&json).context("write", &beside)?;
    file.sync_all().context("sync", &beside)?;
    fs::rename(&beside, path).context("replace", path)?;
    match path.parent() {
        Some(directory) => sync_directory(directory),
        None => Ok(()),
    }
}

/// Makes the entries of a directory last.
pub(super) fn sync_directory(path: &Path) -> Result<(), DirectoryError> {
    File::open(path).and_then(|directory| directory.sync_all()).context("sync", path)
}

/// Reads a file that has a `format_version`; `None` when there is none.
pub(super) fn read_versioned<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DirectoryError> {
    let json = match fs::read(path) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DirectoryError::Io { operation: "read", path: path.to_owned(), source }),
    };
    parse_versioned(path, &json).map(Some)
}

/// Reads JSON that has a `format_version`. The version comes first: a newer one may mean anything by the rest.
pub(super) fn parse_versioned<T: DeserializeOwned>(path: &Path, json: &[u8]) -> Result<T, DirectoryError> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let torn = |error: serde_json::Error| DirectoryError::Torn { path: path.to_owned(), problem: error.to_string() };
    let Version { format_version } = serde_json::from_slice(json).map_err(torn)?;
    if format_version > FORMAT_VERSION {
        return Err(DirectoryError::Newer { path: path.to_owned(), expected: FORMAT_VERSION, found: format_version });
    }
    serde_json::from_slice(json).map_err(torn)
}
