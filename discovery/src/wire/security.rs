//! Security of the group connections, read from librdkafka's properties: what cannot be honoured here is refused.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, time::Duration};

/// How to connect: what [`Security::from_properties`] made of the properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Security {
    /// TLS settings, where the protocol asks for TLS.
    pub(crate) tls: Option<TlsSettings>,
    /// Credentials, where the protocol asks for SASL.
    pub(crate) sasl: Option<SaslSettings>,
    /// Socket behaviour.
    pub(crate) socket: SocketSettings,
}

/// `ssl.*`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    /// Trust anchors: a file or a directory of PEM files; the system's where `None`.
    pub(crate) ca_location: Option<PathBuf>,
    /// Trust anchors in PEM text.
    pub(crate) ca_pem: Option<String>,
    /// The client's certificate chain.
    pub(crate) certificate: Option<PemSource>,
    /// The client's private key.
    pub(crate) key: Option<PemSource>,
    /// Whether the server's certificate must name the host.
    pub(crate) verify_host: bool,
    /// Whether the server's certificate must be signed by a trust anchor.
    pub(crate) verify_chain: bool,
}

/// PEM in a file or in the property itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum PemSource {
    File(PathBuf),
    Text(String),
}

/// `sasl.*`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SaslSettings {
    pub(crate) mechanism: SaslMechanism,
    pub(crate) username: String,
    pub(crate) password: String,
}

/// The mechanisms that the group connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SaslMechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

impl SaslMechanism {
    /// The registered name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// `socket.*`, `reconnect.*` and `broker.address.family`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketSettings {
    /// Longest time for TCP, TLS and SASL together.
    pub(crate) setup_timeout: Duration,
    /// Longest wait for an answer that the broker does not delay on purpose.
    pub(crate) request_timeout: Duration,
    /// First and longest wait between attempts to connect.
    pub(crate) backoff: (Duration, Duration),
    /// Which addresses of a host are tried.
    pub(crate) family: AddressFamily,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressFamily {
    Any,
    V4,
    V6,
}

impl AddressFamily {
    pub(crate) fn admits(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

// Secrets stay out of logs, whoever prints the settings.
impl fmt::Debug for SaslSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaslSettings")
            .field("mechanism", &self.mechanism)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings")
            .field("ca_location", &self.ca_location)
            .field("client_certificate", &self.certificate.is_some())
            .field("verify_host", &self.verify_host)
            .field("verify_chain", &self.verify_chain)
            .finish_non_exhaustive()
    }
}

/// A property that the group connection cannot honour, or that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecurityError {
    /// The value is none of the possible ones.
    #[error("{property}: expected {expected}, got {got:?}")]
    Value {
        /// The property.
        property: String,
        /// The possible values.
        expected: &'static str,
        /// What was set.
        got: String,
    },
    /// librdkafka could honour the property, the group connection cannot.
    #[error("{property} cannot be honoured by the group connection: {instead}")]
    Unsupported {
        /// The property.
        property: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// A property is missing that another one needs.
    #[error("{property} is not set, but {because}")]
    Missing {
        /// The property.
        property: &'static str,
        /// Who needs it.
        because: &'static str,
    },
    /// Two properties exclude each other.
    #[error("{first} and {second} are both set: keep one")]
    Both {
        /// One of the two.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
}

/// Security properties that are read here. Every other one in the namespaces of [`is_security`] is refused.
const HONOURED: [&str; 17] = [
    "security.protocol",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.key.location",
    "ssl.key.pem",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
    "enable.ssl.certificate.verification",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "socket.timeout.ms",
    "socket.connection.setup.timeout.ms",
    "broker.address.family",
];

fn is_security(property: &str) -> bool {
    ["ssl.", "sasl.", "security.", "https."].iter().any(|prefix| property.starts_with(prefix))
        || matches!(property, "enable.ssl.certificate.verification" | "enable.sasl.oauthbearer.unsecure.jwt")
        // Interceptors can replace how connections are made.
        || property == "plugin.library.paths"
}

impl Security {
    /// Reads librdkafka's properties with librdkafka's defaults.
    pub(crate) fn from_properties(properties: &BTreeMap<String, String>) -> Result<Self, SecurityError> {
        for property in properties.keys().filter(|property| is_security(property)) {
            if !HONOURED.contains(&property.as_str()) {
                return Err(SecurityError::Unsupported { property: property.clone(), instead: instead_of(property) });
            }
        }
        let properties = Properties(properties);
        let protocol = properties.get("security.protocol").unwrap_or("plaintext").to_ascii_lowercase();
        let (tls, sasl) = match protocol.as_str() {
            "plaintext" => (false, false),
            "ssl" => (true, false),
            "sasl_plaintext" => (false, true),
            "sasl_ssl" => (true, true),
            _ => {
                let expected = "plaintext, ssl, sasl_plaintext or sasl_ssl";
                return Err(properties.wrong("security.protocol", expected));
            }
        };
        Ok(Self {
            tls: tls.then(|| read_tls(properties)).transpose()?,
            sasl: sasl.then(|| read_sasl(properties)).transpose()?,
            socket: read_socket(properties)?,
        })
    }
}

fn instead_of(property: &str) -> &'static str {
    if property.starts_with("ssl.keystore") {
        "convert the PKCS#12 keystore to PEM and set ssl.certificate.location and ssl.key.location"
    } else if property.contains("oauthbearer") || property.starts_with("https.") {
        "OAUTHBEARER is not supported; use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    } else if property.contains("kerberos") {
        "GSSAPI (Kerberos) is not supported; use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    } else {
        "remove it; supported are PEM certificates and keys, PLAIN and SCRAM"
    }
}

#[derive(Clone, Copy)]
struct Properties<'a>(&'a BTreeMap<String, String>);

