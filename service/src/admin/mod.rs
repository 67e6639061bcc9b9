//! What operators and orchestrators ask: is it alive, can it answer and process, did it start.

pub mod health;
pub mod report;
