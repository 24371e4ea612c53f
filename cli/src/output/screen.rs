//! Lines on a terminal that are drawn again in place.

use super::{Console, OutputError};

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// Where the size can't be known.
const USUAL: Size = Size { width: 80, height: 24 };

impl Size {
    /// That of the terminal that standard output is.
    pub(crate) fn now() -> Self {
        let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdout()) else { return USUAL };
        let (width, height) = (usize::from(size.ws_col), usize::from(size.ws_row));
        if width == 0 || height == 0 { USUAL } else { Self { width, height } }
    }
}

/// A part of the terminal, from the line on in which the cursor was at first.
#[derive(Debug)]
pub(crate) struct Screen {
    console: Console,
    /// How many lines are drawn, and on a terminal of which size.
    drawn: Option<(usize, Size)>,
}

impl Screen {
    pub(crate) fn new(console: Console) -> Self {
        Self { console, drawn: None }
    }

    /// Puts `text` in the place of what is there.
    pub(crate) fn draw(&mut self, text: &str) -> Result<(), OutputError> {
        let size = Size::now();
        let lines = fitted(text, size);
        self.console.raw(frame(&lines, self.drawn, size).as_bytes())?;
        self.drawn = Some((lines.len(), size));
        Ok(())
    }

    /// Leaves what is there for good; what is drawn next comes below, after a note perhaps.
    pub(crate) fn leave(&mut self) {
        self.drawn = None;
    }
}

/// In one piece and without clearing what is about to be written again, so that nothing flickers.
fn frame(lines: &[String], drawn: Option<(usize, Size)>, size: Size) -> String {
    let mut frame = match drawn {
        None => String::new(),
        // Of another width, what was drawn has been wrapped anew: how far up it goes is unknown.
        Some((_, before)) if before != size => "\u{1b}[H\u{1b}[2J".to_owned(),
        Some((0, _)) => String::new(),
        Some((count, _)) => format!("\u{1b}[{count}A"),
    };
    for line in lines {
        frame.push_str(line);
        frame.push_str("\u{1b}[K\n");
    }
    frame.push_str("\u{1b}[J");
    frame
}

/// The lines of a text that fit, each as far as it does.
fn fitted(text: &str, size: Size) -> Vec<String> {
    // One line is for the cursor.
    let room = size.height.saturating_sub(1).max(1);
    let all: Vec<&str> = text.lines().collect();
    let shown = if all.len() > room { room.saturating_sub(1) } else { all.len() };
    let mut lines: Vec<String> = all[..shown].iter().map(|line| cut(line, size.width)).collect();
    if all.len() > shown {
        lines.push(cut(&format!("… and {} more", all.len() - shown), size.width));
    }
    lines
}

/// The first `width` characters of a line; what only colours it takes no room.
fn cut(line: &str, width: usize) -> String {
    let mut cut = String::new();
    let (mut room, mut escape) = (width, false);
    for c in line.chars() {
        if escape {
            escape = !c.is_ascii_alphabetic();
        } else if c == '\u{1b}' {
            escape = true;
        } else if room == 0 {
            continue;
        } else {
            room -= 1;
        }
        cut.push(c);
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 5, height: 4 };

    #[test]
    fn lines_are_cut_and_keep_their_colours() {
        assert_eq!(cut("abcdefg", 5), "abcde");
        assert_eq!(cut("ab\u{1b}[31mcdefg\u{1b}[0m", 5), "ab\u{1b}[31mcde\u{1b}[0m");
        assert_eq!(cut("äöü", 2), "äö");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        assert_eq!(fitted("a\nb\nc", SIZE), ["a", "b", "c"]);
        assert_eq!(fitted("a\nb\nc\nd", Size { width: 20, ..SIZE }), ["a", "b", "… and 2 more"]);
    }

    #[test]
    fn a_frame_takes_the_place_of_the_one_before() {
        let lines = ["a".to_owned(), "b".to_owned()];
        assert_eq!(frame(&lines, None, SIZE), "a\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
        let again = frame(&lines[..1], Some((2, SIZE)), SIZE);
        assert_eq!(again, "\u{1b}[2Aa\u{1b}[K\n\u{1b}[J");
        let wider = frame(&lines[..1], Some((2, SIZE)), Size { width: 9, ..SIZE });
        assert!(wider.starts_with("\u{1b}[H\u{1b}[2J"), "{wider:?}");
    }
}
