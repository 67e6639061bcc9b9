//! What is told of a record that failed: in the log, and in its dead letter. Short, whatever the record holds.

use std::{borrow::Cow, error::Error};

use super::{ErrorKind, Panic, ProcessingError};

/// Longest message; an error may quote the record that it refuses.
const MESSAGE_BYTES: usize = 2 * 1024;
/// Longest chain of causes.
const TRACE_BYTES: usize = 8 * 1024;

/// Why a record failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which policy it falls under.
    pub kind: ErrorKind,
    /// The error's name.
    pub exception: Cow<'static, str>,
    /// Its words, of bounded length.
    pub message: String,
    /// The chain of causes, one a line, of bounded length.
    pub trace: String,
}

impl Failure {
    /// An error of processing.
    pub fn of(error: &ProcessingError) -> Self {
        let mut trace = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            trace.push_str("\nCaused by: ");
            trace.push_str(&error.to_string());
            cause = error.source();
        }
        Self {
            kind: error.kind(),
            exception: error.exception().into(),
            message: bounded(error.to_string(), MESSAGE_BYTES),
            trace: bounded(trace, TRACE_BYTES),
        }
    }

    /// A closure that panicked.
    pub fn of_panic(panic: &Panic) -> Self {
        Self::named(ErrorKind::Processing, "holdfast.PanicError", panic.to_string())
    }

    /// A result that its topic does not take.
    pub fn refused_result(message: impl Into<String>) -> Self {
        Self::named(ErrorKind::Production, "holdfast.RecordRefusedError", message.into())
    }

    fn named(kind: ErrorKind, exception: &'static str, message: String) -> Self {
        let message = bounded(message, MESSAGE_BYTES);
        Self { kind, exception: exception.into(), trace: message.clone(), message }
    }
}

/// `text`, cut at a character once it is longer than `limit` bytes, with its whole length.
fn bounded(mut text: String, limit: usize) -> String {
    let length = text.len();
    if length > limit {
        text.truncate(text.floor_char_boundary(limit));
        text.push_str(&format!("… ({length} bytes in all)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_at_a_character() {
        assert_eq!(bounded("short".to_owned(), 10), "short");
        assert_eq!(bounded("ää".to_owned(), 3), "ä… (4 bytes in all)");
        let failure = Failure::refused_result("x".repeat(1 << 20));
        assert!(failure.message.len() < MESSAGE_BYTES + 64);
        assert!(failure.message.ends_with("… (1048576 bytes in all)"));
    }
}
