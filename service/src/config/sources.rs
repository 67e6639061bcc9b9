//! Where settings come from: a TOML file, the environment, flags; plain maps to those who read them.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use super::{ENVIRONMENT_PREFIX, SettingError, flag_name};

/// A source of named texts. The environment is one; tests use a map.
pub trait Strings {
    /// The text under this name.
    fn get(&self, name: &str) -> Option<String>;
    /// Every name, so that unknown ones can be refused.
    fn names(&self) -> Vec<String>;
}

impl Strings for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).cloned()
    }
    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// Computed from the surroundings or another setting; the text says how.
    Derived(String),
    /// The settings file.
    File(PathBuf),
    /// An environment variable, by name.
    Environment(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Derived(how) => f.write_str(how),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// What a service brings along in place of built-in defaults.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// The service's name, which is the default of `application_id`.
    pub service_name: String,
}

/// A text and its origin.
pub(crate) type Sourced = (String, Origin);

/// All sources, merged: the last to name a key has won.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub(crate) values: BTreeMap<String, Sourced>,
    pub(crate) kafka: BTreeMap<String, Sourced>,
    pub(crate) errors: Vec<SettingError>,
    /// Address of the pod, as the environment's `POD_IP` has it.
    pub(crate) pod_ip: Option<String>,
    /// Name of the machine or container, as the environment's `HOSTNAME` has it.
    pub(crate) hostname: Option<String>,
}

impl Sources {
    /// Nothing but defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a settings file. Top-level keys are settings, the table `[kafka]` is librdkafka's.
    pub fn file(mut self, path: &Path) -> Self {
        match std::fs::read_to_string(path) {
            Ok(text) => self.toml(path, &text),
            Err(error) => {
                self.errors.push(SettingError::File { path: path.to_owned(), reason: error.to_string() });
                self
            }
        }
    }

    /// Adds the text of a settings file.
    pub fn toml(mut self, path: &Path, text: &str) -> Self {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                let reason = error.to_string().trim_end().to_owned();
                self.errors.push(SettingError::Syntax { path: path.to_owned(), reason });
                return self;
            }
        };
        let origin = Origin::File(path.to_owned());
        for (key, value) in table {
            match value {
                toml::Value::Table(properties) if key == "kafka" => {
                    let mut flat = Vec::new();
                    flatten("", toml::Value::Table(properties), &mut flat);
                    for (property, value) in flat {
                        self.put_kafka(property, value, origin.clone());
                    }
                }
                value => self.put(key, value, origin.clone()),
            }
        }
        self
    }

    /// Adds the environment: `HOLDFAST_…`, and `POD_IP` and `HOSTNAME` for the advertised address.
    /// `HOLDFAST_KAFKA_SASL_PASSWORD` is the property `sasl.password`.
    pub fn environment(mut self, environment: &dyn Strings) -> Self {
        for name in environment.names() {
            let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            if NOT_SETTINGS.contains(&rest) || is_kubernetes_service_link(rest) {
                continue;
            }
            let Some(value) = environment.get(&name) else { continue };
            let origin = Origin::Environment(name.clone());
            match rest.strip_prefix("KAFKA_") {
                Some(property) => {
                    self.kafka.insert(property.to_ascii_lowercase().replace('_', "."), (value, origin));
                }
                None => {
                    self.values.insert(rest.to_ascii_lowercase(), (value, origin));
                }
            }
        }
        let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        self.pod_ip = set("POD_IP").or(self.pod_ip);
        self.hostname = set("HOSTNAME").or(self.hostname);
        self
    }

    /// Adds one flag.
    pub fn flag(mut self, key: &str, value: impl Into<String>) -> Self {
        let origin = Origin::Flag(format!("--{}", flag_name(key)));
        self.values.insert(key.to_owned(), (value.into(), origin));
        self
    }

    /// Adds a librdkafka property, `--kafka property=value`.
    pub fn kafka_flag(mut self, pair: &str) -> Self {
        let origin = Origin::Flag("--kafka".to_owned());
        match pair.split_once('=') {
            Some((property, value)) if !property.is_empty() => {
                self.kafka.insert(property.to_owned(), (value.to_owned(), origin));
            }
            _ => self.errors.push(SettingError::Value {
                key: "kafka".to_owned(),
                origin,
                expected: "PROPERTY=VALUE (--kafka security.protocol=ssl)".to_owned(),
                got: pair.to_owned(),
            }),
        }
        self
    }

    /// Sets a key as if a later default had named it; used by commands that know better, such as the demo.
    pub fn derived(mut self, key: &str, value: impl Into<String>, how: &str) -> Self {
        self.values.entry(key.to_owned()).or_insert_with(|| (value.into(), Origin::Derived(how.to_owned())));
        self
    }

    /// Sets a librdkafka property unless a source named it.
    #[must_use]
    pub fn kafka_default(mut self, property: &str, value: &str) -> Self {
        let origin = Origin::Derived("set by the command".to_owned());
        self.kafka.entry(property.to_owned()).or_insert_with(|| (value.to_owned(), origin));
        self
    }

    fn put(&mut self, key: String, value: toml::Value, origin: Origin) {
        let expected = match scalar(&value) {
            Ok(text) => {
                self.values.insert(key, (text, origin));
                return;
            }
            Err(expected) => expected,
        };
        self.errors.push(SettingError::Value { key, origin, expected, got: value.to_string() });
    }

    fn put_kafka(&mut self, property: String, value: toml::Value, origin: Origin) {
        match scalar(&value) {
            Ok(text) => {
                self.kafka.insert(property, (text, origin));
            }
            Err(expected) => self.errors.push(SettingError::Value {
                key: format!("kafka.{property}"),
                origin,
                expected,
                got: value.to_string(),
            }),
        }
    }
}

