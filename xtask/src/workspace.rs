//! Where things are: the workspace's root, cargo's target directory, built binaries.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The workspace's root: of the clone that cargo runs this for. With a shared target folder it may have been built in another one.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().unwrap_or(&manifest).to_owned()
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