impl<'a> Properties<'a> {
    /// The value, where it is set and not empty.
    fn get(self, property: &str) -> Option<&'a str> {
        self.0.get(property).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn wrong(self, property: &str, expected: &'static str) -> SecurityError {
        let got = self.get(property).unwrap_or_default().to_owned();
        SecurityError::Value { property: property.to_owned(), expected, got }
    }

    fn millis(self, property: &str, default_ms: u64) -> Result<Duration, SecurityError> {
        match self.get(property) {
            None => Ok(Duration::from_millis(default_ms)),
            Some(text) => match text.parse() {
                Ok(ms) => Ok(Duration::from_millis(ms)),
                Err(_) => Err(self.wrong(property, "milliseconds")),
            },
        }
    }
}

fn read_tls(properties: Properties<'_>) -> Result<TlsSettings, SecurityError> {
    if properties.get("ssl.key.password").is_some() {
        return Err(SecurityError::Unsupported {
            property: "ssl.key.password".to_owned(),
            instead: "decrypt the key (openssl pkey -in key.pem -out plain.pem) and remove the password",
        });
    }
    let pem = |location: &'static str, text: &'static str| match (properties.get(location), properties.get(text)) {
        (Some(_), Some(_)) => Err(SecurityError::Both { first: location, second: text }),
        (Some(path), None) => Ok(Some(PemSource::File(path.into()))),
        (None, Some(pem)) => Ok(Some(PemSource::Text(pem.to_owned()))),
        (None, None) => Ok(None),
    };
    let certificate = pem("ssl.certificate.location", "ssl.certificate.pem")?;
    let key = pem("ssl.key.location", "ssl.key.pem")?;
    match (&certificate, &key) {
        (Some(_), None) => {
            let because = "ssl.certificate.location (or .pem) is";
            return Err(SecurityError::Missing { property: "ssl.key.location", because });
        }
        (None, Some(_)) => {
            let because = "ssl.key.location (or .pem) is";
            return Err(SecurityError::Missing { property: "ssl.certificate.location", because });
        }
        _ => {}
    }
    let verify_host = match properties.get("ssl.endpoint.identification.algorithm") {
        None | Some("https") => true,
        Some("none") => false,
        Some(_) => return Err(properties.wrong("ssl.endpoint.identification.algorithm", "https or none")),
    };
    let verify_chain = match properties.get("enable.ssl.certificate.verification").map(str::to_ascii_lowercase) {
        None => true,
        Some(text) => match text.as_str() {
            "true" | "t" | "1" => true,
            "false" | "f" | "0" => false,
            _ => return Err(properties.wrong("enable.ssl.certificate.verification", "true or false")),
        },
    };
    Ok(TlsSettings {
        // "probe" is librdkafka's word for looking in the usual places, which the system's store is.
        ca_location: properties.get("ssl.ca.location").filter(|path| *path != "probe").map(PathBuf::from),
        ca_pem: properties.get("ssl.ca.pem").map(str::to_owned),
        certificate,
        key,
        verify_host,
        verify_chain,
    })
}

