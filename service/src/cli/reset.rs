//! `reset`: forget what an application has computed, here or everywhere.

use std::{io::Write, time::Duration};

use holdfast_store::StateDirectory;
use holdfast_stream::kafka::admin::TopicAdmin;

use super::{Failure, Invocation, Service, generate::connection};

const DEADLINE: Duration = Duration::from_secs(15);

/// Removes local state; with `--topics` also the application's internal topics and its group, so that it starts over.
pub(crate) fn reset(service: &Service, invocation: &Invocation) -> Result<(), Failure> {
    let settings = invocation.settings(service, invocation.sources())?;
    let application_id = settings.application_id.as_str();
    let state = settings.state_dir.join(application_id);
    let everywhere = invocation.switch("topics");
    let really = !invocation.switch("dry-run");
    let mut out = std::io::stdout().lock();
    let verb = if really { "removed" } else { "would remove" };

    let mut internal = Vec::new();
    let mut admin = None;
    if everywhere {
        let handle = TopicAdmin::new(&connection(&settings, "reset"))?;
        internal = handle.topics(DEADLINE)?;
        internal.retain(|topic| is_internal(topic, application_id));
        internal.sort();
        admin = Some(handle);
    }
    if really {
        // Local state first: its lock shows whether an instance of this machine is alive.
        let tasks = StateDirectory::reset(&settings.state_dir, application_id)?;
        writeln!(out, "{verb} {} ({} tasks)", state.display(), tasks.len())?;
        if let Some(admin) = &admin {
            // The group before the topics: it cannot be deleted while a member, on whatever machine, is alive.
            admin.delete_group(application_id, DEADLINE)?;
            admin.delete(&internal, DEADLINE)?;
        }
    } else {
        writeln!(out, "{verb} {}", state.display())?;
    }
    if everywhere {
        writeln!(out, "{verb} the committed offsets of group {application_id}")?;
        for topic in &internal {
            writeln!(out, "{verb} topic {topic}")?;
        }
    }
    Ok(())
}

/// `<application id>-<name>-changelog` and `-repartition`.
fn is_internal(topic: &str, application_id: &str) -> bool {
    topic
        .strip_prefix(application_id)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|rest| rest.ends_with("-changelog") || rest.ends_with("-repartition"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_topics_carry_the_application_id() {
        assert!(is_internal("app-Store-changelog", "app"));
        assert!(is_internal("app-KSTREAM-AGGREGATE-STATE-STORE-0000000003-repartition", "app"));
        assert!(!is_internal("app2-Store-changelog", "app"));
        assert!(!is_internal("app-items", "app"));
        assert!(!is_internal("items", "app"));
    }
}
