//! Tables inside a task: the rows that are dirty or cached, and the node that updates them.
//!
//! Rows are found by the bytes of their key and hold typed values; they are encoded only at the seal. A row that is not
//! here is read from the store, which holds committed rows only.

mod node;
mod rows;
mod update;

pub(crate) use node::{TableNode, TaskTable};
pub(crate) use rows::TableSizes;
pub(crate) use update::{
    AggregateUpdate, CountUpdate, ReduceUpdate, SourceUpdate, TableAggregateUpdate, TableReduceUpdate, TableUpdate,
};
