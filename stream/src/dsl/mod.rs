//! The DSL: streams and tables as in Kafka Streams, typed at compile time.
//!
//! A program is written against a [`TopologyBuilder`]. Closures take keys and values by reference; those of the `try_`
//! variants may fail, and an aggregation closure may return nothing or a `Result`: a refused record falls under the error
//! policy (dead letter, say), and changes nothing.
//!
//! Codecs are carried along where Kafka Streams carries serdes. Where bytes are needed and none is carried, the type's own
//! ([`HasCodec`](crate::codec::HasCodec)) is used; a type without one is a compile error that says how to name one.
//!
//! ```
//! use holdfast_stream::prelude::*;
//!
//! fn topology() -> Result<Topology, TopologyError> {
//!     let builder = TopologyBuilder::new();
//!     builder
//!         .stream("text", Consumed::values(Utf8))
//!         .flat_map_values(|line: &String| line.to_lowercase().split_whitespace().map(str::to_owned).collect::<Vec<_>>())
//!         .group_by(|_key, word| word.clone())
//!         .count(Materialized::named("counts-store"))
//!         .to_stream()
//!         .to("word-counts");
//!     builder.build()
//! }
//! assert_eq!(topology()?.subtopologies().len(), 2);
//! # Ok::<(), TopologyError>(())
//! ```

mod branched;
mod builder;
mod grouped_stream;
mod grouped_table;
mod options;
mod repartition;
mod stream;
mod table;
mod table_store;

pub use branched::BranchedKStream;
pub use builder::TopologyBuilder;
pub use grouped_stream::KGroupedStream;
pub use grouped_table::KGroupedTable;
pub use options::{Consumed, Grouped, Materialized, Produced, Repartitioned};
pub use stream::KStream;
pub use table::KTable;

#[cfg(test)]
mod tests;
