//! RocksDB: the options that all databases of a process share, and one task's database.

mod database;
mod layer;
mod manifest;
mod options;

pub(crate) use database::{Database, DatabaseMetrics, OpenDatabaseError, family_name};
pub(crate) use options::SharedOptions;