fn read_sasl(properties: Properties<'_>) -> Result<SaslSettings, SecurityError> {
    let mechanism = match (properties.get("sasl.mechanism"), properties.get("sasl.mechanisms")) {
        (Some(one), Some(other)) if one != other => {
            return Err(SecurityError::Both { first: "sasl.mechanism", second: "sasl.mechanisms" });
        }
        (one, other) => one.or(other).ok_or(SecurityError::Missing {
            property: "sasl.mechanism",
            because: "security.protocol asks for SASL (librdkafka's default, GSSAPI, is not supported)",
        })?,
    };
    let mechanism = match mechanism.to_ascii_uppercase().as_str() {
        "PLAIN" => SaslMechanism::Plain,
        "SCRAM-SHA-256" => SaslMechanism::ScramSha256,
        "SCRAM-SHA-512" => SaslMechanism::ScramSha512,
        other => {
            return Err(SecurityError::Unsupported {
                property: format!("sasl.mechanism={other}"),
                instead: "use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
            });
        }
    };
    let need = |property| {
        let missing = SecurityError::Missing { property, because: "sasl.mechanism needs it" };
        properties.get(property).map(str::to_owned).ok_or(missing)
    };
    Ok(SaslSettings { mechanism, username: need("sasl.username")?, password: need("sasl.password")? })
}

