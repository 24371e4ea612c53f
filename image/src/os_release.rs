//! os-release files: assignments in a small part of the shell's language.

/// The most characters kept of a value: it ends up in tables on terminals.
const MAX_VALUE: usize = 128;

/// What an os-release file says that is of interest here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OsRelease {
    pub(crate) id: Option<String>,
    pub(crate) version_id: Option<String>,
    pub(crate) pretty_name: Option<String>,
}

impl OsRelease {
    /// Parses what can be parsed; the last assignment wins, as it does in the shell.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut release = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.trim().split_once('=') else { continue };
            match key {
                "ID" => release.id = clean(value),
                "VERSION_ID" => release.version_id = clean(value),
                "PRETTY_NAME" => release.pretty_name = clean(value),
                _ => {}
            }
        }
        release
    }
}

/// The value without its quotes. Control characters are dropped, since an image's author is not
/// to write to the terminals of those who look at it. An empty value is none.
fn clean(value: &str) -> Option<String> {
    let shown = unquote(value).into_iter().filter(|char| !char.is_control());
    let value: String = shown.take(MAX_VALUE).collect();
    (!value.is_empty()).then_some(value)
}

fn unquote(value: &str) -> Vec<char> {
    let mut plain = Vec::new();
    let mut quote = None;
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match (char, quote) {
            ('\\', None | Some('"')) => plain.extend(chars.next()),
            ('"' | '\'', None) => quote = Some(char),
            (_, Some(open)) if open == char => quote = None,
            _ => plain.push(char),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_reads_well() {
        let release = OsRelease::parse(
            b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian\"\n\
              VERSION_ID=\"12\"\n# ID=no\nID=debian\nID_LIKE=x\n",
        );
        let expected = OsRelease {
            id: Some("debian".to_owned()),
            version_id: Some("12".to_owned()),
            pretty_name: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
        };
        assert_eq!(release, expected);
    }

    #[test]
    fn quotes_and_escapes_follow_the_shell() {
        let table = [
            ("plain", Some("plain")),
            ("\"two words\"", Some("two words")),
            ("'single \"inside\" \\ kept'", Some("single \"inside\" \\ kept")),
            (r#""a \"quoted\" \$word \\ \`""#, Some("a \"quoted\" $word \\ `")),
            ("\"never closed", Some("never closed")),
            ("", None),
            ("\"\"", None),
            ("\u{1b}[31mred", Some("[31mred")),
        ];
        for (value, expected) in table {
            assert_eq!(clean(value).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn garbage_gives_nothing_or_little() {
        assert_eq!(OsRelease::parse(&[0xff, 0, b'=', 0xfe, b'\n']), OsRelease::default());
        let long = format!("ID={}", "x".repeat(10_000));
        assert_eq!(OsRelease::parse(long.as_bytes()).id, Some("x".repeat(128)));
    }
}
