//! Compiles the protobuf contract, with a compiler in pure Rust: nothing to install.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

/// The contract, at the top of the repository.
const PROTO: &str = "../../proto";

/// Images in requests: parts of what was received, and no copies of it.
const IMAGES: [&str; 6] = [
    ".matchpoint.v1.UpsertItemRequest.image",
    ".matchpoint.v1.SearchRequest.image",
    ".matchpoint.v1.VerifyRequest.image",
    ".matchpoint.v1.Reference.image",
    ".matchpoint.v1.EmbedRequest.image",
    ".matchpoint.v1.LabelledQuery.image",
];

fn main() -> Result<(), Box<dyn Error>> {
    // tonic-prost-build does not say so itself when it is handed a descriptor set.
    println!("cargo:rerun-if-changed={PROTO}");

    let mut compiler = protox::Compiler::new([PROTO])?;
    compiler.include_imports(true).include_source_info(true);
    for room in [
        "calibration",
        "decision",
        "retrieval",
        "gallery",
        "monitoring",
        "operating_point",
        "server",
        "snapshot",
    ] {
        compiler.open_file(format!("matchpoint/v1/{room}.proto"))?;
    }

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(
        out.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    // Each package is compiled with the other as foreign, so that both are named by absolute paths.
    let shared = out.join("shared");
    fs::create_dir_all(&shared)?;
    for (into, foreign, path) in [
        (&out, ".google.longrunning", "crate::proto::longrunning"),
        (&shared, ".matchpoint.v1", "crate::proto"),
    ] {
        let configured = tonic_prost_build::configure();
        IMAGES
            .into_iter()
            .fold(configured, tonic_prost_build::Builder::bytes)
            .out_dir(into)
            .extern_path(".google.rpc.Status", "::tonic_types::Status")
            .extern_path(foreign, path)
            .compile_fds(compiler.file_descriptor_set())?;
    }
    Ok(())
}
