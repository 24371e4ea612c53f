//! Running a system tool and telling plainly when it failed.

use std::process::{Command, Stdio};

/// A tool that could not be run, or failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It did not start.
    #[error("can't run {program}; is it installed? `shoal-agent doctor` tells what is missing")]
    NotRun {
        /// The tool.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended badly.
    #[error("`{line}` failed ({status}): {stderr}")]
    Failed {
        /// The tool with its arguments.
        line: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last kilobyte of what it said.
        stderr: String,
    },
}

/// The most of a tool's complaints that is kept, in bytes.
const TAIL: usize = 1024;

/// Runs `program` with `args` and gives what it printed.
///
/// # Errors
/// Where it can't be run or exits with anything but 0.
pub fn run(program: &str, args: &[&str]) -> Result<String, CommandError> {
    let mut command = Command::new(program);
    let output = command.args(args).stdin(Stdio::null()).output();
    let output =
        output.map_err(|source| CommandError::NotRun { program: program.to_owned(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let line = [&[program], args].concat().join(" ");
    Err(CommandError::Failed { line, status: output.status, stderr: tail(&output.stderr) })
}

fn tail(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(TAIL);
    String::from_utf8_lossy(&bytes[from..]).trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_gives_the_output_and_failure_the_reason() {
        assert_eq!(run("echo", &["a", "b"]).unwrap(), "a b\n");
        let error = run("ls", &["/nonexistent-directory"]).unwrap_err().to_string();
        assert!(
            error.contains("ls /nonexistent-directory") && error.contains("No such"),
            "{error}"
        );
        let missing = run("no-such-program-at-all", &[]).unwrap_err().to_string();
        assert!(missing.contains("doctor"), "{missing}");
    }
}
