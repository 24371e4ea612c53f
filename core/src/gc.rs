//! Which image files go, so that no disk fills with what was needed once: a pure function of the
//! files, of what is needed, of the room that there is and of the time.
//!
//! Ways in: [`plan`], for an agent's host and for the controller alike; [`Stock`], what a host has.
//!
//! Two reasons only: nothing has needed a file for long, or its room is needed now. What is held
//! goes for neither. Deliberately absent: what *is* needed; `crate::plan` says that of a host, and
//! the controller of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::image::Digest;
use crate::name::ImageName;
use crate::time::Timestamp;

/// How long, and how many, files stay that nothing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// So long after an image was needed last.
    pub keep: Duration,
    /// So long after a broken-off transfer was needed last.
    pub partial: Duration,
    /// Of each image name, so many of those needed last, however long ago that was.
    pub newest: usize,
}

impl Limits {
    /// Of a host. A week, so that whoever looks at Monday's trouble on Friday goes back without a
    /// transfer; a day for a broken-off transfer, which is worth no more than its bytes; and the
    /// last image of each name, since the next one is fetched as a difference to it.
    pub const HOST: Self = Self {
        keep: Duration::from_secs(7 * 86_400),
        partial: Duration::from_secs(86_400),
        newest: 1,
    };

    /// Nothing stays that nothing needs.
    pub const NOTHING: Self = Self { keep: Duration::ZERO, partial: Duration::ZERO, newest: 0 };

    fn of(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Partial => self.partial,
            Kind::Whole => self.keep,
        }
    }
}

/// How much of an image a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A beginning, of a transfer that was broken off or goes on.
    Partial,
    /// All of it.
    Whole,
}

/// An image's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Of which image.
    pub digest: Digest,
    /// How much of it.
    pub kind: Kind,
    /// Bytes of the disk that come free with it.
    pub size: u64,
    /// What the image is of; `None` where that is not known.
    pub name: Option<ImageName>,
    /// When it was needed last. In the future counts as now: clocks step.
    pub needed: Timestamp,
    /// Whether it is needed now, or pinned. Then it stays.
    pub held: bool,
}

/// The room on the disk, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    /// What is free.
    pub free: u64,
    /// What is to stay free.
    pub reserve: u64,
    /// What each of the transfers that are wanted lacks yet, in their order.
    pub lacking: Vec<u64>,
}

/// Why a file goes, and for how long nothing has needed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// That is long.
    Old(Duration),
    /// Its room is needed.
    Room(Duration),
}

/// After a colon, or as a sentence's end.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Old(unneeded) | Self::Room(unneeded)) = self;
        let ago = Ago(*unneeded);
        match self {
            Self::Old(_) => write!(f, "nothing has needed it for {ago}"),
            Self::Room(_) => write!(f, "its room is needed, and nothing has needed it for {ago}"),
        }
    }
}

/// A duration in its largest unit.
struct Ago(Duration);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (number, unit) = match seconds {
            0..60 => (seconds, "second"),
            60..3600 => (seconds / 60, "minute"),
            3600..172_800 => (seconds / 3600, "hour"),
            _ => (seconds / 86_400, "day"),
        };
        write!(f, "{number} {unit}{}", if number == 1 { "" } else { "s" })
    }
}

/// A file that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Of which image.
    pub digest: Digest,
    /// How much of it.
    pub kind: Kind,
    /// Bytes that come free.
    pub size: u64,
    /// Why.
    pub reason: Reason,
}

