//! The images of the example deployment deploy/examples/platform, built by its own script.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::belenios::describe;
use crate::cache::Cache;
use crate::{exec, packages};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/platform");

/// Where the example is: its fleet files, and all that they name.
pub fn platform_example() -> &'static Path {
    Path::new(EXAMPLE)
}

/// An image of the example, `platform` or `notes`, that says it is of this version. The first one
/// takes a minute, for the Debian packages of both; others take seconds.
pub fn platform_image(name: &str, version: &str) -> Result<PathBuf> {
    packages::ensure()?;
    let script = platform_example().join("build.sh");
    let text = fs::read_to_string(&script)
        .with_context(|| format!("could not read {}", script.display()))?;
    let cache = Cache::open()?;
    let tree = cache.entry("platform-tree", &text, "", |tree| {
        eprintln!("lab: making a Debian for the platform example, once");
        build(&script, &["tree".as_ref(), tree])
    })?;
    let files = platform_example().join(name);
    let mut recipe = format!("{text} {version}");
    describe(&files, &files, &mut recipe)?;
    cache.entry(name, &recipe, ".squashfs", |image| {
        build(&script, &["image".as_ref(), &tree, name.as_ref(), version.as_ref(), image])
    })
}

fn build(script: &Path, arguments: &[&Path]) -> Result<()> {
    exec::run("sh", [&[script], arguments].concat()).map(drop)
}
