//! What is wrong with a program, found when it is built.

use std::sync::Arc;

/// A topology that cannot be right. Each message says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// Nothing is read.
    #[error("the topology reads no topic: start with TopologyBuilder::stream or TopologyBuilder::table")]
    NoSource,
    /// A name that Kafka does not take.
    #[error(
        "{what} {name:?} is not a legal name: use 1 to {max} ASCII letters, digits, '.', '_' or '-', and not \".\" or \"..\""
    )]
    IllegalName {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
        /// The longest that is allowed.
        max: usize,
    },
    /// Two nodes of one name.
    #[error("two nodes are called {0}: give one of them another name")]
    DuplicateNode(Arc<str>),
    /// Two stores of one name.
    #[error("two stores are called {0}: give one of them another name in Materialized::named")]
    DuplicateStore(Arc<str>),
    /// Two repartition topics of one name.
    #[error(
        "two repartitions are called {0}: name them apart with Grouped::named, Repartitioned::named or Materialized::named"
    )]
    DuplicateRepartition(Arc<str>),
    /// A topic read as a table and as something else.
    #[error(
        "the topic {0} is read twice, once as a table: read it once, and derive the other from it (KTable::to_stream)"
    )]
    DuplicateSource(Arc<str>),
    /// A stream that goes back where it came from.
    #[error(
        "{sink} writes every record of {topic} back to {topic}, which never ends: write to another topic, or filter in between"
    )]
    Loop {
        /// The sink.
        sink: Arc<str>,
        /// The topic.
        topic: Arc<str>,
    },
    /// A node names a store that does not exist.
    #[error("{node} uses store number {store}, which the topology does not have")]
    UnknownStore {
        /// The node.
        node: Arc<str>,
        /// The store's number.
        store: usize,
    },
    /// A store without a processor.
    #[error("no processor owns the store {0}: connect it to one, or leave it out")]
    OrphanStore(Arc<str>),
    /// Topics that must have equally many partitions cannot have.
    #[error(
        "{first} has {first_partitions} partitions and {second} has {second_partitions}, but they feed the same stores: \
         set the same number in Repartitioned::partitions"
    )]
    CoPartitioning {
        /// A repartition topic.
        first: Arc<str>,
        /// Its partitions.
        first_partitions: i32,
        /// Another one.
        second: Arc<str>,
        /// Its partitions.
        second_partitions: i32,
    },
    /// A number of partitions that no topic can have.
    #[error("the repartition topic {topic} cannot have {partitions} partitions: at least 1 is needed")]
    Partitions {
        /// The topic.
        topic: Arc<str>,
        /// The number.
        partitions: i32,
    },
    /// A stream of another builder.
    #[error("{0} merges streams of two builders: both must come from the same TopologyBuilder")]
    ForeignStream(Arc<str>),
}

/// A task's graph that cannot be built: its tables are not those of the topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// There is no such sub-topology.
    #[error("the topology has no sub-topology {0}")]
    UnknownSubtopology(u32),
    /// Too few or too many tables.
    #[error("the sub-topology has {expected} stores, but {got} tables were given")]
    WrongTables {
        /// Stores of the sub-topology.
        expected: usize,
        /// Tables given.
        got: usize,
    },
}
