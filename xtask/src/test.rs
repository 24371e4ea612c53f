//! Everything that CI runs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use shoal_lab::packages;

use crate::check;
use crate::fuzz;
use crate::run::{cargo, run};

/// Installs what is needed, checks, builds, tries inputs for a minute, and runs every test. The last
/// lines are the test runner's own summary.
pub(crate) fn test(root: &Path) -> Result<()> {
    packages::ensure()?;
    let before = leftovers()?;
    check::check(root)?;
    cargo(root, &["build", "--workspace", "--all-targets", "--locked"])?;
    fuzz::fuzz(root, fuzz::SECONDS)?;
    // One process at a time on the hosts: each of their tests boots hosts of its own.
    let result = match runner(root) {
        Runner::Nextest => {
            cargo(root, &["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])
        }
        Runner::Cargo => cargo(root, &["test", "--workspace", "--locked", "--no-fail-fast"]),
    };
    let left: Vec<String> = leftovers()?.into_iter().filter(|l| !before.contains(l)).collect();
    ensure!(left.is_empty(), "the tests left something behind:\n{}", left.join("\n"));
    result
}

enum Runner {
    Nextest,
    Cargo,
}

fn runner(root: &Path) -> Runner {
    match run(root, "cargo-nextest", &["nextest", "--version"]) {
        Ok(()) => Runner::Nextest,
        Err(_) => Runner::Cargo,
    }
}

/// Labs, network namespaces and loop devices of the tests that are still there.
fn leftovers() -> Result<Vec<String>> {
    let labs = shoal_lab::Lab::list().context("can't list the labs")?;
    let loops = std::process::Command::new("losetup").arg("-a").output()?;
    let loops = String::from_utf8_lossy(&loops.stdout).into_owned();
    let ours = loops.lines().filter(|line| line.contains("shoal"));
    let labs = labs.into_iter().map(|name| format!("lab {name}"));
    Ok(labs.chain(ours.map(str::to_owned)).collect())
}
