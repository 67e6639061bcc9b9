//! The router: one piece under REST, gRPC and the typed client. Key → partition → who holds it → local read or forward.

pub mod admission;
mod batch;
mod budget;
pub mod consistency;
pub mod cursor;
pub mod describe;
mod elsewhere;
mod error;
pub mod explain;
pub mod forward;
mod limits;
pub mod options;
pub mod position_text;
mod read;
mod scan;
mod typed;
pub mod view;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_store::Row;
use holdfast_stream::engine::ServedTable;
use holdfast_types::{Clock, Endpoint, Position, Role, SystemClock, partition_for};
use tokio::sync::Semaphore;

pub(crate) use self::batch::together;
use self::budget::RetryBudget;
pub use self::{
    batch::Outcome,
    error::QueryError,
    forward::{Forward, Forwarded, NotForwarded, ScanPart, ScanQuestion},
    limits::QueryLimits,
    options::{Consistency, ConsistencyKind, OptionsBuilder, ReadOptions, Routing},
    scan::{ScanAnswer, ScanRequest},
    typed::{StoreQueries, TypedPage},
    view::{Cluster, StoreInfo, StoreView},
};

/// Who answered, from what copy.
#[derive(Clone, Debug)]
pub struct Served {
    /// Public listener of the instance that read the row.
    pub by: Arc<Endpoint>,
    /// The copy's role.
    pub role: Role,
    /// The partition read.
    pub partition: i32,
    /// Input offsets that the answer reflects.
    pub position: Arc<Position>,
    /// How long ago the copy was last known to be caught up; `None` when it never was.
    pub staleness: Option<Duration>,
}

impl Served {
    /// Whether this is said of the same read of the same copy.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.partition == other.partition
            && self.role == other.role
            && self.staleness == other.staleness
            && Arc::ptr_eq(&self.position, &other.position)
    }
}

/// An answer and who gave it.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// What was asked for.
    pub value: T,
    /// Who answered.
    pub served: Served,
}

/// The row of a key; `None` is the answer of a copy that may say so: there is no such key.
pub type RowRead = Option<Row>;

/// Queries over the stores of the application: cheap to clone, shared by all handlers.
#[derive(Clone, Debug)]
pub struct Queries {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    view: Arc<dyn StoreView>,
    forward: Arc<dyn Forward>,
    clock: Arc<dyn Clock>,
    limits: QueryLimits,
    topology: describe::TopologyPictures,
    /// Batches and scans that may read at once: each holds a thread of the blocking pool.
    readers: Arc<Semaphore>,
    /// Reads that may look for somebody who can answer at once.
    searches: Semaphore,
    budget: RetryBudget,
}

impl Queries {
    /// Queries over `view`, with the machine's clock and no forwarding.
    pub fn new(view: Arc<dyn StoreView>, limits: QueryLimits, topology: describe::TopologyPictures) -> Self {
        Self::with(view, Arc::new(NotForwarded), Arc::new(SystemClock), limits, topology)
    }

    /// Queries with every part given.
    pub fn with(
        view: Arc<dyn StoreView>,
        forward: Arc<dyn Forward>,
        clock: Arc<dyn Clock>,
        limits: QueryLimits,
        topology: describe::TopologyPictures,
    ) -> Self {
        let readers = Arc::new(Semaphore::new(limits.max_concurrent_scans));
        let searches = Semaphore::new(elsewhere::MAX_SEARCHES);
        let budget = RetryBudget::new();
        Self { inner: Arc::new(Inner { view, forward, clock, limits, topology, readers, searches, budget }) }
    }

    /// The bounds in force.
    pub fn limits(&self) -> &QueryLimits {
        &self.inner.limits
    }

    /// The engine's report and what else the view tells.
    pub fn view(&self) -> &dyn StoreView {
        &*self.inner.view
    }

    /// The graph as pictures.
    pub fn topology(&self) -> &describe::TopologyPictures {
        &self.inner.topology
    }

    /// The store of that name, or an error that names those there are.
    pub fn store(&self, name: &str) -> Result<Arc<StoreInfo>, QueryError> {
        self.find_store(&self.inner.view.cluster(), name)
    }

    /// All stores, in order of name.
    pub fn stores(&self) -> Vec<Arc<StoreInfo>> {
        self.inner.view.cluster().stores().to_vec()
    }

    /// A key's bytes from its text, within the bound on keys.
    pub fn key_from_text(&self, store: &StoreInfo, text: &str) -> Result<Vec<u8>, QueryError> {
        let key = store.key.parse_text(text).map_err(|source| QueryError::Key {
            store: store.name.clone(),
            format: store.key.name().to_owned(),
            problem: source.to_string(),
        })?;
        self.check_key(&key)?;
        Ok(key)
    }

    /// A key that came encoded, if it is one of the store's, within the bound on keys.
    pub fn key_from_bytes(&self, store: &StoreInfo, key: &[u8]) -> Result<Vec<u8>, QueryError> {
        self.check_key(key)?;
        store.key.to_json(key).map_err(|source| QueryError::Key {
            store: store.name.clone(),
            format: store.key.name().to_owned(),
            problem: source.to_string(),
        })?;
        Ok(key.to_vec())
    }

    fn check_key(&self, key: &[u8]) -> Result<(), QueryError> {
        let limit = self.inner.limits.max_key_bytes;
        if key.len() > limit {
            return Err(QueryError::TooLarge {
                what: "a key",
                limit: limit as u64,
                unit: "bytes",
                got: key.len().to_string(),
            });
        }
        Ok(())
    }

    fn find_store(&self, cluster: &Cluster, name: &str) -> Result<Arc<StoreInfo>, QueryError> {
        cluster.store(name).map(Arc::clone).ok_or_else(|| QueryError::StoreNotFound {
            store: name.chars().take(200).collect(),
            known: cluster.stores().iter().map(|store| store.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    fn partition(&self, store: &StoreInfo, key: &[u8]) -> Result<i32, QueryError> {
        if store.partitions <= 0 {
            return Err(QueryError::NotReady(format!(
                "the partitions of store {} are not known until the input topics are",
                store.name
            )));
        }
        Ok(partition_for(key, store.partitions))
    }

    fn timeout(&self, options: &ReadOptions) -> Duration {
        options.timeout.unwrap_or(self.inner.limits.default_timeout)
    }

    /// As of when an active has all that was committed. What it may miss is what a successor did after this member was last
    /// confirmed, and what it has asked to be committed itself.
    fn active_as_of(&self, copy: &ServedTable) -> Option<Instant> {
        copy.active_as_of(self.inner.view.last_confirmed()?)
    }

    /// How long ago a copy, which has this role now, was last known to be caught up.
    fn staleness(&self, copy: &ServedTable, role: Role, now: Instant) -> Option<Duration> {
        let caught_up_at = match role {
            Role::Active => self.active_as_of(copy),
            Role::Standby => copy.caught_up_at(),
            Role::Restoring => None,
        };
        caught_up_at.map(|at| now.saturating_duration_since(at))
    }
}

/// Whole milliseconds, as answers carry times.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
