//! Everything that talks to a broker through librdkafka: settings, fetching, producing, topics. The wire ends here.

pub mod admin;
mod config;
mod consumer;
mod delivery;
mod ffi;
pub mod limits;
pub mod producer;
mod refused;
mod report;

pub use config::{ConnectionSettings, Reads, Transactional};
pub use consumer::{EndsQuery, FetchConsumer, FetchError, FetchQueue, Fetched, StartOffset, Waker};
pub use producer::{BatchProducer, OutRecord, ProduceError, SimpleProducer};
pub use refused::refused_property;
