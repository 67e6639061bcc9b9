//! `describe`: the topology as text or as a picture.

use std::io::Write;

use super::{Failure, Invocation, Service};

/// Prints the topology with the topics that the settings name.
pub(crate) fn describe(service: &Service, invocation: &Invocation) -> Result<(), Failure> {
    let settings = invocation.settings(service, invocation.sources())?;
    let description = service.topology(&settings.domain)?.describe();
    let text = match invocation.text("format") {
        Some("mermaid") => description.mermaid(),
        Some("dot") => description.dot(),
        Some("json") => serde_json::to_string_pretty(&description)?,
        _ => description.to_string(),
    };
    writeln!(std::io::stdout().lock(), "{}", text.trim_end())?;
    Ok(())
}
