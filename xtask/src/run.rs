//! Running a tool in the repository, with its output going to the terminal.

use std::path::Path;
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
