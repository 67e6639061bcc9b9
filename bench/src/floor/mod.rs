//! The floor: the same work written by hand, without the framework, one program per measurement.

mod count;
mod grpc;
mod ingest;
mod inventory;
mod rest;
mod restore;
mod rows;

pub(crate) use grpc::run as grpc;
pub(crate) use ingest::{FOLLOWS, IngestFlags, run as ingest};
pub(crate) use rest::run as rest;
pub(crate) use restore::{RestoreFlags, run as restore};
pub(crate) use rows::ServeFlags;
