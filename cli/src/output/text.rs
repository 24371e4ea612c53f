//! Texts that others wrote, made safe to show.

/// One line of it, without anything that a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' | '\n' | '\r' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// `1 host`, `3 hosts`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_lose_their_power() {
        assert_eq!(printable("a\u{1b}[31mb\u{9b}c\td"), "a\u{fffd}[31mb\u{fffd}c d");
        assert_eq!(printable("Käse 🧀"), "Käse 🧀");
    }

    #[test]
    fn counts() {
        assert_eq!((count(1, "host"), count(0, "host")), ("1 host".into(), "0 hosts".into()));
    }
}