/// The files that go, in their order: those of which the time is up, then those whose room is
/// needed, each from the one that was needed longest ago.
///
/// Room is made for what is to stay free and for every transfer that it can be made for; one that
/// would not fit if all went costs nothing.
#[must_use]
pub fn plan(files: &[File], room: &Room, limits: &Limits, now: Timestamp) -> Vec<Removal> {
    let mut unheld: Vec<&File> = files.iter().filter(|file| !file.held).collect();
    unheld.sort_by_key(|file| (file.needed.min(now), file.kind, file.digest));
    let newest = newest(&unheld, limits.newest);
    let unneeded = |file: &File| now.since(file.needed);
    let is_old = |file: &File| {
        unneeded(file) >= limits.of(file.kind)
            && !(file.kind == Kind::Whole && newest.contains(&file.digest))
    };
    let goal = goal(&unheld, room);
    let (old, rest): (Vec<&File>, Vec<&File>) = unheld.into_iter().partition(|file| is_old(file));
    let mut going: Vec<Removal> =
        old.into_iter().map(|file| removal(file, Reason::Old(unneeded(file)))).collect();
    let mut free = going.iter().fold(room.free, |free, gone| free.saturating_add(gone.size));
    for file in rest {
        if free >= goal {
            break;
        }
        free = free.saturating_add(file.size);
        going.push(removal(file, Reason::Room(unneeded(file))));
    }
    going
}

fn removal(file: &File, reason: Reason) -> Removal {
    let File { digest, kind, size, .. } = file;
    Removal { digest: *digest, kind: *kind, size: *size, reason }
}

/// Of each name, those needed last, of `unheld` in the order of their time.
fn newest(unheld: &[&File], most: usize) -> BTreeSet<Digest> {
    let mut of_name: BTreeMap<&ImageName, usize> = BTreeMap::new();
    let whole = unheld.iter().rev().filter(|file| file.kind == Kind::Whole);
    let newest = whole.filter(|file| {
        let Some(name) = &file.name else { return false };
        let count = of_name.entry(name).or_default();
        *count += 1;
        *count <= most
    });
    newest.map(|file| file.digest).collect()
}

/// Bytes that are to be free.
fn goal(unheld: &[&File], room: &Room) -> u64 {
    let reachable = unheld.iter().fold(room.free, |sum, file| sum.saturating_add(file.size));
    room.lacking.iter().fold(room.reserve, |goal, lacking| {
        goal.checked_add(*lacking).filter(|with| *with <= reachable).unwrap_or(goal)
    })
}

/// What the image files of a host are, as one look found them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stock {
    /// The files that hold whole images, verified or not.
    pub whole: BTreeMap<Digest, Stored>,
    /// The beginnings of images.
    pub partial: BTreeMap<Digest, Stored>,
    /// Bytes free on their disk.
    pub free: u64,
    /// Bytes that transfers leave free there.
    pub reserve: u64,
}

/// What is known of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// Bytes of the disk that it has.
    pub size: u64,
    /// What the image is of, where that is known.
    pub name: Option<ImageName>,
    /// When it was needed last.
    pub needed: Timestamp,
}

impl Stock {
    /// Bytes of the disk that whole images have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.whole.values().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// Bytes that a transfer of the image of `size` bytes lacks yet.
    #[must_use]
    pub fn lacking(&self, digest: &Digest, size: u64) -> u64 {
        if self.whole.contains_key(digest) {
            return 0;
        }
        size.saturating_sub(self.partial.get(digest).map_or(0, |file| file.size))
    }

    /// The files, those held that `holds` says so of. Of whole ones only those that are `verified`:
    /// what is being read again is not taken away meanwhile.
    #[must_use]
    pub fn files(&self, verified: &BTreeSet<Digest>, holds: impl Fn(&Digest) -> bool) -> Vec<File> {
        let whole = self.whole.iter().filter(|(digest, _)| verified.contains(*digest));
        let whole = whole.map(|(digest, stored)| (Kind::Whole, digest, stored));
        let partial = self.partial.iter().map(|(digest, stored)| (Kind::Partial, digest, stored));
        let files = whole.chain(partial).map(|(kind, digest, stored)| {
            let Stored { size, name, needed } = stored.clone();
            File { digest: *digest, kind, size, name, needed, held: holds(digest) }
        });
        files.collect()
    }
}

#[cfg(test)]
mod tests;
