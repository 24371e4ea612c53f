//! The dialect of systemd's files: sections, `Key=value`, comments, lines that go on.

/// One `Key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) section: String,
    pub(super) key: String,
    pub(super) value: String,
    /// The line on which it starts, from 1.
    pub(super) line: usize,
}

/// A line that systemd would not read either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stray {
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) problem: &'static str,
}

/// What is in a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ini {
    pub(super) assignments: Vec<Assignment>,
    pub(super) strays: Vec<Stray>,
}

/// Reads a text.
pub(super) fn parse(text: &str) -> Ini {
    let mut ini = Ini::default();
    let mut section: Option<String> = None;
    for (line, text) in logical_lines(text) {
        let text = text.trim();
        let stray = |problem| Stray { line, text: text.to_owned(), problem };
        if text.is_empty() {
            continue;
        }
        if let Some(rest) = text.strip_prefix('[') {
            match rest.strip_suffix(']') {
                Some(name) => section = Some(name.to_owned()),
                None => ini.strays.push(stray("it is no section's header, since the ] is missing")),
            }
            continue;
        }
        match (text.split_once('='), &section) {
            (Some((key, value)), Some(section)) => ini.assignments.push(Assignment {
                section: section.clone(),
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
                line,
            }),
            (Some(_), None) => ini.strays.push(stray("it is in no section")),
            (None, _) => ini.strays.push(stray("it has no =")),
        }
    }
    ini
}

/// Lines without comments. One that ends with a backslash goes on in the next, also past comments.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let backslashes = line.bytes().rev().take_while(|b| *b == b'\\').count();
        let ends_open = backslashes % 2 == 1;
        let part =
            if ends_open { format!("{} ", &line[..line.len() - 1]) } else { line.to_owned() };
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, last)) => last.push_str(&part),
            None => lines.push((at + 1, part)),
        }
        goes_on = ends_open;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, usize)> {
        let shown = |a: Assignment| (format!("{}.{}={}", a.section, a.key, a.value), a.line);
        parse(text).assignments.into_iter().map(shown).collect()
    }

    #[test]
    fn keys_have_their_section_and_line() {
        let text = "# a comment\n[Exec]\n Boot = yes \n;x=y\nA=\n[Files]\r\nBind=/a:/b=c\r\n";
        let wanted = [("Exec.Boot=yes", 3), ("Exec.A=", 5), ("Files.Bind=/a:/b=c", 7)]
            .map(|(a, l)| (a.to_owned(), l));
        assert_eq!(read(text), wanted);
        assert_eq!(read("\u{feff}[E]\nA=1")[0].0, "E.A=1");
    }

    #[test]
    fn a_line_goes_on_after_a_backslash_and_past_comments() {
        let text = "[E]\nA=one \\\n# no\n  ; no\n two\\\nthree\nB=c:\\\\\nC=1\\";
        assert_eq!(
            read(text),
            [("E.A=one   two three".to_owned(), 2), ("E.B=c:\\\\".into(), 7), ("E.C=1".into(), 8)]
        );
    }

    #[test]
    fn what_is_none_of_it_is_kept_apart() {
        let ini = parse("A=1\n[E\n[E]\nwords\n=x\n");
        let lines: Vec<usize> = ini.strays.iter().map(|stray| stray.line).collect();
        assert_eq!((lines, ini.assignments.len()), (vec![1, 2, 4], 1));
    }
}
