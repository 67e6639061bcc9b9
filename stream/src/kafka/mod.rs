//! Everything that talks to a broker through librdkafka: settings, fetching, producing, topics. The wire ends here.

pub mod admin;
mod config;
mod consumer;
mod ffi;
pub mod limits;
pub mod producer;
mod report;

pub use config::{ConnectionSettings, REFUSED_PROPERTIES, Reads, Transactional, refused_property};
pub use consumer::{EndsQuery, FetchConsumer, FetchError, FetchQueue, Fetched, StartOffset, Waker};
pub use producer::{BatchProducer, OutRecord, ProduceError, SimpleProducer};
