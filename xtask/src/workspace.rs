//! Where things are: the workspace's root, cargo's target directory, built binaries.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// The target directory that this xtask was built into, and that it builds into.
pub(crate) fn target() -> PathBuf {
    env::current_exe()
        .ok()
        .and_then(|executable| {
            executable.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists()).map(Path::to_owned)
        })
        .unwrap_or_else(|| root().join("target"))
}

/// A built binary of the workspace.
pub(crate) fn binary(profile: &str, name: &str) -> Command {
    Command::new(target().join(profile).join(name))
}
