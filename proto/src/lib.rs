//! The protocol buffers of Holdfast, their generated code, and the one table of error codes.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod error;

/// Package `holdfast.v1`: generic queries over any store, and what instances ask each other.
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

    /// The encoded `FileDescriptorSet` of the example domain's service, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inventory.bin"));
}

/// The encoded `FileDescriptorSet` of what the public listener of every service serves, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/query.bin"));

/// The path of every method that `descriptors` (an encoded `FileDescriptorSet`) describes: `/holdfast.v1.QueryService/Get`.
///
/// Bytes that are no descriptor set have no methods.
pub fn method_paths(descriptors: &[u8]) -> Vec<String> {
    use prost::Message;
    let Ok(set) = prost_types::FileDescriptorSet::decode(descriptors) else { return Vec::new() };
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                paths.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    #[test]
    fn methods_have_paths() {
        let paths = super::method_paths(super::FILE_DESCRIPTOR_SET);
        assert!(paths.iter().any(|path| path == "/holdfast.v1.QueryService/Get"), "{paths:?}");
        assert!(!paths.iter().any(|path| path.starts_with("/inventory.v1.")), "{paths:?}");
        let paths = super::method_paths(super::inventory::FILE_DESCRIPTOR_SET);
        assert_eq!(paths, ["/inventory.v1.InventoryService/GetStore", "/inventory.v1.InventoryService/GetItem"]);
        assert!(super::method_paths(b"\xff").is_empty());
    }
}
