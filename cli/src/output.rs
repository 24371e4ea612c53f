//! How results reach people and scripts.
//!
//! Results go to standard output: a table, or with `-o json` one document. All else (plans in the
//! making, progress, hints, errors) goes to standard error, so that a pipe gets results only.

pub(crate) mod board;
pub(crate) mod progress;
pub(crate) mod reader;
pub(crate) mod screen;
pub(crate) mod size;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod time;

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::args::{Color, Format};

/// Why a result could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("cannot write to standard output")]
    Write(#[source] io::Error),
    #[error("cannot write the result as JSON")]
    Json(#[source] serde_json::Error),
}

impl OutputError {
    /// Whether whoever read the output went away, as `head` does.
    pub(crate) fn reader_is_gone(&self) -> bool {
        matches!(self, Self::Write(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// What is known of the world that output goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Surroundings {
    pub(crate) stdout_is_terminal: bool,
    pub(crate) stderr_is_terminal: bool,
    /// `NO_COLOR` is set.
    pub(crate) no_color: bool,
    /// `CI` is set, or the terminal is dumb.
    pub(crate) plain: bool,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn look() -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        Self {
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            no_color: is_set("NO_COLOR"),
            plain: is_set("CI") || std::env::var_os("TERM").is_some_and(|term| term == "dumb"),
        }
    }
}

/// Where and how results are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Console {
    format: Format,
    color: bool,
    live: bool,
    redraws: bool,
    stdout_is_terminal: bool,
}

impl Console {
    pub(crate) fn new(format: Format, color: Color, around: Surroundings) -> Self {
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => around.stdout_is_terminal && !around.no_color && !around.plain,
        };
        let live = around.stderr_is_terminal && !around.plain;
        // What programs read is never drawn over.
        let redraws = format == Format::Table && around.stdout_is_terminal && !around.plain;
        Self { format, color, live, redraws, stdout_is_terminal: around.stdout_is_terminal }
    }

    /// Whether results are JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether tables have colours.
    pub(crate) fn color(&self) -> bool {
        self.color
    }

    /// Whether lines on standard error may change in place.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Whether what is written may change in place.
    pub(crate) fn redraws(&self) -> bool {
        self.redraws
    }

    /// Whether a person's terminal shows what is written, and obeys control characters in it.
    pub(crate) fn stdout_is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }

    /// Writes a result: `text` for people, `document` for scripts.
    pub(crate) fn result(
        &self,
        text: impl Display,
        document: &impl Serialize,
    ) -> Result<(), OutputError> {
        if self.is_json() { self.document(document) } else { self.text(text) }
    }

    /// Writes a result for people; nothing where scripts read.
    pub(crate) fn text(&self, text: impl Display) -> Result<(), OutputError> {
        if self.is_json() { Ok(()) } else { write_line(&text.to_string()) }
    }

    /// Writes one line of a stream of results.
    pub(crate) fn stream(
        &self,
        text: impl Display,
        document: &impl Serialize,
    ) -> Result<(), OutputError> {
        if self.is_json() {
            write_line(&serde_json::to_string(document).map_err(OutputError::Json)?)
        } else {
            write_line(&text.to_string())
        }
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), OutputError> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(OutputError::Write)
    }

    /// Says something on standard error, in either format.
    pub(crate) fn note(&self, text: impl Display) {
        // Where even this fails, there is no one left to tell.
        let _ = writeln!(io::stderr(), "{text}");
    }

    fn document(&self, document: &impl Serialize) -> Result<(), OutputError> {
        write_line(&serde_json::to_string_pretty(document).map_err(OutputError::Json)?)
    }
}

fn write_line(text: &str) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    let text = text.trim_end_matches('\n');
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(OutputError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMINAL: Surroundings = Surroundings {
        stdout_is_terminal: true,
        stderr_is_terminal: true,
        no_color: false,
        plain: false,
    };

    #[test]
    fn colour_and_life_are_for_terminals() {
        let console = |color, around| Console::new(Format::Table, color, around);
        assert!(console(Color::Auto, TERMINAL).color());
        assert!(console(Color::Auto, TERMINAL).is_live());
        let piped = Surroundings { stdout_is_terminal: false, ..TERMINAL };
        let quiet = Surroundings { no_color: true, ..TERMINAL };
        let ci = Surroundings { plain: true, ..TERMINAL };
        for around in [piped, quiet, ci] {
            assert!(!console(Color::Auto, around).color(), "{around:?}");
            assert!(console(Color::Always, around).color(), "{around:?}");
        }
        assert!(console(Color::Auto, piped).is_live());
        assert!(!console(Color::Always, ci).is_live());
        assert!(!console(Color::Never, TERMINAL).color());
        assert!(console(Color::Auto, TERMINAL).redraws());
        assert!(!Console::new(Format::Json, Color::Auto, TERMINAL).redraws());
    }
}
