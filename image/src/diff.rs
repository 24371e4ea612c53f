//! What changed from one image to another, file by file.
//!
//! Way in: [`diff`]. Paths are compared by kind, owner, permissions, times and content; content by
//! the stored bytes where both images store it alike, and by the plain bytes where they don't.
//! Memory is bounded by the two listings and a few blocks.
//!
//! Deliberately absent: what it takes to send the one to who has the other; see
//! [`make`](crate::make).

mod same;

use std::cmp::Ordering;
use std::fmt;
use std::path::Path;

use self::same::Sameness;
use crate::listing::{Entry, Kind, Listing};
use crate::problem::ImageError;

/// How many paths are compared between two reports of the progress.
const REPORT_EVERY: u64 = 64;

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// Ordered by path.
    pub changes: Vec<Change>,
    /// Paths that are the same in both.
    pub unchanged: u64,
    /// Paths that differ in nothing but their time. They are among `changes` only where that was
    /// asked for.
    pub times_only: u64,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// From the root, with a slash at the beginning. Bytes that are no text are replaced.
    pub path: String,
    /// `None` where it was added.
    pub old: Option<Side>,
    /// `None` where it was removed.
    pub new: Option<Side>,
    /// In what they differ, where it is in both.
    pub fields: Vec<Field>,
}

/// What a path is in one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// `file`, `directory`, `symlink`, `block device`, `character device`, `pipe` or `socket`.
    pub kind: &'static str,
    /// Bytes of a file's content; none of anything else.
    pub size: u64,
    /// The permission bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970-01-01 UTC.
    pub mtime: u32,
    /// Where a symbolic link points.
    pub target: Option<String>,
}

/// In what a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    Kind,
    Content,
    Target,
    Device,
    Mode,
    Owner,
    Xattrs,
    Time,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kind => "kind",
            Self::Content => "content",
            Self::Target => "target",
            Self::Device => "device",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Xattrs => "xattrs",
            Self::Time => "time",
        })
    }
}

/// Two images that could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("the comparison was called off")]
    Cancelled,
}

/// Compares two images; with `times`, what differs in nothing but its time is listed, too.
/// `progress` is told how many paths of how many are compared, and calls it off where it says
/// `false`. Blocks: call it where that is allowed.
///
/// # Errors
/// One of them can't be read, or is no image.
pub fn diff(
    old: &Path,
    new: &Path,
    times: bool,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Diff, DiffError> {
    let (old, new) = (Listing::read(old)?, Listing::read(new)?);
    let total = u64::try_from(new.entries.len()).expect("a count");
    let mut sameness = Sameness::new(&old, &new);
    let mut found = Diff::default();
    let mut seen: u64 = 0;
    for pair in Pairs::new(&old.entries, &new.entries) {
        if pair.1.is_some() {
            seen += 1;
        }
        if seen.is_multiple_of(REPORT_EVERY) && !progress(seen, total) {
            return Err(DiffError::Cancelled);
        }
        let fields = match pair {
            (Some(old), Some(new)) => fields(old, new, &mut sameness)?,
            _ => Vec::new(),
        };
        found.add(pair, fields, times);
    }
    Ok(found)
}

impl Diff {
    fn add(&mut self, (old, new): Pair<'_>, fields: Vec<Field>, times: bool) {
        let both = old.is_some() && new.is_some();
        if both && fields.is_empty() {
            self.unchanged += 1;
            return;
        }
        if fields == [Field::Time] {
            self.times_only += 1;
            if !times {
                return;
            }
        }
        let Some(either) = new.or(old) else { return };
        let path = format!("/{}", String::from_utf8_lossy(&either.path));
        let (old, new) = (old.map(Side::of), new.map(Side::of));
        self.changes.push(Change { path, old, new, fields });
    }
}

impl Side {
    fn of(entry: &Entry) -> Self {
        let size = match &entry.kind {
            Kind::File(content) => content.size,
            _ => 0,
        };
        let target = match &entry.kind {
            Kind::Symlink(target) => Some(String::from_utf8_lossy(target).into_owned()),
            _ => None,
        };
        let Entry { mode, uid, gid, mtime, .. } = *entry;
        Self { kind: entry.kind.name(), size, mode, uid, gid, mtime, target }
    }
}

fn fields(old: &Entry, new: &Entry, sameness: &mut Sameness<'_>) -> Result<Vec<Field>, ImageError> {
    let mut fields = Vec::new();
    match (&old.kind, &new.kind) {
        (Kind::File(before), Kind::File(after)) if !sameness.content(before, after)? => {
            fields.push(Field::Content);
        }
        (Kind::Symlink(before), Kind::Symlink(after)) if before != after => {
            fields.push(Field::Target);
        }
        (Kind::BlockDevice(before), Kind::BlockDevice(after))
        | (Kind::CharDevice(before), Kind::CharDevice(after))
            if before != after =>
        {
            fields.push(Field::Device);
        }
        (before, after) if before.name() != after.name() => fields.push(Field::Kind),
        _ => {}
    }
    let more = [
        (Field::Mode, old.mode != new.mode),
        (Field::Owner, (old.uid, old.gid) != (new.uid, new.gid)),
        // The numbers mean other attributes in another image; only having some is compared.
        (Field::Xattrs, old.xattr.is_some() != new.xattr.is_some()),
        (Field::Time, old.mtime != new.mtime),
    ];
    fields.extend(more.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field));
    Ok(fields)
}

type Pair<'a> = (Option<&'a Entry>, Option<&'a Entry>);

/// The entries of two listings side by side, in the order of their paths.
struct Pairs<'a> {
    old: &'a [Entry],
    new: &'a [Entry],
}

impl<'a> Pairs<'a> {
    fn new(old: &'a [Entry], new: &'a [Entry]) -> Self {
        Self { old, new }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Pair<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.old.first(), self.new.first()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.path.cmp(&new.path),
        };
        let old = if order.is_le() { take(&mut self.old) } else { None };
        let new = if order.is_ge() { take(&mut self.new) } else { None };
        Some((old, new))
    }
}

fn take<'a>(entries: &mut &'a [Entry]) -> Option<&'a Entry> {
    let (first, rest) = entries.split_first()?;
    *entries = rest;
    Some(first)
}
