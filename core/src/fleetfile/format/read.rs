//! From text to its parts.
//!
//! The text is known to be good TOML. Which comment is about what is decided here: one on the line
//! of a thing, and one right above it, is about that thing; one right below a thing, with a blank
//! line after it, is about what is above. What is apart from both goes with what follows.

use std::mem::take;

use toml_parser::parser::{Event, EventKind, parse_document};

use super::model::{Document, Entry, Group, Header, Item, Line, Section, Value};

/// Takes a well-formed TOML text apart.
pub(super) fn read(text: &str) -> Document<'_> {
    let tokens = toml_parser::Source::new(text).lex().into_vec();
    let mut events: Vec<Event> = Vec::new();
    parse_document(&tokens, &mut events, &mut ());
    Reader { text, events, at: 0 }.document()
}

/// What comes next, where it is to be decided whom comments belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Entry,
    Header,
    End,
}

struct Reader<'s> {
    text: &'s str,
    events: Vec<Event>,
    at: usize,
}

impl<'s> Reader<'s> {
    fn next(&mut self) -> Option<(EventKind, &'s str)> {
        let event = self.events.get(self.at)?;
        self.at += 1;
        let text = self.text.get(event.span().start()..event.span().end());
        Some((event.kind(), text.unwrap_or_default()))
    }

    fn peek(&self) -> Option<EventKind> {
        self.events.get(self.at).map(Event::kind)
    }

    fn skip(&mut self, kind: EventKind) {
        while self.peek() == Some(kind) {
            self.at += 1;
        }
    }

    fn document(mut self) -> Document<'s> {
        let mut document = Document { sections: vec![Section::default()], ..Document::default() };
        let mut lines = Vec::new();
        while let Some((kind, text)) = self.next() {
            match kind {
                EventKind::Newline => lines.push(Line::Blank),
                EventKind::Comment => {
                    lines.push(Line::Comment(text.trim_end()));
                    self.line_end();
                }
                EventKind::StdTableOpen | EventKind::ArrayTableOpen => {
                    let before = settle(&mut document, take(&mut lines), Next::Header);
                    let is_list = kind == EventKind::ArrayTableOpen;
                    let header = Some(self.header(before, is_list));
                    document.sections.push(Section { header, ..Section::default() });
                }
                EventKind::SimpleKey => {
                    let before = settle(&mut document, take(&mut lines), Next::Entry);
                    let entry = self.entry(before, text);
                    last(&mut document).entries.push(entry);
                }
                _ => {}
            }
        }
        let tail = settle(&mut document, lines, Next::End);
        Document { tail, ..document }
    }

    fn header(&mut self, before: Vec<Line<'s>>, is_list: bool) -> Header<'s> {
        let mut keys = Vec::new();
        while let Some((kind, text)) = self.next() {
            match kind {
                EventKind::SimpleKey => keys.push(text),
                EventKind::StdTableClose | EventKind::ArrayTableClose => break,
                _ => {}
            }
        }
        Header { before, keys, is_list, comment: self.line_end(), after: Vec::new() }
    }

    fn entry(&mut self, before: Vec<Line<'s>>, first: &'s str) -> Entry<'s> {
        let (keys, value) = self.pair(first);
        Entry { before, keys, value, comment: self.line_end(), after: Vec::new() }
    }

    /// A key whose first part has been read, and its value.
    fn pair(&mut self, first: &'s str) -> (Vec<&'s str>, Value<'s>) {
        let mut keys = vec![first];
        while let Some((kind, text)) = self.next() {
            match kind {
                EventKind::SimpleKey => keys.push(text),
                EventKind::KeyValSep => break,
                _ => {}
            }
        }
        self.skip(EventKind::Whitespace);
        let value = match self.next() {
            Some((kind, text)) => self.value(kind, text),
            None => Value::Scalar(""),
        };
        (keys, value)
    }

    fn value(&mut self, kind: EventKind, text: &'s str) -> Value<'s> {
        match kind {
            EventKind::ArrayOpen => Value::Group(self.group(false)),
            EventKind::InlineTableOpen => Value::Group(self.group(true)),
            _ => Value::Scalar(text),
        }
    }

    fn group(&mut self, is_table: bool) -> Group<'s> {
        let mut group =
            Group { is_table, comment: None, items: vec![], end: vec![], is_broken: false };
        let (mut lines, mut starts_line) = (Vec::new(), false);
        while let Some((kind, text)) = self.next() {
            match kind {
                EventKind::ArrayClose | EventKind::InlineTableClose => break,
                EventKind::Whitespace | EventKind::ValueSep => {}
                EventKind::Newline => {
                    if starts_line {
                        lines.push(Line::Blank);
                    }
                    (starts_line, group.is_broken) = (true, true);
                }
                EventKind::Comment => {
                    let text = text.trim_end();
                    match beside(&mut group) {
                        Some(place) if !starts_line => *place = Some(text),
                        _ => lines.push(Line::Comment(text)),
                    }
                    self.line_end();
                    (starts_line, group.is_broken) = (true, true);
                }
                _ => {
                    let (keys, value) = match kind {
                        EventKind::SimpleKey => self.pair(text),
                        _ => (Vec::new(), self.value(kind, text)),
                    };
                    let before = tidy(take(&mut lines));
                    group.items.push(Item { before, starts_line, keys, value, comment: None });
                    starts_line = false;
                }
            }
        }
        group.end = tidy(lines);
        group.end.pop_if(|line| *line == Line::Blank);
        group
    }

    /// Goes past the end of the line. Returns the comment before it.
    fn line_end(&mut self) -> Option<&'s str> {
        self.skip(EventKind::Whitespace);
        let mut comment = None;
        if self.peek() == Some(EventKind::Comment) {
            comment = self.next().map(|(_, text)| text.trim_end());
        }
        if self.peek() == Some(EventKind::Newline) {
            self.at += 1;
        }
        comment
    }
}

