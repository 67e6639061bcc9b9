//! Group membership, the assignor, what peers report, the routing table; the only crate that speaks Kafka's group protocol.
//!
//! An instance is one member of a consumer group of Kafka's *classic* protocol. [`GroupMember::start`] joins it and keeps
//! it: assignments come as [`GroupEvent`]s, and stream threads commit and fetch offsets through the member, which
//! implements [`holdfast_types::GroupSession`]. From an assignment and the topology, [`routing`] builds the snapshot that
//! answers "whose key is it?".
//!
//! | room | is for |
//! |---|---|
//! | `wire/` | one connection to a broker: TCP or TLS, SASL, version negotiation; finding a coordinator |
//! | `membership/` | the state machine (no I/O), the driver that carries out its actions, the bytes in subscriptions |
//! | [`assignor`] | who processes which task: a pure function, run by the group's leader |
//! | [`peers`] | what instances find of each other: who is slow, who is gone, who evicts whom |
//! | [`routing`] | key → partition → active and standbys, as an immutable snapshot |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod assignor;
pub mod config;
mod member;
mod membership;
pub mod metrics;
pub mod peers;
pub mod routing;
mod wire;

pub use config::{GroupConfig, StartError};
pub use member::{GroupEvent, GroupMember};
pub use membership::eviction::Eviction;
#[doc(hidden)]
pub use membership::measure;
