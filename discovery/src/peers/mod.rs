//! What instances find of each other: who answers, who is slow, who is gone, and who evicts whom. No I/O: time and events in,
//! actions out; the service exchanges the reports and carries the actions out.
//!
//! Gone means that nobody listens at the address any more (refused in several attempts), or that nothing was heard for
//! `peer_timeout` although it was asked for; and that another live member finds the same, where there is one. Slow is not
//! gone: reads go around a slow peer at once, and nobody evicts it.

mod eviction;
mod liveness;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod view;

pub use eviction::{Action, Event, Failure, Peers, Settings, interval};
pub use view::{Condition, Evicted, HeldTask, PeerReport, PeerView, PeersView};
