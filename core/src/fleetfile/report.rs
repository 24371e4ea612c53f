//! The problems found so far, and where in the text they are.

use std::ops::Range;

use super::Source;
use super::problem::{Problem, Problems, short};

/// Problems that are kept; more are only counted.
const MOST: usize = 100;

/// Collects the problems of one file.
pub(super) struct Report<'s> {
    source: Source<'s>,
    /// The byte at which each line starts.
    lines: Vec<usize>,
    problems: Vec<Problem>,
    left_out: usize,
}

impl<'s> Report<'s> {
    pub(super) fn new(source: Source<'s>) -> Self {
        let newlines = source.text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(newlines).collect();
        Self { source, lines, problems: Vec::new(), left_out: 0 }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Whether more problems would only be counted, so that costly help isn't worth its time.
    pub(super) fn is_full(&self) -> bool {
        self.problems.len() >= MOST
    }

    pub(super) fn error(&mut self, span: &Range<usize>, message: impl Into<String>) {
        self.push(span, message.into(), None);
    }

    pub(super) fn error_help(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(span, message.into(), Some(help.into()));
    }

    pub(super) fn push(&mut self, span: &Range<usize>, message: String, help: Option<String>) {
        if self.is_full() {
            self.left_out += 1;
            return;
        }
        let (line, column, text) = self.locate(span.start);
        let marked = self.marked(span, text.len());
        let mut problem = Problem::new((line, column), span.clone(), text, marked, message);
        problem.help = help;
        self.problems.push(problem);
    }

    /// Takes what the TOML parser found, the first error of each line: the others follow from it.
    pub(super) fn syntax(&mut self, errors: &[toml::de::Error]) {
        let mut last = 0;
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let line = self.line(span.start);
            if line != last {
                let message = short(error.message(), 200).replace('\u{fffd}', " ");
                self.error(&span, format!("not valid TOML: {message}"));
            }
            last = line;
        }
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, byte: usize) -> usize {
        self.lines.partition_point(|start| *start <= byte)
    }

    /// Line and column of a byte, from 1, and the line's text.
    fn locate(&self, byte: usize) -> (usize, usize, &'s str) {
        let line = self.line(byte);
        let start = self.lines[line - 1];
        let end = self.lines.get(line).map_or(self.source.text.len(), |next| next - 1);
        let text = self.source.text.get(start..end).unwrap_or_default();
        let before = byte.saturating_sub(start).min(text.len());
        let column = text[..text.floor_char_boundary(before)].chars().count() + 1;
        (line, column, text.trim_end_matches('\r'))
    }

    /// How many characters of the first line of `span` to mark.
    fn marked(&self, span: &Range<usize>, line_length: usize) -> usize {
        let start = self.lines[self.line(span.start) - 1];
        let end = span.end.min(start + line_length);
        self.source.text.get(span.start..end).map_or(1, |marked| marked.chars().count())
    }

    pub(super) fn into_problems(self) -> Problems {
        Problems::new(self.source.name, self.problems, self.left_out)
    }
}
