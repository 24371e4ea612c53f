//! Whether a program inside ends with 0.

use super::program::{self, Ended};
use super::{quoted, shortened};
use crate::host::enter::{self, Container};

/// Characters of a command that a verdict repeats.
const LONGEST_COMMAND: usize = 80;

/// Runs `words` inside, as root there.
pub(super) async fn check(
    container: &Container,
    words: &[String],
    env: &[(String, String)],
) -> Result<(), String> {
    let ended = program::run(enter::command(container, words, env)).await;
    let ended = ended.map_err(|e| format!("can't run {}: {e}", shown(words)))?;
    verdict(words, &ended)
}

/// A command as verdicts name it.
pub(super) fn shown(words: &[String]) -> String {
    let line = words.join(" ");
    let plain = line.chars().map(|c| if c.is_control() { ' ' } else { c });
    format!("`{}`", shortened(plain, LONGEST_COMMAND))
}

fn verdict(words: &[String], ended: &Ended) -> Result<(), String> {
    let Ended::With { status, out, err } = ended else {
        return Err(format!("{} says over 1 MiB and was ended", shown(words)));
    };
    if status.success() {
        return Ok(());
    }
    let how = match status.code() {
        Some(code) => format!("ended with {code}"),
        None => format!("did not end by itself ({status})"),
    };
    let said = [err, out].into_iter().map(|bytes| first_line(bytes)).find(|line| !line.is_empty());
    let said = said.map(|line| format!(": {line}")).unwrap_or_default();
    Err(format!("{} {how}{said}", shown(words)))
}

fn first_line(bytes: &[u8]) -> String {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(quoted);
    lines.find(|line| !line.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn a_failure_tells_the_command_its_code_and_its_first_words() {
        let words = ["/bin/check".to_owned(), "--deep".into()];
        let said = |raw, out: &str, err: &str| {
            let status = ExitStatus::from_raw(raw);
            verdict(&words, &Ended::With { status, out: out.into(), err: err.into() })
        };
        assert_eq!(said(0, "whatever", "whatever"), Ok(()));
        for (raw, out, err, told) in [
            (0x300, "", "", "`/bin/check --deep` ended with 3"),
            (0x100, "\n two\nthree", "", "`/bin/check --deep` ended with 1: two"),
            (0x100, "out", "no database\nmore", "`/bin/check --deep` ended with 1: no database"),
            (9, "", "", "`/bin/check --deep` did not end by itself (signal: 9 (SIGKILL))"),
        ] {
            assert_eq!(said(raw, out, err).unwrap_err(), told);
        }
        let told = verdict(&words, &Ended::SaidTooMuch).unwrap_err();
        assert_eq!(told, "`/bin/check --deep` says over 1 MiB and was ended");
    }

    #[test]
    fn a_long_command_is_told_in_short() {
        let told = shown(&["/bin/sh".into(), "-c".into(), "a\nb".repeat(100)]);
        assert_eq!(told.chars().count(), LONGEST_COMMAND + 3);
        assert!(told.starts_with("`/bin/sh -c a ba b") && told.ends_with("…`"), "{told}");
    }
}
