//! Settings: one table of keys, read from defaults, a TOML file, the environment and flags, checked, with their origin.
//!
//! A key such as `state_dir` is `state_dir` in the file, `HOLDFAST_STATE_DIR` in the environment and `--state-dir` on the
//! command line. Later sources win: defaults < file < environment < flags. Unknown keys, wrong units and values out of
//! bounds are errors that say what was expected, what came, and from where; all of them are reported at once.

mod cgroup;
mod domain;
mod error;
mod kafka;
mod print;
mod resolve;
mod settings;
mod sources;
mod table;
mod units;
mod words;

pub use domain::{DomainSetting, DomainSettings};
pub use error::{SettingError, SettingErrors};
pub use kafka::KafkaProperties;
pub use settings::{
    Advertise, ErrorPolicySetting, ListenSettings, LogFormat, OffsetReset, OnFatalError, ProcessingGuarantee,
    ReadyWhen, RequestBounds, RoutingMode, Secret, Settings, TopicSettings,
};
pub use sources::{Defaults, Origin, Sources, Strings};
pub use table::{SETTINGS, SettingSpec};

/// Prefix of environment variables.
pub const ENVIRONMENT_PREFIX: &str = "HOLDFAST_";

/// The environment variable of a key: `state_dir` → `HOLDFAST_STATE_DIR`.
pub fn environment_name(key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", key.to_ascii_uppercase())
}

/// The flag of a key, without dashes in front: `state_dir` → `state-dir`.
pub fn flag_name(key: &str) -> String {
    key.replace('_', "-")
}

#[cfg(test)]
mod tests;
