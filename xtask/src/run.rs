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
    run(dir, &cargo_program(), arguments)
}

/// The cargo that runs this task.
fn cargo_program() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// A program of crates.io in exactly this version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool<'a> {
    /// Its name, of the crate and of the program.
    pub(crate) name: &'a str,
    /// Its version.
    pub(crate) version: &'a str,
    /// Further options of `cargo install`.
    pub(crate) options: &'a [&'a str],
    /// What its build reads from the environment.
    pub(crate) environment: &'a [(&'a str, &'a str)],
}

impl Tool<'_> {
    /// Where it is; installed below `target/tools` if it is not there yet.
    ///
    /// # Errors
    /// Where it can't be installed.
    pub(crate) fn path(&self, root: &Path) -> Result<PathBuf> {
        let Self { name, version, options, environment } = self;
        let tools = root.join("target/tools").join(format!("{name}-{version}"));
        let program = tools.join("bin").join(name);
        if program.exists() {
            return Ok(program);
        }
        eprintln!("xtask: installing {name} {version}, once");
        let build = tools.join("build");
        let mut command = Command::new(cargo_program());
        command
            .args(["install", name, "--version", version, "--locked", "--quiet", "--root"])
            .arg(&tools)
            .arg("--target-dir")
            .arg(&build)
            .args(*options)
            .envs(environment.iter().copied())
            .current_dir(root);
        let status = command.status().context("can't run cargo")?;
        ensure!(status.success(), "`cargo install {name}@{version}` failed ({status})");
        fs::remove_dir_all(build)?;
        Ok(program)
    }
}
