//! Tables over RocksDB or in memory: keys, batches, scans, positions, directories, the memory budget.
//!
//! Bytes in, bytes out; what they mean is the codecs' business, one crate up.
//!
//! ```text
//! apply(batch) ─► active rows ──freeze──► frozen rows ──one sorted batch──► RocksDB
//!                 (memory table)          (unchanging)   with its checkpoint
//! reads:              1st                     2nd                             3rd
//! ```
//!
//! Invariants:
//! - Only committed rows come here, and a row is visible from `apply` on, without a gap while it moves down.
//! - Rows and their checkpoint move together: in memory under one lock, into RocksDB in one atomic batch. What a killed
//!   process finds again is the state as of the checkpoint that it finds; the changelog has the rest.
//! - A deleted row in memory hides the one in RocksDB.
//! - A directory is never deleted on a suspicion. What is not the task's, torn or newer is an error with a way out.
//! - Memory is counted: when memory tables have used up their share, `apply` flushes before it goes on.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod budget;
pub mod checkpoint;
pub mod directory;
pub mod error;
mod flusher;
pub mod key;
mod memory;
pub mod metrics;
mod rocks;
pub mod row;
pub mod scan;
pub mod spec;
pub mod table;
pub mod task_store;

pub use budget::{MemoryBudget, MemoryUsage};
pub use checkpoint::{Checkpoint, CheckpointDelta};
pub use directory::{DirectoryError, StateDirectory};
pub use error::StoreError;
pub use row::{Row, RowChange};
pub use scan::{ScanPage, ScanRange};
pub use spec::{AppliedBatch, ChangelogSpec, StoreKind, StoreSpec, TaskStoreSpec};
pub use table::Table;
pub use task_store::{FlushReport, OpenError, Opened, TaskStore};
