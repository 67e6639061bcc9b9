//! What the compiler and clippy cannot check: arrows between crates, and habits that keep files readable.

mod arrows;
mod files;

use std::{fs, path::Path};

use crate::{process::Failure, workspace};

/// `cargo xtask tidy`.
pub(crate) fn tidy() -> Result<(), Failure> {
    let root = workspace::root();
    let mut sources = Vec::new();
    collect(&root, &root, &mut sources).map_err(|e| Failure::new(format!("cannot read the workspace: {e}")))?;
    sources.sort();
    let mut complaints = Vec::new();
    for (name, text) in &sources {
        if name.ends_with("Cargo.toml") {
            complaints.extend(arrows::check(name, text));
        }
        complaints.extend(files::check(name, text));
    }
    if complaints.is_empty() {
        println!("tidy: {} files", sources.len());
        return Ok(());
    }
    Err(Failure::new(format!("tidy: {} complaints\n{}", complaints.len(), complaints.join("\n"))))
}

/// Text files of the workspace with their names relative to the root.
fn collect(root: &Path, directory: &Path, found: &mut Vec<(String, String)>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && name != "target" {
                collect(root, &path, found)?;
            }
        } else if is_ours(&path) {
            let relative = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            found.push((relative, fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

fn is_ours(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned());
    matches!(extension.as_deref(), Some("rs" | "toml" | "proto" | "md" | "yaml" | "yml" | "sh"))
}
