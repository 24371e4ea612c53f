//! A command line as bash hands it over, taken apart as bash would.
//!
//! Deliberately absent: expansion of `$`, `~` and globs. What was typed is what is completed.

/// The words of a line that ends at the cursor, without their quotes. The last is the one that is
/// being typed; it is empty after a blank.
pub(super) fn words(line: &str) -> Vec<String> {
    split(line.trim_start(), |c| c.is_ascii_whitespace())
}

/// A text that is one word, without its quotes.
pub(super) fn unquoted(text: &str) -> String {
    split(text, |_| false).concat()
}

fn split(text: &str, is_blank: impl Fn(char) -> bool) -> Vec<String> {
    let (mut words, mut quote, mut after_blank) = (vec![String::new()], None, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if quote.is_none() && is_blank(c) {
            after_blank = true;
            continue;
        }
        if std::mem::take(&mut after_blank) {
            words.push(String::new());
        }
        let plain = match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                None
            }
            (Some(open), _) if c == open => {
                quote = None;
                None
            }
            // At the very end it escapes what is yet to be typed.
            (None, '\\') => chars.next(),
            (Some('"'), '\\') => escaped(&mut chars),
            _ => Some(c),
        };
        if let (Some(plain), Some(word)) = (plain, words.last_mut()) {
            word.push(plain);
        }
    }
    if after_blank {
        words.push(String::new());
    }
    words
}

/// What a backslash between double quotes stands for: itself, but for a few that it escapes.
fn escaped(chars: &mut std::str::Chars<'_>) -> Option<char> {
    match chars.clone().next() {
        Some(next) if "\"\\$`".contains(next) => chars.next(),
        _ => Some('\\'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_bash_sees_them() {
        let table: &[(&str, &[&str])] = &[
            ("shoal host sh", &["shoal", "host", "sh"]),
            ("shoal host show ", &["shoal", "host", "show", ""]),
            ("  shoal\t-l  a=b", &["shoal", "-l", "a=b"]),
            ("shoal start shop/main@h", &["shoal", "start", "shop/main@h"]),
            (r"shoal check my\ fl", &["shoal", "check", "my fl"]),
            ("shoal check 'my fl", &["shoal", "check", "my fl"]),
            (r#"shoal check "a\"b\c"'d e'f "#, &["shoal", "check", r#"a"b\cd ef"#, ""]),
            ("shoal '' x", &["shoal", "", "x"]),
            ("shoal ''", &["shoal", ""]),
            (r"shoal a\", &["shoal", "a"]),
            ("", &[""]),
        ];
        for (line, expected) in table {
            assert_eq!(words(line), *expected, "{line}");
        }
    }

    #[test]
    fn a_word_may_have_blanks() {
        assert_eq!(unquoted(r"my\ fl x"), "my fl x");
        assert_eq!(unquoted("'my fl"), "my fl");
        assert_eq!(unquoted(""), "");
    }
}