fn read_socket(properties: Properties<'_>) -> Result<SocketSettings, SecurityError> {
    Ok(SocketSettings {
        // librdkafka waits 30 s; a member that waits longer than its session for a dead broker is of no use.
        setup_timeout: properties.millis("socket.connection.setup.timeout.ms", 5_000)?.max(Duration::from_millis(100)),
        request_timeout: properties.millis("socket.timeout.ms", 5_000)?.max(Duration::from_millis(100)),
        backoff: (
            properties.millis("reconnect.backoff.ms", 100)?.max(Duration::from_millis(10)),
            properties.millis("reconnect.backoff.max.ms", 2_000)?.max(Duration::from_millis(10)),
        ),
        family: match properties.get("broker.address.family") {
            None | Some("any") => AddressFamily::Any,
            Some("v4") => AddressFamily::V4,
            Some("v6") => AddressFamily::V6,
            Some(_) => return Err(properties.wrong("broker.address.family", "any, v4 or v6")),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Security, String> {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        let properties = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Security::from_properties(&properties).map_err(|error| error.to_string())
    }

    #[test]
    fn without_properties_it_is_plaintext() {
        let security = read("client.id=x fetch.min.bytes=1").unwrap();
        assert_eq!((security.tls, security.sasl), (None, None));
        assert_eq!(security.socket.family, AddressFamily::Any);
    }

    #[test]
    fn tls_has_librdkafkas_defaults() {
        let tls = read("security.protocol=SSL").unwrap().tls.unwrap();
        assert!(tls.verify_host && tls.verify_chain && tls.ca_location.is_none());
        for (text, verify_host, verify_chain) in [
            ("ssl.endpoint.identification.algorithm=none", false, true),
            ("ssl.endpoint.identification.algorithm=https", true, true),
            ("enable.ssl.certificate.verification=false", true, false),
            ("ssl.ca.location=probe", true, true),
        ] {
            let tls = read(&format!("security.protocol=ssl {text}")).unwrap().tls.unwrap();
            assert_eq!(
                (tls.verify_host, tls.verify_chain, tls.ca_location),
                (verify_host, verify_chain, None),
                "{text}"
            );
        }
        let tls = read("security.protocol=ssl ssl.ca.location=/ca ssl.certificate.location=/c ssl.key.location=/k");
        let tls = tls.unwrap().tls.unwrap();
        assert_eq!(tls.ca_location, Some("/ca".into()));
        assert!(tls.certificate == Some(PemSource::File("/c".into())) && tls.key == Some(PemSource::File("/k".into())));
    }

    #[test]
    fn sasl_takes_either_name_of_the_mechanism() {
        for (name, mechanism) in [
            ("sasl.mechanism=PLAIN", SaslMechanism::Plain),
            ("sasl.mechanisms=scram-sha-256", SaslMechanism::ScramSha256),
            ("sasl.mechanism=SCRAM-SHA-512 sasl.mechanisms=SCRAM-SHA-512", SaslMechanism::ScramSha512),
        ] {
            let text = format!("security.protocol=sasl_plaintext sasl.username=u sasl.password=p {name}");
            let security = read(&text).unwrap();
            assert_eq!(security.sasl.unwrap().mechanism, mechanism);
            assert_eq!(security.tls, None);
            let both = read(&text.replace("sasl_plaintext", "SASL_SSL")).unwrap();
            assert!(both.tls.is_some() && both.sasl.is_some());
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_a_way_out() {
        for (text, said) in [
            ("security.protocol=tls", "plaintext, ssl, sasl_plaintext or sasl_ssl, got \"tls\""),
            ("security.protocol=sasl_ssl", "sasl.mechanism is not set"),
            ("security.protocol=sasl_ssl sasl.mechanism=GSSAPI", "use PLAIN, SCRAM-SHA-256"),
            ("security.protocol=sasl_ssl sasl.mechanism=OAUTHBEARER", "use PLAIN, SCRAM-SHA-256"),
            ("security.protocol=sasl_ssl sasl.mechanism=PLAIN sasl.password=p", "sasl.username is not set"),
            ("sasl.mechanism=PLAIN sasl.mechanisms=GSSAPI security.protocol=sasl_ssl", "both set"),
            ("sasl.kerberos.keytab=/k", "GSSAPI (Kerberos) is not supported"),
            ("sasl.oauthbearer.config=x", "OAUTHBEARER is not supported"),
            ("enable.sasl.oauthbearer.unsecure.jwt=true", "OAUTHBEARER is not supported"),
            ("ssl.keystore.location=/k.p12", "convert the PKCS#12 keystore"),
            ("ssl.crl.location=/crl", "ssl.crl.location cannot be honoured"),
            ("ssl.cipher.suites=x", "ssl.cipher.suites cannot be honoured"),
            ("plugin.library.paths=p", "plugin.library.paths cannot be honoured"),
            ("security.protocol=ssl ssl.key.password=x", "decrypt the key"),
            ("security.protocol=ssl ssl.key.location=/k", "ssl.certificate.location is not set"),
            ("security.protocol=ssl ssl.certificate.location=/c", "ssl.key.location is not set"),
            ("security.protocol=ssl ssl.key.location=/k ssl.key.pem=x ssl.certificate.pem=y", "both set"),
            ("security.protocol=ssl ssl.endpoint.identification.algorithm=ldap", "https or none"),
            ("security.protocol=ssl enable.ssl.certificate.verification=perhaps", "true or false"),
            ("socket.timeout.ms=soon", "milliseconds, got \"soon\""),
            ("broker.address.family=v5", "any, v4 or v6"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let text = "security.protocol=sasl_ssl sasl.mechanism=PLAIN sasl.username=u sasl.password=hush \
                    ssl.certificate.pem=c ssl.key.pem=hush";
        assert!(!format!("{:?}", read(text).unwrap()).contains("hush"));
    }
}
