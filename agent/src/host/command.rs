//! Running a system tool and telling plainly when it failed.

use std::io::{self, Read, Write};
use std::process::{Command, ExitStatus, Stdio};

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

/// The most that a tool may give through [`pipe`], in bytes.
const MOST: u32 = 256 << 10;

/// Runs `program` with `args` and gives what it printed.
///
/// # Errors
/// Where it can't be run or exits with anything but 0.
pub fn run(program: &str, args: &[&str]) -> Result<String, CommandError> {
    let mut command = Command::new(program);
    let output = command.args(args).stdin(Stdio::null()).output();
    let output = output.map_err(not_run(program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(bad_end(program, args, output.status, &output.stderr))
}

/// Runs `program` with `args`, has it read `input`, and gives what it printed. For what no one else
/// may see: neither is copied, logged, or part of an error.
///
/// # Errors
/// Where it can't be run, exits with anything but 0, or prints more than [`MOST`] bytes.
pub fn pipe(program: &str, args: &[&str], input: &[u8]) -> Result<Vec<u8>, CommandError> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(not_run(program))?;
    let mut stderr = Vec::new();
    let mut talk = || -> io::Result<Vec<u8>> {
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        // One that does not want it all says why by how it ends.
        let _ = stdin.map(|mut stdin| stdin.write_all(input));
        let mut printed = Vec::with_capacity(usize::try_from(MOST).unwrap_or_default());
        stdout.map(|out| out.take(u64::from(MOST)).read_to_end(&mut printed)).transpose()?;
        child.stderr.take().map(|mut err| err.read_to_end(&mut stderr)).transpose()?;
        Ok(printed)
    };
    let printed = talk();
    let status = child.wait().map_err(not_run(program))?;
    match printed {
        Ok(printed) if status.success() => Ok(printed),
        Err(source) => Err(not_run(program)(source)),
        Ok(_) => Err(bad_end(program, args, status, &stderr)),
    }
}

fn not_run(program: &str) -> impl FnOnce(io::Error) -> CommandError {
    move |source| CommandError::NotRun { program: program.to_owned(), source }
}

fn bad_end(program: &str, args: &[&str], status: ExitStatus, stderr: &[u8]) -> CommandError {
    let line = [&[program], args].concat().join(" ");
    CommandError::Failed { line, status, stderr: tail(stderr) }
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

    #[test]
    fn what_is_piped_through_is_in_no_error() {
        let large = vec![7; 100 << 10];
        assert_eq!(pipe("cat", &[], &large).unwrap(), large);
        let script = "cat >/dev/null; echo hunter2; echo no such key >&2; exit 3";
        let error = pipe("sh", &["-c", script], b"hunter3").unwrap_err();
        let CommandError::Failed { status, stderr, .. } = &error else { panic!("{error}") };
        assert_eq!((status.code(), &**stderr), (Some(3), "no such key"));
        assert!(pipe("true", &[], &large).unwrap().is_empty());
        let missing = pipe("no-such-program-at-all", &[], b"hunter3").unwrap_err().to_string();
        assert!(missing.contains("doctor"), "{missing}");
    }
}