/// Variables with our prefix that are no settings: what commands read, and what the tests do, in whose shells people run
/// instances too.
const NOT_SETTINGS: &[&str] = &["CONFIG", "SERVER", "BIN", "KAFKA_LIB", "SEED", "SOAK"];

/// Kubernetes puts `HOLDFAST_SERVICE_HOST`, `HOLDFAST_PORT_7070_TCP_ADDR` and the like into every pod beside a Service
/// called `holdfast` or `holdfast-…`; these are not meant for us. No setting has a key of this form.
fn is_kubernetes_service_link(rest: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let port = |words: &[&str]| match words {
        ["PORT"] => true,
        ["PORT", number, protocol, rest @ ..] => {
            number.bytes().all(|b| b.is_ascii_digit())
                && matches!(*protocol, "TCP" | "UDP" | "SCTP")
                && matches!(rest, [] | ["PROTO" | "PORT" | "ADDR"])
        }
        _ => false,
    };
    (0..words.len()).any(|start| {
        let tail = &words[start..];
        matches!(tail, ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..]) || port(tail)
    })
}

/// Dotted keys in TOML make nested tables: `sasl.password = "…"` is `sasl.password` again.
fn flatten(prefix: &str, value: toml::Value, out: &mut Vec<(String, toml::Value)>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                flatten(&name, value, out);
            }
        }
        value => out.push((prefix.to_owned(), value)),
    }
}

/// A TOML value as the text that a flag would carry; lists are joined by commas.
fn scalar(value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(flag) => Ok(flag.to_string()),
        toml::Value::Array(items) => items
            .iter()
            .map(|item| match item {
                toml::Value::Array(_) => Err("a flat list".to_owned()),
                item => scalar(item),
            })
            .collect::<Result<Vec<_>, _>>()
            .map(|items| items.join(",")),
        toml::Value::Table(_) => Err("a plain value; the only table is [kafka]".to_owned()),
        toml::Value::Datetime(_) => Err("a text, number or boolean".to_owned()),
    }
}
