//! The place where the current snapshot is found.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::RoutingSnapshot;

/// The current [`RoutingSnapshot`]; readers never wait for a writer.
#[derive(Debug, Default)]
pub struct RoutingTable {
    current: ArcSwap<RoutingSnapshot>,
}

impl RoutingTable {
    /// A table that knows no store and no instance.
    pub fn new() -> Self {
        Self::default()
    }

    /// The current snapshot, to be kept for one request.
    pub fn load(&self) -> arc_swap::Guard<Arc<RoutingSnapshot>> {
        self.current.load()
    }

    /// The current snapshot, to be kept for longer.
    pub fn snapshot(&self) -> Arc<RoutingSnapshot> {
        self.current.load_full()
    }

    /// Replaces the snapshot.
    pub fn publish(&self, snapshot: RoutingSnapshot) {
        self.current.store(Arc::new(snapshot));
    }
}
