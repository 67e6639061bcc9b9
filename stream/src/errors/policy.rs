//! What to do about a record that fails.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ErrorKind;

/// What happens to a record that fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorPolicy {
    /// Stop the thread with the error.
    Fail,
    /// Skip the record, count it, move on.
    Continue,
    /// Write the record to the dead-letter topic, move on.
    DeadLetter,
    /// Try again, then something else.
    Retry {
        /// Attempts in all, the first one included; at least 1.
        max_attempts: u32,
        /// Pause before each further attempt.
        backoff: Duration,
        /// What to do when the last attempt failed too.
        then: Box<ErrorPolicy>,
    },
}

impl ErrorPolicy {
    /// What to do after attempt number `attempt` (from 1) failed: `Some(pause)` to try again, or the final policy.
    pub fn after_attempt(&self, attempt: u32) -> Result<Duration, &ErrorPolicy> {
        match self {
            Self::Retry { max_attempts, backoff, .. } if attempt < *max_attempts => Ok(*backoff),
            Self::Retry { max_attempts, then, .. } => {
                then.after_attempt(attempt.saturating_sub((*max_attempts).max(1) - 1))
            }
            other => Err(other),
        }
    }

    /// What to do when every attempt has failed.
    pub fn last(&self) -> &ErrorPolicy {
        match self {
            Self::Retry { then, .. } => then.last(),
            other => other,
        }
    }
}

/// The policy per kind of error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorHandlers {
    /// Records that cannot be read.
    pub deserialization: ErrorPolicy,
    /// Records that a user's closure refuses.
    pub processing: ErrorPolicy,
    /// Results that cannot be written (encoding, size, time stamp): the policy is for the record that made them. What is no
    /// record's fault, such as a missing permission, is not for a policy.
    pub production: ErrorPolicy,
}

impl Default for ErrorHandlers {
    /// Every bad record goes to the dead-letter topic: nothing that a producer sends stops an instance.
    fn default() -> Self {
        Self {
            deserialization: ErrorPolicy::DeadLetter,
            processing: ErrorPolicy::DeadLetter,
            production: ErrorPolicy::DeadLetter,
        }
    }
}

impl ErrorHandlers {
    /// The policy for `kind`. A failing store is never skipped over: that would lose updates.
    pub fn policy(&self, kind: ErrorKind) -> &ErrorPolicy {
        match kind {
            ErrorKind::Deserialization => &self.deserialization,
            ErrorKind::Processing => &self.processing,
            ErrorKind::Production => &self.production,
            ErrorKind::Store => &ErrorPolicy::Fail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_end_in_the_last_policy() {
        let backoff = Duration::from_millis(5);
        let policy = ErrorPolicy::Retry { max_attempts: 3, backoff, then: Box::new(ErrorPolicy::DeadLetter) };
        assert_eq!(policy.after_attempt(1), Ok(backoff));
        assert_eq!(policy.after_attempt(2), Ok(backoff));
        assert_eq!(policy.after_attempt(3), Err(&ErrorPolicy::DeadLetter));
        assert_eq!(policy.last(), &ErrorPolicy::DeadLetter);
        assert_eq!(ErrorPolicy::Fail.after_attempt(1), Err(&ErrorPolicy::Fail));
        let once = ErrorPolicy::Retry { max_attempts: 1, backoff, then: Box::new(ErrorPolicy::Continue) };
        assert_eq!(once.after_attempt(1), Err(&ErrorPolicy::Continue));
    }

    #[test]
    fn a_store_error_is_never_skipped() {
        let lenient = ErrorHandlers {
            deserialization: ErrorPolicy::Continue,
            processing: ErrorPolicy::Continue,
            production: ErrorPolicy::Continue,
        };
        assert_eq!(lenient.policy(ErrorKind::Store), &ErrorPolicy::Fail);
        assert_eq!(lenient.policy(ErrorKind::Processing), &ErrorPolicy::Continue);
    }
}
