//! Where an instance can be reached.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// `host:port`; an IPv6 host stands in brackets (`[::1]:7070`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port; 0 only in settings, where it means "choose one".
    pub port: u16,
}

impl Endpoint {
    /// `host:port`.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The text was not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected host:port (127.0.0.1:7070, [::1]:7070), got {0:?}")]
pub struct ParseEndpointError(pub String);

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseEndpointError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let legal = match bracketed {
            Some(inner) => inner.contains(':'),
            None => !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']),
        };
        if !legal || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        Ok(Self { host: bracketed.unwrap_or(host).to_owned(), port: port.parse().map_err(|_| error())? })
    }
}

impl TryFrom<String> for Endpoint {
    type Error = ParseEndpointError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["127.0.0.2:7070", "pod-0.svc:80", "[::1]:7070", "h:0"] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()).as_deref(), Ok(text));
        }
        for wrong in ["", "h", ":1", "h:", "h:x", "h:65536", "::1:80", "[h]:1", "a b:1", "h:+1"] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong:?}");
        }
    }
}
