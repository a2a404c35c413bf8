//! Compiles the .proto files with protox, so that building needs no protoc.
//! Never downloads and never writes outside OUT_DIR.
use prost::Message as _;
use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "bulkhead/v1/inference.proto",
        "bulkhead/v1/admin.proto",
        "bulkhead/internal/v1/worker.proto",
        "bulkhead/internal/v1/audit.proto",
        "bulkhead/internal/v1/launcher.proto",
        "bulkhead/internal/v1/template.proto",
        "bulkhead/internal/v1/gpus.proto",
        "bulkhead/internal/v1/keeper.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
