//! Compiles the `.proto` files without protoc, and keeps their descriptors for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// What the public listener serves and describes.
const PUBLIC: [&str; 2] = ["holdfast/v1/query.proto", "inventory/v1/inventory.proto"];
/// What instances ask each other.
const PEER: &str = "holdfast/v1/peer.proto";
const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), protox::compile(PUBLIC, [ROOT])?.encode_to_vec())?;
    let descriptors = protox::compile(PUBLIC.into_iter().chain([PEER]), [ROOT])?;
    // Values and keys are shared bytes on the way out: no copy between the table and the frame.
    tonic_prost_build::configure().bytes(".holdfast.v1").compile_fds(descriptors)?;
    Ok(())
}
