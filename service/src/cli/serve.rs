//! `serve`, `demo` and `check-config`: settings on the way to an instance.

use std::io::Write;

use super::{Failure, Invocation, Service};
use crate::app;

/// Runs an instance until SIGTERM or SIGINT.
pub(crate) fn serve(service: &Service, invocation: &Invocation) -> Result<(), Failure> {
    let settings = invocation.settings(service, invocation.sources())?;
    if invocation.switch("print-config") {
        write!(std::io::stdout().lock(), "{}", settings.print())?;
        return Ok(());
    }
    app::run(service, settings).map_err(Failure::from)
}

/// Runs the demo.
#[cfg(feature = "embedded")]
pub(crate) fn demo(service: &Service, invocation: &Invocation) -> Result<(), Failure> {
    crate::demo::run(service, invocation)
}

/// Says that this build has no broker of its own.
#[cfg(not(feature = "embedded"))]
pub(crate) fn demo(_service: &Service, _invocation: &Invocation) -> Result<(), Failure> {
    Err(Failure::new("this build has no embedded broker: build it with the feature `embedded`"))
}

/// Checks settings and topology, and says so.
pub(crate) fn check_config(service: &Service, invocation: &Invocation) -> Result<(), Failure> {
    let settings = invocation.settings(service, invocation.sources())?;
    let topology = service.topology(&settings.domain)?;
    let mut out = std::io::stdout().lock();
    if invocation.switch("print-config") {
        write!(out, "{}", settings.print())?;
        return Ok(());
    }
    writeln!(
        out,
        "settings and topology are sound: application {}, {} sub-topologies, {} stores",
        settings.application_id,
        topology.subtopologies().len(),
        topology.stores().len()
    )?;
    Ok(())
}
