//! Why a query has no answer, and which row of the error table that is.

use std::{sync::Arc, time::Duration};

use holdfast_proto::error::{Code, Failure, Reason};
use holdfast_store::StoreError;
use holdfast_types::{Endpoint, Role, StoreName, TaskId};

use super::cursor::CursorError;

/// How long to wait before asking again when nothing better is known.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// The longest wait that an answer suggests: an estimate of minutes changes before it ends.
const RETRY_AT_MOST: Duration = Duration::from_secs(30);

/// Why a query has no answer. A key without a row is no error here: its answer is `None`.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueryError {
    /// No queryable store of that name.
    #[error("there is no store {store:?} to query; there are: {known}")]
    StoreNotFound {
        /// As asked.
        store: String,
        /// Names, with commas between.
        known: String,
    },
    /// The key does not fit the store's format.
    #[error("the key of store {store} must be {format}: {problem}")]
    Key {
        /// The store.
        store: StoreName,
        /// The key format's name.
        format: String,
        /// What the format says.
        problem: String,
    },
    /// An option or field is wrong.
    #[error("{name}: expected {expected}, got {got}")]
    Parameter {
        /// Its name as on a URL.
        name: String,
        /// What is taken.
        expected: String,
        /// What came.
        got: String,
    },
    /// The body is not what the method takes.
    #[error("body: expected {expected}; {problem}")]
    Body {
        /// What is taken.
        expected: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The cursor cannot be continued.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// A key, batch or body is over a bound.
    #[error("{what} may be at most {limit} {unit}, got {got}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The bound.
        limit: u64,
        /// What bound and size count.
        unit: &'static str,
        /// The size, or "more" where counting stopped at the bound.
        got: String,
    },
    /// The instance knows no partitions yet, or leaves the group.
    #[error("this instance is not ready: {0}")]
    NotReady(String),
    /// The copy here is being rebuilt.
    #[error(
        "task {task}, which has partition {partition} of store {store}, is restoring: {remaining_records} records to go"
    )]
    Restoring {
        /// The store.
        store: StoreName,
        /// The partition.
        partition: i32,
        /// The task.
        task: TaskId,
        /// Changelog offsets still to replay, as far as known.
        remaining_records: u64,
        /// Estimate of the time left.
        eta: Option<Duration>,
    },
    /// Nobody owns the partition.
    #[error("no instance owns partition {partition} of store {store} now; a rebalance gives it an owner")]
    NoOwner {
        /// The store.
        store: StoreName,
        /// The partition.
        partition: i32,
    },
    /// The copy is not on this instance, which was asked because it was taken for its holder.
    #[error("partition {partition} of store {store} is not on {instance}")]
    NotMine {
        /// The store.
        store: StoreName,
        /// The partition.
        partition: i32,
        /// Public listener of this instance.
        instance: Arc<Endpoint>,
    },
    /// Another instance owns the key, and this one was told not to forward.
    #[error("partition {partition} of store {store} is on {owner}")]
    NotHere {
        /// The store.
        store: StoreName,
        /// The partition.
        partition: i32,
        /// Public listener of the owner.
        owner: Endpoint,
    },
    /// The owner did not answer.
    #[error("{}store {store} is on {owner}, which cannot be asked: {problem}", of(.partition))]
    OwnerUnreachable {
        /// The store.
        store: StoreName,
        /// The partition, where it is a question of one.
        partition: Option<i32>,
        /// Public listener of the owner.
        owner: Endpoint,
        /// What came of it.
        problem: String,
    },
    /// The copy at hand is older than allowed.
    #[error("the {role} copy of partition {partition} of store {store} was last known to be caught up {} ago, the request \
             allows {} ms; allow more (max_staleness, consistency=any) or try again", age(.staleness), .allowed.as_millis())]
    Stale {
        /// The store.
        store: StoreName,
        /// The partition.
        partition: i32,
        /// The copy's role.
        role: Role,
        /// Its staleness; `None` when it was never known to be caught up.
        staleness: Option<Duration>,
        /// What the request allows.
        allowed: Duration,
    },
    /// The copy at hand is further behind than allowed.
    #[error("the copy of partition {partition} of store {store} is {} records behind, the request allows {allowed}",
            .lag.map_or_else(|| "an unknown number of".to_owned(), |lag| lag.to_string()))]
    Lagging {
        /// The store.
        store: StoreName,
        /// The partition.
        partition: i32,
        /// Records behind, where known.
        lag: Option<u64>,
        /// What the request allows.
        allowed: u64,
    },
    /// `min_position` was not reached in time.
    #[error("partition {partition} of store {store} did not reach min_position within {} ms; it is at {at:?}", .timeout.as_millis())]
    PositionNotReached {
        /// The store.
        store: StoreName,
        /// The partition.
        partition: i32,
        /// The copy's position as text.
        at: String,
        /// The time limit.
        timeout: Duration,
    },
    /// The coordinator confirmed nothing in time.
    #[error("the group coordinator did not confirm this instance within {} ms; a strong read needs that", .timeout.as_millis())]
    Unconfirmed {
        /// The time limit.
        timeout: Duration,
    },
    /// The time limit passed.
    #[error("no answer within {} ms", .timeout.as_millis())]
    Deadline {
        /// The time limit.
        timeout: Duration,
    },
    /// Too many requests wait.
    #[error("{what}: {limit} at once is the bound of this instance; try again")]
    Busy {
        /// What there are too many of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The instance that was asked answered so.
    #[error("{}", .0.detail)]
    Remote(Box<Failure>),
    /// Not served by this version.
    #[error("{0}")]
    Unimplemented(&'static str),
    /// RocksDB failed.
    #[error("reading store {store} failed: {source}")]
    Store {
        /// The store.
        store: StoreName,
        /// What RocksDB said.
        source: StoreError,
    },
    /// A stored value cannot be shown.
    #[error("a row of store {store} cannot be read as {format}: {problem}")]
    Value {
        /// The store.
        store: StoreName,
        /// The format's name.
        format: String,
        /// What the format says.
        problem: String,
    },
    /// A defect.
    #[error("internal: {0}")]
    Internal(String),
}

fn of(partition: &Option<i32>) -> String {
    partition.map(|partition| format!("partition {partition} of ")).unwrap_or_default()
}

fn age(staleness: &Option<Duration>) -> String {
    staleness.map_or_else(|| "never".to_owned(), |staleness| format!("{} ms", staleness.as_millis()))
}

impl QueryError {
    /// An option or field that is wrong.
    pub fn parameter(name: impl Into<String>, expected: &str, got: &str) -> Self {
        // A hostile value must not come back at full length.
        let mut shown: String = got.chars().take(80).collect();
        if shown.len() < got.len() {
            shown.push('…');
        }
        Self::Parameter { name: name.into(), expected: expected.to_owned(), got: format!("{shown:?}") }
    }

    /// Its row in the table.
    pub fn code(&self) -> Code {
        match self.reason() {
            Some(reason) => reason.code(),
            None => match self {
                Self::Remote(failure) => failure.code,
                Self::StoreNotFound { .. } => Code::StoreNotFound,
                Self::TooLarge { .. } => Code::PayloadTooLarge,
                Self::Deadline { .. } => Code::DeadlineExceeded,
                Self::Busy { .. } => Code::ResourceExhausted,
                Self::Unimplemented(_) => Code::Unimplemented,
                _ => Code::Internal,
            },
        }
    }

    /// Why, for codes that have several causes.
    pub fn reason(&self) -> Option<Reason> {
        Some(match self {
            Self::Key { .. } => Reason::Key,
            Self::Parameter { .. } => Reason::Parameter,
            Self::Body { .. } => Reason::Body,
            Self::Cursor(_) => Reason::Cursor,
            Self::NotReady(_) => Reason::NotReady,
            Self::Restoring { .. } => Reason::Restoring,
            Self::NoOwner { .. } | Self::NotMine { .. } => Reason::NoOwner,
            Self::Remote(failure) => return failure.reason,
            Self::NotHere { .. } => Reason::NotHere,
            Self::OwnerUnreachable { .. } => Reason::OwnerUnreachable,
            Self::Stale { .. } | Self::Lagging { .. } => Reason::Stale,
            Self::PositionNotReached { .. } => Reason::Position,
            Self::Unconfirmed { .. } => Reason::Confirmation,
            Self::StoreNotFound { .. }
            | Self::TooLarge { .. }
            | Self::Deadline { .. }
            | Self::Busy { .. }
            | Self::Unimplemented(_)
            | Self::Store { .. }
            | Self::Value { .. }
            | Self::Internal(_) => return None,
        })
    }

    /// When a later try may succeed.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Restoring { eta, .. } => {
                Some(eta.unwrap_or(RETRY_SOON).clamp(Duration::from_millis(100), RETRY_AT_MOST))
            }
            Self::NotHere { .. } => None,
            Self::Remote(failure) => failure.retry_after,
            _ => self.code().retryable().then_some(RETRY_SOON),
        }
    }

    /// The failure that REST and gRPC give a shape.
    pub fn failure(&self) -> Failure {
        if let Self::Remote(failure) = self {
            return Failure::clone(failure);
        }
        let mut failure = Failure {
            code: self.code(),
            reason: self.reason(),
            detail: self.to_string(),
            retry_after: self.retry_after(),
            members: Vec::new(),
        };
        match self {
            Self::Restoring { store, partition, task, remaining_records, eta } => {
                failure.members = vec![
                    ("store", store.to_string()),
                    ("partition", partition.to_string()),
                    ("task", task.to_string()),
                    ("remaining_records", remaining_records.to_string()),
                ];
                if let Some(eta) = eta {
                    failure.members.push(("eta_ms", eta.as_millis().to_string()));
                }
            }
            Self::NotHere { store, partition, owner } => {
                failure.members = vec![
                    ("store", store.to_string()),
                    ("partition", partition.to_string()),
                    ("owner", owner.to_string()),
                ];
            }
            Self::OwnerUnreachable { store, partition, owner, .. } => {
                failure.members = vec![("store", store.to_string())];
                failure.members.extend(partition.map(|partition| ("partition", partition.to_string())));
                failure.members.push(("owner", owner.to_string()));
            }
            Self::NoOwner { store, partition }
            | Self::NotMine { store, partition, .. }
            | Self::Stale { store, partition, .. }
            | Self::Lagging { store, partition, .. }
            | Self::PositionNotReached { store, partition, .. } => {
                failure.members = vec![("store", store.to_string()), ("partition", partition.to_string())];
            }
            _ => {}
        }
        failure
    }
}

