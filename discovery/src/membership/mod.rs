//! Membership of Kafka's classic group protocol: decisions without I/O (`state`), and what carries them out.

mod compact;
pub(crate) mod driver;
mod events;
pub(crate) mod eviction;
mod fencing;
mod forgotten;
mod gate;
mod leader;
mod lost_transaction;
pub mod measure;
mod offsets;
mod predecessor;
mod protocol;
mod removal;
pub(crate) mod session;
mod state;
mod userdata;
mod worker;
