//! What a read may ask for: how fresh, from which position on, how long to wait, what to do when the key is elsewhere.

use std::time::Duration;

use holdfast_types::Position;

use super::{QueryError, QueryLimits, position_text};

/// The staleness that a read allows when it says nothing.
pub const DEFAULT_MAX_STALENESS: Duration = Duration::from_secs(5);

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// As of a moment after the request came in: the coordinator confirmed the active since.
    Strong,
    /// Not older than this, and, if given, not further behind than `max_lag` records.
    Bounded {
        /// Oldest acceptable answer.
        max_staleness: Duration,
        /// Most records by which the copy may be behind.
        max_lag: Option<u64>,
    },
    /// Whatever the copy at hand holds, however old. A copy that is still restoring is never asked.
    Any,
}

impl Default for Consistency {
    fn default() -> Self {
        Self::Bounded { max_staleness: DEFAULT_MAX_STALENESS, max_lag: None }
    }
}

/// What to do with a key that another instance owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Ask the owner on the caller's behalf.
    #[default]
    Proxy,
    /// Answer with the owner's address.
    Redirect,
    /// Answer from the copy here, or not at all: what comes from another instance is never forwarded again.
    Local,
}

/// Options of a read. The default is what a request without options gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// How fresh the answer has to be.
    pub consistency: Consistency,
    /// Wait, up to the timeout, until the copy reflects this. Only entries of the key's partition count.
    pub min_position: Option<Position>,
    /// Time limit; `None` takes [`QueryLimits::default_timeout`].
    pub timeout: Option<Duration>,
    /// What to do with a key that another instance owns.
    pub routing: Routing,
}

impl ReadOptions {
    /// The default, but for any staleness: what an endpoint uses that would rather show an old answer than none.
    pub fn any() -> Self {
        Self { consistency: Consistency::Any, ..Self::default() }
    }

    /// Strong reads.
    pub fn strong() -> Self {
        Self { consistency: Consistency::Strong, ..Self::default() }
    }
}

/// Which consistency a request named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsistencyKind {
    /// See [`Consistency::Strong`].
    Strong,
    /// See [`Consistency::Bounded`].
    Bounded,
    /// See [`Consistency::Any`].
    Any,
}

/// Options as they come in, one by one, from parameters, headers or fields.
#[derive(Clone, Debug, Default)]
pub struct OptionsBuilder {
    /// `consistency`.
    pub consistency: Option<ConsistencyKind>,
    /// `max_staleness`.
    pub max_staleness: Option<Duration>,
    /// `max_lag`.
    pub max_lag: Option<u64>,
    /// `min_position`.
    pub min_position: Option<Position>,
    /// `timeout`.
    pub timeout: Option<Duration>,
    /// `routing`.
    pub routing: Option<Routing>,
}

