//! `shoal fmt`: fleet files in their one form, as `core` says it is.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use shoal_core::fleetfile::{LARGEST_SPEC, Source, format};
use similar::TextDiff;

use super::Shell;
use super::fleet_file::{FleetFileError, read_text, replace};
use crate::args::fleet::FmtArgs;
use crate::exit::{Exit, Failure};

#[derive(Debug, Serialize)]
struct FmtView {
    files: Vec<FileView>,
}

#[derive(Debug, Serialize)]
struct FileView {
    file: String,
    /// Whether the file was, or is, in another form.
    differs: bool,
    /// With `--check`: what would change.
    diff: Option<String>,
    /// Of standard input: the text in its form.
    text: Option<String>,
}

pub(super) fn run(shell: &Shell, args: &FmtArgs) -> Result<Exit, Failure> {
    let mut view = FmtView { files: Vec::new() };
    let mut failed = None;
    for path in &args.files {
        match one(path, args.check) {
            Ok(file) => view.files.push(file),
            // The other files are done all the same; the last failure is the command's.
            Err(error) => {
                let failure = Failure::from(error);
                if let Some(earlier) = failed.replace(failure) {
                    say(shell, &earlier);
                }
            }
        }
    }
    show(shell, &view, args.check)?;
    if let Some(failure) = failed {
        return Err(failure);
    }
    let differs = args.check && view.files.iter().any(|file| file.differs);
    Ok(if differs { Exit::Differs } else { Exit::Done })
}

fn say(shell: &Shell, failure: &Failure) {
    if let Some(report) = failure.report() {
        shell.console.note(format!("{report}\n"));
    }
}

fn show(shell: &Shell, view: &FmtView, check: bool) -> Result<(), Failure> {
    if shell.console.is_json() {
        return Ok(shell.console.result("", view)?);
    }
    for FileView { file, differs, diff, text } in &view.files {
        if let Some(text) = text {
            shell.console.raw(text.as_bytes())?;
        }
        if let Some(diff) = diff {
            shell.console.raw(diff.as_bytes())?;
        }
        match (differs, check) {
            (true, true) => shell.console.note(format!("{file} is not in its form")),
            (true, false) if text.is_none() => shell.console.text(format!("{file}: formatted"))?,
            _ => {}
        }
    }
    Ok(())
}

fn one(path: &Path, check: bool) -> Result<FileView, FleetFileError> {
    let is_input = path == Path::new("-");
    let text = if is_input { read_input()? } else { read_text(path)? };
    let name = if is_input { "standard input".to_owned() } else { path.display().to_string() };
    let formatted = format(Source { name: &name, text: &text })
        .map_err(|problems| FleetFileError::Problems(Box::new(problems)))?;
    let differs = formatted != text;
    let diff = (check && differs).then(|| diff(&name, &text, &formatted));
    if differs && !check && !is_input {
        replace(path, formatted.as_bytes())?;
    }
    let text = (is_input && !check).then_some(formatted);
    Ok(FileView { file: name, differs, diff, text })
}

fn read_input() -> Result<String, FleetFileError> {
    let path = || PathBuf::from("standard input");
    let mut bytes = Vec::new();
    let limit = u64::try_from(LARGEST_SPEC).unwrap_or(u64::MAX).saturating_add(1);
    let read = io::stdin().lock().take(limit).read_to_end(&mut bytes);
    read.map_err(|source| FleetFileError::Read { path: path(), source })?;
    String::from_utf8(bytes).map_err(|_| FleetFileError::NotText { path: path() })
}

fn diff(name: &str, text: &str, formatted: &str) -> String {
    let diff = TextDiff::from_lines(text, formatted);
    diff.unified_diff().header(name, &format!("{name}, formatted")).to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const UNTIDY: &str = "fleet=\"shop\" # x\n\n\n[instance]\n";
    const TIDY: &str = "fleet = \"shop\" # x\n\n[instance]\n";

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.toml");
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn a_file_is_brought_into_its_form() {
        let (_dir, path) = file(UNTIDY);
        assert!(one(&path, false).unwrap().differs);
        assert_eq!(fs::read_to_string(&path).unwrap(), TIDY);
        assert!(!one(&path, false).unwrap().differs);
    }

    #[test]
    fn a_check_changes_nothing_and_shows_what_would() {
        let (_dir, path) = file(UNTIDY);
        let view = one(&path, true).unwrap();
        let diff = view.diff.unwrap();
        assert!(
            diff.contains("\n-fleet=\"shop\" # x\n") && diff.contains("\n+fleet = \"shop\" # x\n"),
            "{diff}"
        );
        assert!(view.differs && view.text.is_none());
        assert_eq!(fs::read_to_string(&path).unwrap(), UNTIDY);
        fs::write(&path, TIDY).unwrap();
        assert!(one(&path, true).unwrap().diff.is_none());
    }

    #[test]
    fn what_can_not_be_formatted_is_left_alone() {
        for text in ["fleet = shop\n", "{ \"fleet\": \"shop\" }\n", "a = 1\na = 2\n"] {
            let (_dir, path) = file(text);
            assert!(matches!(one(&path, false), Err(FleetFileError::Problems(_))), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let (_dir, path) = file(&"#".repeat(LARGEST_SPEC + 100));
        assert!(matches!(one(&path, false), Err(FleetFileError::Problems(_))));
        assert_eq!(fs::metadata(&path).unwrap().len(), u64::try_from(LARGEST_SPEC).unwrap() + 100);
    }
}
