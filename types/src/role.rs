//! What a copy of a task is to the instance that holds it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The role of a task's copy on one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Processes input and owns the changelog.
    Active,
    /// Follows the changelog, ready to take over.
    Standby,
    /// Assigned as active or standby, still replaying the changelog.
    Restoring,
}

impl Role {
    /// Lower-case name, as headers and metrics carry it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Restoring => "restoring",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the group wants a task to be on one instance. [`Role`] is what its copy there is worth right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssignedRole {
    /// To process it.
    Active,
    /// To follow it, ready to take over.
    Standby,
    /// To follow it until it has caught up, and get it then.
    WarmUp,
}

impl AssignedRole {
    /// Lower-case name, as metrics and JSON carry it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
            Self::WarmUp => "warm_up",
        }
    }
}

impl fmt::Display for AssignedRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