impl OptionsBuilder {
    /// Takes one option by the name that it has on a URL; `false` when there is no such option.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool, QueryError> {
        match name {
            "consistency" => {
                self.consistency = Some(match value {
                    "strong" => ConsistencyKind::Strong,
                    "bounded" => ConsistencyKind::Bounded,
                    "any" => ConsistencyKind::Any,
                    _ => return Err(QueryError::parameter("consistency", "strong, bounded or any", value)),
                });
            }
            "max_staleness" => self.max_staleness = Some(parse_duration("max_staleness", value)?),
            "max_lag" => {
                let expected = "a number of records";
                self.max_lag = Some(value.parse().map_err(|_| QueryError::parameter("max_lag", expected, value))?);
            }
            "min_position" => self.min_position = Some(position_text::parse(value)?),
            "timeout" => self.timeout = Some(parse_duration("timeout", value)?),
            "routing" => {
                self.routing = Some(match value {
                    "proxy" => Routing::Proxy,
                    "redirect" => Routing::Redirect,
                    _ => return Err(QueryError::parameter("routing", "proxy or redirect", value)),
                });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Checks that the options go together and are within bounds.
    pub fn build(self, limits: &QueryLimits) -> Result<ReadOptions, QueryError> {
        let kind = self.consistency.unwrap_or(ConsistencyKind::Bounded);
        if kind != ConsistencyKind::Bounded {
            if self.max_staleness.is_some() {
                return Err(QueryError::parameter("max_staleness", "none unless consistency=bounded", "one"));
            }
            if self.max_lag.is_some() {
                return Err(QueryError::parameter("max_lag", "none unless consistency=bounded", "one"));
            }
        }
        if let Some(timeout) = self.timeout
            && (timeout.is_zero() || timeout > limits.max_timeout)
        {
            let expected = format!("1 to {} ms", limits.max_timeout.as_millis());
            return Err(QueryError::parameter("timeout", &expected, &format!("{} ms", timeout.as_millis())));
        }
        Ok(ReadOptions {
            consistency: match kind {
                ConsistencyKind::Strong => Consistency::Strong,
                ConsistencyKind::Any => Consistency::Any,
                ConsistencyKind::Bounded => Consistency::Bounded {
                    max_staleness: self.max_staleness.unwrap_or(limits.default_max_staleness),
                    max_lag: self.max_lag,
                },
            },
            min_position: self.min_position.filter(|position| !position.is_empty()),
            timeout: self.timeout,
            routing: self.routing.unwrap_or(limits.default_routing),
        })
    }
}

/// Milliseconds, or a number with `ms`, `s` or `m`.
fn parse_duration(name: &'static str, text: &str) -> Result<Duration, QueryError> {
    let error = || QueryError::parameter(name, "milliseconds (1500) or a number with ms, s or m (1500ms, 5s)", text);
    let (digits, unit_ms) = if let Some(digits) = text.strip_suffix("ms") {
        (digits, 1)
    } else if let Some(digits) = text.strip_suffix('s') {
        (digits, 1000)
    } else if let Some(digits) = text.strip_suffix('m') {
        (digits, 60_000)
    } else {
        (text, 1)
    };
    let number: u64 = digits.parse().map_err(|_| error())?;
    // "+5" parses as a number; nobody means it.
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(error());
    }
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(pairs: &[(&str, &str)]) -> Result<ReadOptions, QueryError> {
        let mut builder = OptionsBuilder::default();
        for (name, value) in pairs {
            assert!(builder.set(name, value)?, "{name}");
        }
        builder.build(&QueryLimits::default())
    }

    #[test]
    fn options_parse() {
        assert_eq!(build(&[]).unwrap(), ReadOptions::default());
        assert_eq!(build(&[("consistency", "any")]).unwrap(), ReadOptions::any());
        assert_eq!(build(&[("consistency", "strong")]).unwrap(), ReadOptions::strong());
        let bounded = build(&[("max_staleness", "250"), ("max_lag", "7"), ("timeout", "2s")]).unwrap();
        assert_eq!(
            bounded.consistency,
            Consistency::Bounded { max_staleness: Duration::from_millis(250), max_lag: Some(7) }
        );
        assert_eq!(bounded.timeout, Some(Duration::from_secs(2)));
        assert_eq!(build(&[("routing", "redirect")]).unwrap().routing, Routing::Redirect);
        assert!(!OptionsBuilder::default().set("consistancy", "any").unwrap());
    }

    #[test]
    fn wrong_options_are_named() {
        for (name, value) in [
            ("consistency", "linearizable"),
            ("max_staleness", "-1"),
            ("max_staleness", "5 s"),
            ("max_staleness", "+5"),
            ("max_staleness", "99999999999999999999s"),
            ("max_lag", "x"),
            ("timeout", "0"),
            ("timeout", "61m"),
            ("routing", "anywhere"),
            ("min_position", "items"),
        ] {
            let error = build(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(build(&[("consistency", "any"), ("max_staleness", "5")]).is_err());
        assert!(build(&[("consistency", "strong"), ("max_lag", "5")]).is_err());
    }
}
