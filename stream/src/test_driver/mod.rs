//! A topology without a broker: pipe records in, read what comes out, look into the stores.
//!
//! Each record is processed and committed before the next one, so every update is seen. Repartition topics are looped
//! inside; every topic has one partition. Errors go by the error policies, dead letters can be read.
//!
//! ```
//! use holdfast_stream::{prelude::*, test_driver::TopologyTestDriver};
//!
//! let builder = TopologyBuilder::new();
//! builder.stream("in", Consumed::with(Utf8, I64)).group_by_key().count(Materialized::named("counts")).to_stream().to("out");
//! let driver = TopologyTestDriver::new(&builder.build()?)?;
//! let input = driver.input_topic("in", Utf8, I64);
//! input.pipe("a", 1)?;
//! input.pipe("a", 2)?;
//! assert_eq!(driver.output_topic("out", Utf8, I64).read_values()?, [1, 2]);
//! assert_eq!(driver.store::<String, i64>("counts")?.get("a")?, Some(2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod driver;
mod handles;

pub use driver::{DriverError, TopologyTestDriver};
pub use handles::{TestInputTopic, TestOutputTopic, TestRecord, TestStore};
