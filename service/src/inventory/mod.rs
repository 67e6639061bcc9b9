//! The example domain, which a user replaces: stock per store and per item, kept up to date by item transactions.

pub mod load;
pub mod types;
