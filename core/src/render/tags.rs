//! The tags of a template, word by word, and the bounds that keep its nesting harmless.
//!
//! minijinja bounds how deep blocks and brackets nest, but not chains such as `a.b.c…`, `not not …`
//! and `elif`, nor values that a template builds inside one another. Enough of these overflow the
//! stack, and that ends the process, so [`check`] looks before minijinja does. It takes a template
//! apart as minijinja's lexer does, and no further. Deliberately absent: any idea of grammar.

use super::RenderError;

/// Words and signs that one tag may have.
const LONGEST_TAG: usize = 512;
/// Tags of each of the words of `COUNTED` that a template may have.
const MOST_COUNTED: usize = 256;
/// What nests without looking nested: each `elif` in the one before, each value in the next.
const COUNTED: [&str; 2] = ["elif", "set"];

/// A word, a sign or a string literal within a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word<'t> {
    /// Its line in the template, from 1.
    pub(crate) line: usize,
    /// The word as it is written.
    pub(crate) text: &'t str,
}

/// What is between `{{` and `}}`, or between `{%` and `%}`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tag<'t> {
    /// The line on which it starts, from 1.
    line: usize,
    /// Its words.
    pub(crate) words: Vec<Word<'t>>,
}

impl Tag<'_> {
    /// What kind of block it opens or goes on with, if it is one.
    fn keyword(&self) -> Option<&str> {
        self.words.iter().map(|word| word.text).find(|text| !matches!(*text, "-" | "+"))
    }
}

/// Refuses a template whose nesting could end the process.
pub(super) fn check(template: &str) -> Result<(), RenderError> {
    let tags = tags(template);
    let refuse = |tag: &Tag<'_>, message| Err(RenderError { line: Some(tag.line), message });
    if let Some(tag) = tags.iter().find(|tag| tag.words.len() > LONGEST_TAG) {
        return refuse(
            tag,
            format!(
                "a tag has over {LONGEST_TAG} words and signs; is it not closed? put long lists \
                 into [vars]"
            ),
        );
    }
    for word in COUNTED {
        let mut counted = tags.iter().filter(|tag| tag.keyword() == Some(word));
        if let Some(tag) = counted.nth(MOST_COUNTED) {
            return refuse(tag, format!("it has over {MOST_COUNTED} tags `{word}`"));
        }
    }
    Ok(())
}

/// All tags of a template but comments and what is `raw`.
pub(crate) fn tags(template: &str) -> Vec<Tag<'_>> {
    let mut tags = Vec::new();
    let mut line = 1;
    let mut rest = template;
    while let Some(open) = next_tag(rest) {
        line += newlines(&rest[..open]);
        let at = &rest[open..];
        let length = match at.as_bytes().get(1) {
            Some(b'#') => at[2..].find("#}").map_or(at.len(), |end| end + 4),
            Some(b'{') => read_tag(at, "}}", line, &mut tags),
            _ => raw(at).unwrap_or_else(|| read_tag(at, "%}", line, &mut tags)),
        };
        line += newlines(&at[..length]);
        rest = &at[length..];
    }
    tags
}

fn next_tag(text: &str) -> Option<usize> {
    text.as_bytes().windows(2).position(|two| matches!(two, b"{{" | b"{%" | b"{#"))
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'\n').count()
}

/// How long the `raw` block is that `text` starts with, if it does.
fn raw(text: &str) -> Option<usize> {
    let body = 2 + only(&text[2..], "raw")?;
    let mut at = body;
    while let Some(next) = text[at..].find("{%") {
        at += next + 2;
        if let Some(end) = only(&text[at..], "endraw") {
            return Some(at + end);
        }
    }
    Some(text.len())
}

/// Where the tag ends whose inside `text` starts with, if `word` is all that is in it.
fn only(text: &str, word: &str) -> Option<usize> {
    let sign = |text: &str| text.strip_prefix(['-', '+']).map(str::len).unwrap_or(text.len());
    let rest = &text[text.len() - sign(text)..];
    let rest = rest.trim_start().strip_prefix(word)?.trim_start();
    let rest = &rest[rest.len() - sign(rest)..];
    rest.strip_prefix("%}").map(|rest| text.len() - rest.len())
}

/// Takes the words of the tag that `tag` starts with; how long it is.
fn read_tag<'t>(tag: &'t str, close: &str, line: usize, tags: &mut Vec<Tag<'t>>) -> usize {
    let mut words = Vec::new();
    let (mut at, mut brackets, mut word_line) = (2, 0_isize, line);
    while let Some(c) = tag[at..].chars().next() {
        let rest = &tag[at..];
        if brackets == 0 && rest.starts_with(close) {
            at += 2;
            break;
        }
        brackets += match c {
            '(' | '[' | '{' => 1,
            ')' | ']' | '}' => -1,
            _ => 0,
        };
        let length = match c {
            '"' | '\'' => literal(rest, c),
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        if !c.is_whitespace() {
            words.push(Word { line: word_line, text: &rest[..length] });
        }
        word_line += newlines(&rest[..length]);
        at += length;
    }
    tags.push(Tag { line, words });
    at
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the string literal that `text` starts with.
fn literal(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(template: &str) -> String {
        let words = |tag: &Tag<'_>| {
            let texts: Vec<&str> = tag.words.iter().map(|word| word.text).collect();
            format!("{}:{}", tag.line, texts.join(" "))
        };
        tags(template).iter().map(words).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn templates_come_apart_as_minijinja_has_them() {
        let cases = [
            ("a {{ b }}\n{%- if c.d -%} {#{{ x }}#}{{ e }}", "1:b | 2:- if c . d - | 2:e"),
            ("{{ {'a': {'b': 1}} }}{{ c }}", "1:{ 'a' : { 'b' : 1 } } | 1:c"),
            ("{{ '}}' ~ \"\\\"}}\" }}", "1:'}}' ~ \"\\\"}}\""),
            ("{% raw %}{{ \" }}{% x %}{%- endraw +%}{{ a }}", "1:a"),
            ("{%- raw -%}\n{{ \"{% endraw %}\n{{ a }}", "3:a"),
            ("{% rawx %}{{ a }}", "1:rawx | 1:a"),
            ("{#}{{ a }}#}{{ b }}", "1:b"),
            ("{{ a", "1:a"),
            ("{{ 'a", "1:'a"),
            ("{", ""),
        ];
        for (template, wanted) in cases {
            assert_eq!(shown(template), wanted, "{template}");
        }
    }

    #[test]
    fn what_nests_without_end_is_refused() {
        let chain = |piece: &str| format!("{{{{ x{} }}}}", piece.repeat(50_000));
        for piece in [".a", "[0]", "()", "|d", "+1", " is string", " if 1 else 1", " or 0", "[0:1]"]
        {
            let error = check(&chain(piece)).unwrap_err();
            assert!(error.message.contains("over 512 words"), "{piece}: {error}");
        }
        for piece in ["{% elif 0 %}", "{%- set x = [x] %}"] {
            let error = check(&format!("{{% if 1 %}}\n{}", piece.repeat(300))).unwrap_err();
            assert_eq!(error.line, Some(2));
            assert!(error.message.contains("over 256 tags"), "{error}");
        }
        assert_eq!(check(&"{{ a }} {% if b %}{% endif %}\n".repeat(10_000)), Ok(()));
    }
}
