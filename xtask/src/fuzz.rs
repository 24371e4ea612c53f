//! Runs the fuzz targets of `fuzz/` for a while, from the corpus that is kept there.
//!
//! The compiler's own coverage passes do on stable Rust, so neither a nightly nor cargo-fuzz is
//! needed; it can be used on the same folder.

use std::env::consts::ARCH;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

const TARGETS: &[&str] = &["index", "recipe"];

/// Of each target, in a run of all tests.
pub(crate) const SECONDS: u64 = 30;

/// Tells libFuzzer which branches an input takes, and what it is compared with.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// An input that takes longer, or more memory, is a finding. Both are far more than any should
/// take, so that a slow machine finds nothing.
const LIMITS: &[&str] = &["-timeout=30", "-rss_limit_mb=768", "-max_len=8192"];

/// Builds the targets, and runs each for so many seconds.
pub(crate) fn fuzz(root: &Path, seconds: u64) -> Result<()> {
    let built = build(root)?;
    let work = tempfile::Builder::new().prefix("shoal-fuzz").tempdir_in(memory())?;
    TARGETS.iter().try_for_each(|target| run(root, &built, work.path(), target, seconds))
}

/// Where the programs are.
fn build(root: &Path) -> Result<PathBuf> {
    let target = format!("{ARCH}-unknown-linux-gnu");
    let dir = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let dir = dir.join("fuzz");
    eprintln!("xtask: building the fuzz targets");
    let status = Command::new(env::var_os("CARGO").as_deref().unwrap_or(OsStr::new("cargo")))
        .args(["build", "--quiet", "--locked", "--bins", "--target", &target, "--target-dir"])
        .arg(&dir)
        .env("RUSTFLAGS", COVERAGE)
        .current_dir(root.join("fuzz"))
        .status()
        .context("can't run cargo")?;
    ensure!(status.success(), "the fuzz targets can't be built ({status})");
    Ok(dir.join(target).join("debug"))
}

/// A folder in memory, where there is one: every input makes files.
fn memory() -> PathBuf {
    Some(PathBuf::from("/dev/shm")).filter(|dir| dir.is_dir()).unwrap_or_else(env::temp_dir)
}

fn run(root: &Path, built: &Path, work: &Path, target: &str, seconds: u64) -> Result<()> {
    let found = work.join(target);
    let artifacts = built.join("artifacts").join(target);
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&artifacts)?;
    eprintln!("xtask: fuzzing {target} for {seconds} s");
    let program = built.join(target);
    let output = Command::new(&program)
        .args(LIMITS)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        // What is new goes to the first folder, which is thrown away.
        .arg(&found)
        .arg(root.join("fuzz/corpus").join(target))
        .env("TMPDIR", work)
        .output()
        .with_context(|| format!("can't run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        eprintln!("xtask: {target}: {}", text.lines().last().unwrap_or("no word"));
        return Ok(());
    }
    let input = text.split("Test unit written to ").nth(1).and_then(|rest| rest.lines().next());
    let end: Vec<&str> = text.lines().rev().take(40).collect();
    eprintln!("{}", end.into_iter().rev().collect::<Vec<_>>().join("\n"));
    match input {
        Some(input) => bail!(
            "the fuzz target {target} fails on the input {input}; to see it again, run \
             `{} {input}`; once it is mended, move it to fuzz/corpus/{target}/ under a name that \
             says what it is",
            program.display()
        ),
        None => bail!("the fuzz target {target} ended with {}", output.status),
    }
}
