//! Generates the wire types from `proto/shoal/v1/*.proto`, without a protoc.
//!
//! The output is committed, so that no user needs this; `check` generates again and compares.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use prost::Message;

/// The files that hold services or messages, in no particular order.
const FILES: [&str; 6] = ["agent", "api", "enrol", "spec", "status", "store"];

/// Writes `proto/src/gen/`.
pub(crate) fn write(root: &Path) -> Result<()> {
    let target = root.join("proto/src/gen");
    fs::create_dir_all(&target)?;
    generate(root, &target)
}

/// Fails where `proto/src/gen/` is not what the `.proto` files make.
pub(crate) fn check(root: &Path) -> Result<()> {
    let fresh = root.join("target/codegen-check");
    fs::create_dir_all(&fresh)?;
    generate(root, &fresh)?;
    for entry in fs::read_dir(&fresh)? {
        let path = entry?.path();
        let name = path.file_name().context("a generated file has a name")?;
        let committed = root.join("proto/src/gen").join(name);
        if fs::read(&path)? != fs::read(&committed).unwrap_or_default() {
            bail!("{} is stale; run `cargo xtask codegen`", committed.display());
        }
    }
    Ok(())
}

fn generate(root: &Path, target: &Path) -> Result<()> {
    let files: Vec<PathBuf> =
        FILES.iter().map(|name| root.join(format!("proto/shoal/v1/{name}.proto"))).collect();
    let mut compiler = protox::Compiler::new([root.join("proto")])?;
    compiler.include_source_info(true).include_imports(true);
    for file in &files {
        compiler.open_file(file)?;
    }
    let descriptors = compiler.file_descriptor_set();
    let mut public = descriptors.clone();
    public.file.retain(|file| file.package() == "shoal.v1");
    for file in &mut public.file {
        file.source_code_info = None;
    }
    fs::write(target.join("descriptor.bin"), public.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        // What is secret is written to no log.
        .skip_debug([".shoal.v1.SecretValue", ".shoal.v1.SetSecretRequest"])
        .build_transport(false)
        .out_dir(target)
        .compile_fds(descriptors)
        .context("generating Rust from the descriptors")
}