/// Where a comment on the line of what was read last in a group belongs.
fn beside<'g, 's>(group: &'g mut Group<'s>) -> Option<&'g mut Option<&'s str>> {
    let place = match group.items.last_mut() {
        Some(item) => &mut item.comment,
        None => &mut group.comment,
    };
    place.is_none().then_some(place)
}

fn last<'d, 's>(document: &'d mut Document<'s>) -> &'d mut Section<'s> {
    document.sections.last_mut().expect("a document has its first section from the start")
}

/// Gives the lines before `next` that are about what is above them, or about the file, to that.
/// Returns the others.
fn settle<'s>(document: &mut Document<'s>, lines: Vec<Line<'s>>, next: Next) -> Vec<Line<'s>> {
    let is_first = document.sections.len() == 1 && document.sections[0].entries.is_empty();
    let mut lines = tidy(lines);
    if is_first {
        if next != Next::End {
            let rest = lines.split_off(head(&lines));
            document.head = std::mem::replace(&mut lines, rest);
        }
        return lines;
    }
    let above = lines.iter().take_while(|line| **line != Line::Blank).count();
    if above == lines.len() && next != Next::End {
        return lines;
    }
    let rest = lines.split_off(above);
    let comments = lines.into_iter().filter_map(|line| match line {
        Line::Comment(text) => Some(text),
        Line::Blank => None,
    });
    let section = last(document);
    match (next, section.entries.last_mut(), &mut section.header) {
        (Next::Entry, Some(entry), _) => entry.after.extend(comments),
        (Next::Entry, None, Some(header)) => header.after.extend(comments),
        _ => section.end.extend(comments),
    }
    rest
}

/// How many of the first lines of a file are about the file: those before the last blank line,
/// and what tools are told at the top, such as `#:schema`.
fn head(lines: &[Line<'_>]) -> usize {
    let directive = |line: &&Line<'_>| matches!(line, Line::Comment(c) if c.starts_with("#:") || c.starts_with("#!"));
    let blank = lines.iter().rposition(|line| *line == Line::Blank);
    blank.map_or_else(|| lines.iter().take_while(directive).count(), |at| at + 1)
}

/// No two blank lines in a row.
fn tidy(mut lines: Vec<Line<'_>>) -> Vec<Line<'_>> {
    lines.dedup_by(|next, line| *next == Line::Blank && *line == Line::Blank);
    lines
}