/// What a read does about an error before its caller gets to see it.
impl QueryError {
    /// Whether another copy may answer what this one does not.
    pub(crate) fn elsewhere_may_help(&self) -> bool {
        matches!(self.code(), Code::Unavailable | Code::ResourceExhausted)
            // Of a build that has other stores, in the middle of a rolling upgrade.
            || matches!(self, Self::Remote(failure) if failure.code == Code::StoreNotFound)
    }

    /// Whether the same question may be answered within `time`: tasks move in a fraction of a second, and long restores,
    /// copies that are too old and bounds that are reached do not pass so soon.
    pub(super) fn may_pass_within(&self, time: Duration) -> bool {
        match self {
            Self::Restoring { remaining_records, eta, .. } => {
                *remaining_records == 0 || eta.is_some_and(|eta| eta <= time)
            }
            Self::Remote(failure) if failure.reason == Some(Reason::Restoring) => {
                let member = |name| failure.members.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
                let eta = member("eta_ms").and_then(|eta| eta.parse().ok()).map(Duration::from_millis);
                member("remaining_records").is_some_and(|left| left == "0") || eta.is_some_and(|eta| eta <= time)
            }
            _ => matches!(self.reason(), Some(Reason::NoOwner | Reason::OwnerUnreachable | Reason::NotReady)),
        }
    }

    /// The one of two that says more about why there is no answer; the later one where they say the same.
    pub(super) fn or_rather(self, later: Self) -> Self {
        let weight = |error: &Self| match error.reason() {
            Some(Reason::Restoring) => 5,
            Some(Reason::Stale) => 4,
            None => 3,
            Some(Reason::OwnerUnreachable) => 2,
            Some(Reason::NotReady) => 1,
            Some(_) => 0,
        };
        if weight(&self) > weight(&later) { self } else { later }
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        error.failure()
    }
}

impl From<QueryError> for tonic::Status {
    fn from(error: QueryError) -> Self {
        Self::from(error.failure())
    }
}
