//! A TOML text as its parts, each with the comments that are about it.

/// A line between two things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line<'s> {
    Blank,
    Comment(&'s str),
}

/// A whole text.
#[derive(Debug, Default)]
pub(super) struct Document<'s> {
    /// What stands at the top and is about the file.
    pub(super) head: Vec<Line<'s>>,
    /// The first has no header.
    pub(super) sections: Vec<Section<'s>>,
    /// What stands at the bottom, apart from the last section.
    pub(super) tail: Vec<Line<'s>>,
}

/// A header and what is under it, up to the next header.
#[derive(Debug, Default)]
pub(super) struct Section<'s> {
    pub(super) header: Option<Header<'s>>,
    pub(super) entries: Vec<Entry<'s>>,
    /// Comments right under the last entry.
    pub(super) end: Vec<&'s str>,
}

/// `[a.b]` or `[[a.b]]`.
#[derive(Debug)]
pub(super) struct Header<'s> {
    pub(super) before: Vec<Line<'s>>,
    /// As they are written, with their quotes.
    pub(super) keys: Vec<&'s str>,
    /// Whether it adds to a list of tables.
    pub(super) is_list: bool,
    /// On its line.
    pub(super) comment: Option<&'s str>,
    /// Comments right under it, apart from the first entry.
    pub(super) after: Vec<&'s str>,
}

/// `key = value`.
#[derive(Debug)]
pub(super) struct Entry<'s> {
    pub(super) before: Vec<Line<'s>>,
    pub(super) keys: Vec<&'s str>,
    pub(super) value: Value<'s>,
    /// On its last line.
    pub(super) comment: Option<&'s str>,
    /// Comments right under it, apart from the next entry.
    pub(super) after: Vec<&'s str>,
}

#[derive(Debug)]
pub(super) enum Value<'s> {
    /// As it is written.
    Scalar(&'s str),
    Group(Group<'s>),
}

/// A list or an inline table.
#[derive(Debug)]
pub(super) struct Group<'s> {
    pub(super) is_table: bool,
    /// On the line of the opening bracket.
    pub(super) comment: Option<&'s str>,
    pub(super) items: Vec<Item<'s>>,
    /// What stands before the closing bracket.
    pub(super) end: Vec<Line<'s>>,
    /// Whether its author has put it on several lines.
    pub(super) is_broken: bool,
}

/// One value of a group.
#[derive(Debug)]
pub(super) struct Item<'s> {
    pub(super) before: Vec<Line<'s>>,
    /// Whether it is the first on its line.
    pub(super) starts_line: bool,
    /// None in a list.
    pub(super) keys: Vec<&'s str>,
    pub(super) value: Value<'s>,
    pub(super) comment: Option<&'s str>,
}

/// A key without its quotes. Escapes stay: a key with some is no key that this program knows.
pub(super) fn bare(key: &str) -> &str {
    let quoted = |quote: char| key.strip_prefix(quote).and_then(|key| key.strip_suffix(quote));
    quoted('"').or_else(|| quoted('\'')).unwrap_or(key)
}
