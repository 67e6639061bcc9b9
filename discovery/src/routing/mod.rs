//! Whose key is it: store → partition → active and standbys, as immutable snapshots of the group's last assignment.

mod snapshot;
mod table;

pub use snapshot::{PartitionRoute, RouteError, RoutingSnapshot, StoreRoutes};
pub use table::RoutingTable;
