//! State directories as volumes: deleted, copied, put back.

use std::{fs, path::Path};

/// Deletes a state directory; a missing one is no error.
pub fn remove(directory: &Path) {
    if directory.exists() {
        fs::remove_dir_all(directory).unwrap_or_else(|e| panic!("cannot remove {}: {e}", directory.display()));
    }
}

/// Copies a state directory that no process uses.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap_or_else(|e| panic!("cannot create {}: {e}", to.display()));
    for entry in fs::read_dir(from).unwrap_or_else(|e| panic!("cannot read {}: {e}", from.display())) {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap_or_else(|e| panic!("cannot copy to {}: {e}", target.display()));
        }
    }
}

/// All files below a directory, relative to it, with their lengths: to see that nothing was deleted.
pub fn files(directory: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    collect(directory, directory, &mut found);
    found.sort();
    found
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<(String, u64)>) {
    for entry in fs::read_dir(directory).unwrap_or_else(|e| panic!("cannot read {}: {e}", directory.display())) {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            collect(root, &entry.path(), found);
        } else {
            let name = entry.path().strip_prefix(root).unwrap().display().to_string();
            found.push((name, entry.metadata().unwrap().len()));
        }
    }
}
