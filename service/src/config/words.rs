//! How the words of single settings are read.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use holdfast_types::Endpoint;

use super::{Advertise, ErrorPolicySetting, LogFormat, OffsetReset, OnFatalError, ProcessingGuarantee, units};

/// What durations within bounds are called, and how they are read.
pub(super) fn duration_in(ms: RangeInclusive<u64>) -> (String, impl Fn(&str) -> Option<Duration>) {
    let expected = format!("milliseconds from {} to {} (or with a unit: 5s, 10min)", ms.start(), ms.end());
    let inside = move |value: &Duration| value.as_millis().try_into().is_ok_and(|millis: u64| ms.contains(&millis));
    (expected, move |text: &str| units::duration(text).filter(&inside))
}

pub(super) fn legal_topic(text: &str) -> bool {
    (1..=249).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && text != "."
        && text != ".."
}

pub(super) fn is_unspecified(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_unspecified())
}

pub(super) fn show_host(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

pub(super) fn advertised(text: &str) -> Option<Advertise> {
    if let Ok(Endpoint { host, port }) = text.parse() {
        // Port 0 is "whatever is bound", as in `listen`.
        return (!is_unspecified(&host)).then(|| Advertise { host, port: (port != 0).then_some(port) });
    }
    let host = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let legal = match host.parse::<std::net::IpAddr>() {
        Ok(address) => !address.is_unspecified(),
        Err(_) => {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        }
    };
    legal.then(|| Advertise { host: host.to_owned(), port: None })
}

pub(super) fn endpoints(text: &str) -> Option<Vec<Endpoint>> {
    let all: Option<Vec<Endpoint>> =
        text.split(',').map(|part| part.trim().parse().ok().filter(|endpoint: &Endpoint| endpoint.port != 0)).collect();
    all.filter(|all| !all.is_empty())
}

pub(super) fn tags(text: &str) -> Option<BTreeMap<String, String>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            (!name.trim().is_empty()).then(|| (name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}

pub(super) fn guarantee(text: &str) -> Option<ProcessingGuarantee> {
    match text {
        // Kafka Streams' name is taken too: whoever comes from there types it.
        "exactly_once" | "exactly_once_v2" => Some(ProcessingGuarantee::ExactlyOnce),
        "at_least_once" => Some(ProcessingGuarantee::AtLeastOnce),
        _ => None,
    }
}

pub(super) fn offset_reset(text: &str) -> Option<OffsetReset> {
    match text {
        "earliest" => Some(OffsetReset::Earliest),
        "latest" => Some(OffsetReset::Latest),
        "none" => Some(OffsetReset::None),
        _ => None,
    }
}

pub(super) fn on_fatal_error(text: &str) -> Option<OnFatalError> {
    match text {
        "replace" => Some(OnFatalError::Replace),
        "exit" => Some(OnFatalError::Exit),
        _ => None,
    }
}

pub(super) fn log_format(text: &str) -> Option<LogFormat> {
    match text {
        "auto" => Some(LogFormat::Auto),
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// `fail`, `continue`, `dead_letter`, `retry:ATTEMPTS:BACKOFF:THEN`.
pub(super) fn policy(text: &str) -> Option<ErrorPolicySetting> {
    match text {
        "fail" => return Some(ErrorPolicySetting::Fail),
        "continue" => return Some(ErrorPolicySetting::Continue),
        "dead_letter" => return Some(ErrorPolicySetting::DeadLetter),
        _ => {}
    }
    let mut parts = text.strip_prefix("retry:")?.splitn(3, ':');
    let attempts = parts.next()?.parse().ok().filter(|attempts| (1..=1_000).contains(attempts))?;
    let backoff = units::duration(parts.next()?).filter(|backoff| *backoff <= Duration::from_secs(60))?;
    let then = policy(parts.next()?).filter(|then| !matches!(then, ErrorPolicySetting::Retry { .. }))?;
    Some(ErrorPolicySetting::Retry { attempts, backoff, then: Box::new(then) })
}
