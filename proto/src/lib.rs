//! The protocol buffers of Holdfast, their generated code, and the one table of error codes.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod error;

/// Package `holdfast.v1`: generic queries over any store.
pub mod holdfast {
    /// Version 1.
    #[allow(missing_docs, clippy::all, rust_2018_idioms, unreachable_pub, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("holdfast.v1");
    }
}

/// Package `inventory.v1`: the example domain's typed look-ups.
pub mod inventory {
    /// Version 1.
    #[allow(missing_docs, clippy::all, rust_2018_idioms, unreachable_pub, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("inventory.v1");
    }
}

/// The encoded `FileDescriptorSet` of all packages, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
