//! What is wrong with a file, and how people see it.

use std::fmt;
use std::ops::Range;

/// Characters of a source line that an error shows.
const WIDEST_LINE: usize = 100;
/// Of these, characters left of the marker where a line is cut.
const LEFT_OF_MARKER: usize = 40;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
    /// The bytes of the file that it is about; may be empty.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where there is more to say.
    pub help: Option<String>,
    excerpt: Excerpt,
}

impl Problem {
    /// `line_text` is the line on which `column` is, `marked` the number of characters to mark.
    pub(super) fn new(
        (line, column): (usize, usize),
        span: Range<usize>,
        line_text: &str,
        marked: usize,
        message: String,
    ) -> Self {
        let excerpt = Excerpt::new(line_text, column.saturating_sub(1), marked);
        Self { line, column, span, message, help: None, excerpt }
    }
}

/// The part of a source line that is shown, free of control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    text: String,
    /// Characters before the marker.
    before: usize,
    /// Characters of the marker; at least 1.
    marked: usize,
}

impl Excerpt {
    fn new(line: &str, column: usize, marked: usize) -> Self {
        let first = if column < WIDEST_LINE { 0 } else { column.saturating_sub(LEFT_OF_MARKER) };
        let mut rest = line.chars().skip(first).map(printable);
        let mut text: String = if first > 0 { "…".into() } else { String::new() };
        text.extend(rest.by_ref().take(WIDEST_LINE));
        if rest.next().is_some() {
            text.push('…');
        }
        let before = column - first + usize::from(first > 0);
        let room = text.chars().count().saturating_sub(before);
        Self { text: text.trim_end().to_owned(), before, marked: marked.min(room).max(1) }
    }
}

/// One column for each character, and nothing that a terminal would obey.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// A text of the user's within an error: on one line, and no longer than `longest` characters.
pub(super) fn short(text: &str, longest: usize) -> String {
    let mut chars = text.chars();
    let mut shown: String = chars.by_ref().take(longest).map(printable).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

/// All that is wrong with one file, ordered by place.
///
/// `Display` shows each as compilers do: `fleet.toml:12:3: error: …`, the line with a marker, help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: String,
    problems: Vec<Problem>,
    left_out: usize,
}

impl Problems {
    pub(super) fn new(file: &str, mut problems: Vec<Problem>, left_out: usize) -> Self {
        problems.sort_by_key(|p| (p.span.start, p.span.end));
        Self { file: file.to_owned(), problems, left_out }
    }

    /// The file's name, as given in its [`Source`](super::Source).
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The problems, by place. At most 100 of them: more help no one.
    #[must_use]
    pub fn all(&self) -> &[Problem] {
        &self.problems
    }

    /// How many more were found than [`all`](Self::all) has.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    fn show(&self, problem: &Problem, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { line, column, message, help, excerpt, .. } = problem;
        write!(f, "{}:{line}:{column}: error: {message}", self.file)?;
        if !excerpt.text.trim().is_empty() {
            let (margin, gap) = (" ".repeat(line.to_string().len()), " ".repeat(excerpt.before));
            write!(f, "\n{line} | {}", excerpt.text)?;
            write!(f, "\n{margin} | {gap}{}", "^".repeat(excerpt.marked))?;
        }
        help.as_ref().map_or(Ok(()), |help| write!(f, "\nhelp: {help}"))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            if at > 0 {
                f.write_str("\n\n")?;
            }
            self.show(problem, f)?;
        }
        if self.left_out > 0 {
            write!(f, "\n\n{}: {} more errors are not shown", self.file, self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
