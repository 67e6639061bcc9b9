//! A task at work: its input, its graph, and what it seals.

mod active;
mod seal;

pub(crate) use active::TaskParts;
pub use active::{ActiveTask, Input, PoisonedRecord, TaskError};
pub use seal::{ResolvedSink, Seal, TaskSeal};
