//! Errors of processing, what is to be done about them, and the dead-letter record that tells of one.

mod dead_letter;
mod outcome;
mod policy;
mod processing;

pub use dead_letter::{DeadLetter, DeadLetterQueue, EXCEPTION, MESSAGE, OFFSET, PARTITION, STACKTRACE, TOPIC};
pub use outcome::Outcome;
pub use policy::{ErrorHandlers, ErrorPolicy};
pub use processing::{ErrorKind, ProcessingError, RecordPart};

/// Any error that user code returns.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
