//! Processors: the nodes of one task's graph, typed from end to end.
//!
//! A node gets its record by reference and passes references on, so a fan-out copies nothing and a source reuses the
//! memory of the record before. Calling a child is one virtual call. What several parents or the task share (a merge, a
//! table) is a [`Shared`] node.

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
    TableUpdate, TaskTable,
};
pub(crate) use table_stateless::{TableFilter, TableMapValues, ToStream, UnmaterializedSource};
pub(crate) use task_graph::GraphBuilder;
pub use task_graph::TaskGraph;

/// A node that takes records of one type.
///
/// The record's time stamp, headers and origin are in the context. Windows, joins and punctuation come as further methods
/// with defaults, so that a node says only what it does.
pub trait Processor<K, V>: Send {
    /// Takes one record, and passes on what comes of it.
    fn process(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError>;
}

/// The nodes after a node.
pub struct Children<K, V>(Vec<Box<dyn Processor<K, V>>>);

impl<K, V> Children<K, V> {
    pub(crate) fn new(children: Vec<Box<dyn Processor<K, V>>>) -> Self {
        Self(children)
    }

    /// Whether nobody listens.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Passes a record to each child, in the order in which they were added to the topology.
    #[inline]
    pub fn forward(&mut self, key: &K, value: &V, context: &mut TaskContext) -> Result<(), ProcessingError> {
        for child in &mut self.0 {
            child.process(key, value, context)?;
        }
        Ok(())
    }
}
