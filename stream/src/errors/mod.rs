//! Errors of processing, what is to be done about them, and the dead-letter record that tells of one.

mod dead_letter;
mod failure;
mod outcome;
mod panic;
mod policy;
mod processing;
mod sparingly;

pub use dead_letter::{
    DeadLetter, DeadLetterQueue, EXCEPTION, LEFT_OUT, MESSAGE, OFFSET, PARTITION, STACKTRACE, TIMESTAMP, TOPIC,
};
pub use failure::Failure;
pub use outcome::Outcome;
pub use panic::Panic;
pub(crate) use panic::catch;
pub use policy::{ErrorHandlers, ErrorPolicy};
pub use processing::{ErrorKind, ProcessingError, RecordPart};
pub(crate) use sparingly::Sparingly;

/// Any error that user code returns.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
