//! `host:port` of a broker, as `bootstrap.servers` lists them.

use std::fmt;

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BrokerAddress {
    /// Host name or address, without brackets.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The text was not a list of brokers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddressError {
    /// No broker in the list.
    #[error("expected a comma-separated list of host:port, got an empty one")]
    Empty,
    /// One entry is not an address.
    #[error("expected host:port (kafka-1:9092, [::1]:9092), got {0:?}")]
    Malformed(String),
}

/// librdkafka's default, where an entry names no port.
const DEFAULT_PORT: u16 = 9092;

/// Reads `bootstrap.servers` as librdkafka does: comma-separated, an optional `protocol://` in front, port 9092 by default.
pub(crate) fn parse_list(text: &str) -> Result<Vec<BrokerAddress>, ParseAddressError> {
    let addresses =
        text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(parse).collect::<Result<Vec<_>, _>>()?;
    if addresses.is_empty() { Err(ParseAddressError::Empty) } else { Ok(addresses) }
}

fn parse(entry: &str) -> Result<BrokerAddress, ParseAddressError> {
    let malformed = || ParseAddressError::Malformed(entry.to_owned());
    let address = entry.split_once("://").map_or(entry, |(_, address)| address);
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(malformed)?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(malformed)?) })
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    if host.is_empty() || host.contains(['/', ' ']) {
        return Err(malformed());
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().map_err(|_| malformed())?,
        Some(_) => return Err(malformed()),
    };
    Ok(BrokerAddress { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_parse_as_librdkafka_reads_them() {
        let texts = |list: &str| parse_list(list).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(texts("a:1, b ,,SSL://c:3").unwrap(), ["a:1", "b:9092", "c:3"]);
        assert_eq!(texts("[::1]:5,[fe80::1]").unwrap(), ["[::1]:5", "[fe80::1]:9092"]);
        for wrong in ["a:x", ":1", "a:70000", "::1:80", "[::1", "[::1]5", "a b:1"] {
            assert!(matches!(parse_list(wrong), Err(ParseAddressError::Malformed(_))), "{wrong}");
        }
        assert_eq!(parse_list(" , "), Err(ParseAddressError::Empty));
    }
}
