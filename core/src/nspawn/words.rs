//! Lists of words as systemd splits them: by white space, with quotes and backslashes.

/// The words of a value; `None` where a quote is not closed.
pub(super) fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' | '\'' => quoted(&mut chars, c, word.get_or_insert_default())?,
            '\\' => unescape(&mut chars, word.get_or_insert_default()),
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

/// Up to the closing quote.
fn quoted(chars: &mut std::str::Chars<'_>, quote: char, word: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            '\\' => unescape(chars, word),
            c if c == quote => return Some(()),
            c => word.push(c),
        }
    }
}

/// The escape of C after a backslash; any other character is itself.
fn unescape(chars: &mut std::str::Chars<'_>, word: &mut String) {
    let Some(c) = chars.next() else { return word.push('\\') };
    let plain = match c {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        's' => ' ',
        'x' => return numbered(chars, 2, 16, word, c),
        'u' => return numbered(chars, 4, 16, word, c),
        'U' => return numbered(chars, 8, 16, word, c),
        c => c,
    };
    word.push(plain);
}

/// A character by its number. One that can't be is left as it is written.
fn numbered(
    chars: &mut std::str::Chars<'_>,
    digits: usize,
    radix: u32,
    word: &mut String,
    kind: char,
) {
    let written: String = chars.clone().take(digits).collect();
    let whole = written.chars().count() == digits && written.chars().all(|c| c.is_digit(radix));
    let number = u32::from_str_radix(&written, radix).ok().filter(|n| whole && *n > 0);
    match number.and_then(char::from_u32) {
        Some(c) => {
            chars.nth(digits - 1);
            word.push(c);
        }
        None => word.extend(['\\', kind]),
    }
}

/// The parts of a path list: split at colons, but for `\:`. At most `most` parts; the last has
/// the rest.
pub(super) fn parts(text: &str, most: usize) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let full = parts.len() == most;
        let last = parts.last_mut().expect("it starts with one part");
        match c {
            ':' if !full => parts.push(String::new()),
            '\\' => unescape(&mut chars, last),
            c => last.push(c),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_systemd_splits_them() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  a  b\tc ", &["a", "b", "c"]),
            ("a \"b c\" 'd \"e'", &["a", "b c", "d \"e"]),
            ("A=\"x y\"z ''", &["A=x yz", ""]),
            (r"a\ b \x41 \n \q", &["a b", "A", "\n", "q"]),
            (r"\x4 \u00e9 \U0001f600", &["\\x4", "é", "😀"]),
        ];
        for (text, wanted) in table {
            assert_eq!(words(text).unwrap(), *wanted, "{text}");
        }
        assert_eq!(words("a \"b"), None);
    }

    #[test]
    fn paths_are_split_at_colons() {
        assert_eq!(parts("/a:/b:ro,x:y", 3), ["/a", "/b", "ro,x:y"]);
        assert_eq!(parts(r"/a\:b:/c", 3), ["/a:b", "/c"]);
        assert_eq!(parts(":/b", 3), ["", "/b"]);
    }
}
