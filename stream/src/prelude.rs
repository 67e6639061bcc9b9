//! What a program needs: `use holdfast_stream::prelude::*;`.

pub use crate::{
    codec::{ByteArray, Codec, CodecError, HasCodec, I32, I64, Json, NoKey, Nullable, Protobuf, Utf8},
    dsl::{
        BranchedKStream, Consumed, Grouped, KGroupedStream, KGroupedTable, KStream, KTable, Materialized, Produced,
        Repartitioned, TopologyBuilder,
    },
    errors::BoxError,
    topology::{Topology, TopologyError},
};
