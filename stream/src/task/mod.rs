//! A task at work: its input, its graph, and what it seals.

mod active;
mod careful;
mod error;
mod input;
mod report;
mod seal;
mod watch;

pub use active::ActiveTask;
pub(crate) use active::{SliceLimits, TaskParts};
pub use error::{Burial, Mark, MarkedRecord, TaskError};
pub use input::Input;
pub use seal::{ResolvedSink, Seal, TaskSeal};
pub(crate) use watch::{RecordInHand, Watcher};
