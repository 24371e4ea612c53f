//! Running other programs: to their end, at a low priority, and with what they used.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// What a command used from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// CPU time, its own and the kernel's for it.
    pub(super) cpu: Duration,
    /// The most memory that it had resident, in bytes.
    pub(super) memory: u64,
}

/// A command that gives way to everything else on the machine.
pub(super) fn nice(program: &str) -> Command {
    let mut command = Command::new("nice");
    command.arg(program).stdin(Stdio::null());
    command
}

/// Runs a command to its end and gives what it printed.
///
/// # Errors
/// Where it does not end with 0, with what it said.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let output = command.output().with_context(|| format!("can't start {line}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line} ended with {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program in `dir` to its end under `time`, which is GNU time, and gives what it used.
///
/// # Errors
/// Where it does not end with 0, or GNU time is not there.
pub(super) fn measured(
    mut time: Command,
    dir: &Path,
    program: &str,
    arguments: &[&str],
) -> Result<Usage> {
    let told = dir.join("used");
    time.args(["--format=%U %S %M", "--output"]).arg(&told).arg("--").arg(program);
    run(time.args(arguments).current_dir(dir))?;
    used(&fs::read_to_string(&told)?)
}

fn used(told: &str) -> Result<Usage> {
    let words: Vec<&str> = told.split_whitespace().collect();
    let [user, system, kib] = words[..] else { bail!("time said {told:?}") };
    let cpu = user.parse::<f64>()? + system.parse::<f64>()?;
    Ok(Usage { cpu: Duration::from_secs_f64(cpu), memory: kib.parse::<u64>()? << 10 })
}

/// A path as an argument; the benchmark's own paths are all text.
///
/// # Errors
/// Where it is no text.
pub(super) fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_time_tells_is_read() {
        let usage = used("1.25 0.50 2048\n").unwrap();
        assert_eq!(usage, Usage { cpu: Duration::from_millis(1750), memory: 2 << 20 });
        assert!(used("Command exited with non-zero status 1\n").is_err());
    }
}
