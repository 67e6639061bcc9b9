//! Processors: the nodes of one task's graph, typed from end to end.
//!
//! A node gets its record by reference and passes references on, so a fan-out copies nothing and a source reuses the
//! memory of the record before. Calling a child is one virtual call, and a node owns its children; only what several
//! parents share (a merge) is behind a lock, which nobody contends for.

mod branch;
mod context;
mod deserialize;
mod map;
mod repartition_map;
mod shared;
mod sink;
mod source;
mod stateless;
mod table;
mod table_stateless;
mod task_graph;

use crate::errors::ProcessingError;

pub(crate) use branch::{Branch, Predicate};
pub use context::{DroppedRecords, Header, Output, SealedRow, SourceRecord, TaskContext};
pub(crate) use deserialize::Deserializer;
pub(crate) use map::{FlatMap, FlatMapValues, Map, MapValues, SelectKey};
pub(crate) use repartition_map::RepartitionMap;
pub(crate) use shared::{Shared, WeakShared};
pub(crate) use sink::Sink;
pub(crate) use source::{Source, SourceNode};
pub(crate) use stateless::{Filter, ForEach, Peek};
pub(crate) use table::{
    AggregateUpdate, CountUpdate, ReduceUpdate, SourceUpdate, TableAggregateUpdate, TableNode, TableReduceUpdate,
    TableSizes, TableUpdate, TaskTable,
};
pub(crate) use table_stateless::{TableFilter, TableMapValues, ToStream, UnmaterializedSource};
pub(crate) use task_graph::GraphBuilder;
pub use task_graph::TaskGraph;

/// A node that takes records of one type.
///
/// The record's time stamp, headers and origin are in the context. Windows, joins and punctuation come as further methods
/// with defaults, so that a node says only what it does.
pub(crate) trait Processor<K, V>: Send {
    /// Takes one record, and passes on what comes of it.
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError>;

    /// Calls back with table number `table` if it is this node or below it, and answers whether it was. Nodes own what is
    /// below them, so this is how a task reaches its tables to commit them: no record ever pays for a lock.
    fn with_table(&mut self, table: usize, call: TableCall<'_>) -> bool;
}

/// What is to be done with a table.
pub(crate) type TableCall<'a> = &'a mut dyn FnMut(&mut dyn TaskTable);

/// For nodes that have no table themselves: it may be below.
macro_rules! tables_are_below {
    () => {
        fn with_table(&mut self, table: usize, call: $crate::processor::TableCall<'_>) -> bool {
            self.children.with_table(table, call)
        }
    };
}
pub(crate) use tables_are_below;

/// The nodes after a node.
pub(crate) struct Children<K, V>(Vec<Box<dyn Processor<K, V>>>);

impl<K, V> Children<K, V> {
    pub(crate) fn new(children: Vec<Box<dyn Processor<K, V>>>) -> Self {
        Self(children)
    }

    /// Whether nobody listens.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Passes a record to each child, in the order in which they were added to the topology.
    #[inline]
    pub(crate) fn forward(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        for child in &mut self.0 {
            child.process(key, value, context)?;
        }
        Ok(())
    }

    pub(crate) fn with_table(&mut self, table: usize, call: TableCall<'_>) -> bool {
        self.0.iter_mut().any(|child| child.with_table(table, call))
    }
}

#[cfg(test)]
mod tests;
