//! What librdkafka says by itself: mostly that a broker went away, which others tell better; sometimes something that only an
//! operator can mend.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use rdkafka::error::KafkaError;
use tracing::{debug, warn};

/// Each handle says it at every attempt to connect: one line a while is enough.
const INTERVAL: Duration = Duration::from_secs(30);

static LAST: Mutex<Option<Instant>> = Mutex::new(None);

/// Passes on a log line of a handle; `doing` is what the handle is for.
pub(super) fn log(doing: &'static str, facility: &str, line: &str) {
    let refused = facility == "FAIL" && ["authentication", "SSL", "certificate"].iter().any(|word| line.contains(word));
    if refused && due() {
        warn!(
            doing,
            reason = line,
            "the cluster refuses the connection: authentication or TLS failed; see the [kafka] table"
        );
    } else {
        debug!(doing, facility, line, "librdkafka");
    }
}

/// Passes on an error that a handle reported.
pub(super) fn error(doing: &'static str, error: &KafkaError, reason: &str) {
    debug!(doing, %error, reason, "librdkafka");
}

fn due() -> bool {
    let Ok(mut last) = LAST.lock() else { return false };
    let due = last.is_none_or(|last| last.elapsed() >= INTERVAL);
    if due {
        *last = Some(Instant::now());
    }
    due
}
