//! Running a command to its end, with an error that says what failed and what it said.

use std::ffi::OsStr;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail};

/// The search path of every command of the lab, on the machine and in hosts.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `program` with `args` and returns its standard output; anything but success is an error.
pub(crate) fn run<A: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = A>,
) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    Ok(String::from_utf8_lossy(&checked(&mut command)?.stdout).into_owned())
}

/// Runs `command` and returns its output; anything but success is an error.
pub(crate) fn checked(command: &mut Command) -> Result<Output> {
    let line = render(command);
    let output = command.output().with_context(|| format!("could not start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}{}", output.status, said(&output));
    }
    Ok(output)
}

/// What a command wrote, for an error message; empty when it wrote nothing.
fn said(output: &Output) -> String {
    [("stdout", &output.stdout), ("stderr", &output.stderr)]
        .iter()
        .map(|(name, bytes)| (name, String::from_utf8_lossy(bytes)))
        .filter(|(_, text)| !text.trim().is_empty())
        .map(|(name, text)| format!("\n--- {name}\n{}", tail(text.trim_end(), 4000)))
        .collect()
}

/// At most the last `limit` bytes of `text`, cut at a character.
pub(crate) fn tail(text: &str, limit: usize) -> &str {
    let start = (text.len().saturating_sub(limit)..=text.len())
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(text.len());
    &text[start..]
}

fn render(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| abridge(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// Whole scripts are arguments too; their first line tells them apart.
fn abridge(word: &str) -> String {
    match word.trim_start().split_once('\n') {
        Some((first, rest)) if !rest.trim().is_empty() => format!("{first} …"),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_the_command_its_code_and_both_streams() {
        let error = run("sh", ["-c", "echo out; echo err >&2; exit 3"]).unwrap_err().to_string();
        for part in ["sh -c", "exit status: 3", "out", "err"] {
            assert!(error.contains(part), "{part} not in {error}");
        }
    }

    #[test]
    fn a_tail_is_cut_between_characters() {
        assert_eq!(tail("abc", 10), "abc");
        assert_eq!(tail("aéb", 2), "b");
        assert_eq!(tail("aéb", 3), "éb");
    }
}
