//! The DSL in the test driver.
