//! The counts as a whole service: what a user of this project writes for them, with its listeners.

use holdfast::{Service, app};

use super::{RunFlags, application};
use crate::error::{Result, other};

/// Serves until SIGTERM. `--set listen=…` says where.
pub(crate) fn run(flags: &RunFlags) -> Result<()> {
    let settings = application::settings(flags)?;
    let flags = flags.clone();
    app::run(&Service::new(move || application::topology(&flags)).name("holdfast-bench"), settings).map_err(other)
}
