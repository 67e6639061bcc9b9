//! Compiles the `.proto` files without protoc, and keeps their descriptors for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// What the public listener of every service serves, and what the example domain's serves besides. Each describes itself.
const QUERY: &str = "holdfast/v1/query.proto";
const INVENTORY: &str = "inventory/v1/inventory.proto";
/// What instances ask each other.
const PEER: &str = "holdfast/v1/peer.proto";
const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for (proto, described) in [(QUERY, "query.bin"), (INVENTORY, "inventory.bin")] {
        fs::write(out.join(described), protox::compile([proto], [ROOT])?.encode_to_vec())?;
    }
    let descriptors = protox::compile([QUERY, INVENTORY, PEER], [ROOT])?;
    // Values and keys are shared bytes on the way out: no copy between the table and the frame.
    tonic_prost_build::configure().bytes(".holdfast.v1").compile_fds(descriptors)?;
    Ok(())
}
