//! From the parts of a text back to text.

use super::model::{Document, Entry, Group, Header, Item, Line, Section, Value};

/// Characters of a line beyond which a list is put on several.
const WIDEST: usize = 100;

/// Writes a document in the one form.
pub(super) fn write(document: &Document<'_>) -> String {
    let mut writer = Writer::default();
    writer.lines(&document.head);
    writer.blank();
    for section in &document.sections {
        writer.section(section);
    }
    writer.lines(&document.tail);
    writer.out
}

#[derive(Debug, Default)]
struct Writer {
    out: String,
    /// Whether the next line, if there is one, has a blank one before it.
    wants_blank: bool,
}

impl Writer {
    fn blank(&mut self) {
        self.wants_blank = true;
    }

    fn line(&mut self, text: &str) {
        if self.wants_blank && !self.out.is_empty() {
            self.out.push('\n');
        }
        self.wants_blank = false;
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn lines(&mut self, lines: &[Line<'_>]) {
        for line in lines {
            match line {
                Line::Blank => self.blank(),
                Line::Comment(text) => self.line(text),
            }
        }
    }

    fn comments(&mut self, comments: &[&str]) {
        for comment in comments {
            self.line(comment);
        }
    }

    fn section(&mut self, section: &Section<'_>) {
        if let Some(header) = &section.header {
            self.header(header);
        }
        for (at, entry) in section.entries.iter().enumerate() {
            let under_header =
                at == 0 && section.header.as_ref().is_some_and(|h| h.after.is_empty());
            self.entry(entry, under_header);
        }
        self.comments(&section.end);
    }

    fn header(&mut self, header: &Header<'_>) {
        self.blank();
        self.lines(&header.before);
        let path = header.keys.join(".");
        let text = if header.is_list { format!("[[{path}]]") } else { format!("[{path}]") };
        self.line(&beside(text, header.comment));
        if !header.after.is_empty() {
            self.comments(&header.after);
            self.blank();
        }
    }

    fn entry(&mut self, entry: &Entry<'_>, under_header: bool) {
        let blanks = entry.before.iter().take_while(|line| **line == Line::Blank).count();
        self.lines(&entry.before[if under_header { blanks } else { 0 }..]);
        let key = format!("{} = ", entry.keys.join("."));
        let mut text = format!("{key}{}", value(&entry.value, 0));
        if let Value::Group(group) = &entry.value
            && !text.contains('\n')
            && text.chars().count() > WIDEST
            && !group.is_table
        {
            text = format!("{key}{}", broken(group, 0, true));
        }
        self.line(&beside(text, entry.comment));
        if !entry.after.is_empty() {
            self.comments(&entry.after);
            self.blank();
        }
    }
}

fn beside(text: String, comment: Option<&str>) -> String {
    comment.map_or(text.clone(), |comment| format!("{text} {comment}"))
}

fn value(value: &Value<'_>, indent: usize) -> String {
    match value {
        Value::Scalar(text) => (*text).to_owned(),
        Value::Group(group) if group.is_broken && has_lines(group) => broken(group, indent, false),
        Value::Group(group) => inline(group, indent),
    }
}

/// Whether there is anything to put on lines of its own.
fn has_lines(group: &Group<'_>) -> bool {
    !group.items.is_empty() || !group.end.is_empty() || group.comment.is_some()
}

fn item(item: &Item<'_>, indent: usize) -> String {
    let value = value(&item.value, indent);
    if item.keys.is_empty() { value } else { format!("{} = {value}", item.keys.join(".")) }
}

fn inline(group: &Group<'_>, indent: usize) -> String {
    let items: Vec<String> = group.items.iter().map(|i| item(i, indent)).collect();
    let items = items.join(", ");
    match (group.is_table, items.is_empty()) {
        (false, _) => format!("[{items}]"),
        (true, true) => "{}".to_owned(),
        (true, false) => format!("{{ {items} }}"),
    }
}

/// On several lines: those of its author, or one for `each` item.
fn broken(group: &Group<'_>, indent: usize, each: bool) -> String {
    let (open, close) = if group.is_table { ("{", "}") } else { ("[", "]") };
    let (pad, inner) = ("  ".repeat(indent), "  ".repeat(indent + 1));
    let mut out = beside(open.to_owned(), group.comment);
    let mut at_comment = true;
    for (at, element) in group.items.iter().enumerate() {
        if at == 0 || each || at_comment || element.starts_line {
            out.push('\n');
            between(&mut out, &element.before, &inner, at == 0);
            out.push_str(&inner);
        } else {
            out.push(' ');
        }
        out.push_str(&beside(format!("{},", item(element, indent + 1)), element.comment));
        at_comment = element.comment.is_some();
    }
    out.push('\n');
    between(&mut out, &group.end, &inner, group.items.is_empty());
    out + &pad + close
}

/// Lines within a group. Where they are the first there, a blank one at the start is left out.
fn between(out: &mut String, lines: &[Line<'_>], indent: &str, mut is_first: bool) {
    for line in lines {
        match line {
            Line::Blank if is_first => {}
            Line::Blank => out.push('\n'),
            Line::Comment(text) => {
                out.push_str(indent);
                out.push_str(text);
                out.push('\n');
            }
        }
        is_first = false;
    }
}
