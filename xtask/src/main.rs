//! The project's own tasks: `cargo xtask demo | test | bench | check | codegen`.

mod codegen;

use anyhow::Result;

fn main() -> Result<()> {
    codegen::write(&root())
}

fn root() -> std::path::PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask is a folder of the repository").to_owned()
}
