//! Running a tool in the repository, with its output going to the terminal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Runs `program` with `arguments` in `dir`; anything but success is an error.
pub(crate) fn run(dir: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let line = format!("{program} {}", arguments.join(" "));
    eprintln!("xtask: {line}");
    let status = Command::new(program).args(arguments).current_dir(dir).status();
    let status = status.with_context(|| format!("can't run {program}"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    Ok(())
}

/// Runs cargo.
pub(crate) fn cargo(dir: &Path, arguments: &[&str]) -> Result<()> {
    run(dir, &std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), arguments)
}

/// A program of crates.io in exactly this version, installed below `target/tools` if it is not
/// there yet, with further `options` of `cargo install`.
pub(crate) fn tool(root: &Path, name: &str, version: &str, options: &[&str]) -> Result<PathBuf> {
    let tools = root.join("target/tools").join(format!("{name}-{version}"));
    let program = tools.join("bin").join(name);
    if !program.exists() {
        let place = tools.display().to_string();
        let build = tools.join("build");
        let target = build.display().to_string();
        let install = ["install", name, "--version", version, "--locked", "--quiet"];
        let place = ["--root", &place, "--target-dir", &target];
        cargo(root, &[&install[..], &place, options].concat())?;
        fs::remove_dir_all(build)?;
    }
    Ok(program)
}
