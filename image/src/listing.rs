//! Everything that is in an image: each path with its kind, owner, times and the place of its bytes.
//!
//! Way in: [`Listing::read`]. The inode and directory tables are read once, whole and with a bound,
//! and walked from the root. What a hostile image can cost is bounded by the size of its tables,
//! the number of paths and their depth: a directory that contains itself is found by the latter.
//!
//! Deliberately absent: what extended attributes say. Two files have the same ones where they refer
//! to the same bytes; see [`Entry::xattr`].

mod content;
mod plain;

use std::fs::File;
use std::path::{Path, PathBuf};

pub(crate) use self::content::{Content, Contents};
use self::plain::{Fields, Plain};
use crate::inode::InodeRef;
use crate::inspect::open_checked;
use crate::metadata::Reader;
use crate::problem::{ImageError, Part, Problem};
use crate::superblock::Superblock;
use crate::tables::{Tables, WALK_BUDGET};

/// The most paths of an image that are listed.
const MOST_PATHS: usize = 2_000_000;

/// The most blocks that all listed files may have: 128 MiB in memory, and 1 TiB of file content at
/// the usual size of a block.
const MOST_BLOCKS: usize = 8 << 20;

/// The deepest path: as deep as the kernel resolves one of the longest names.
const DEEPEST: usize = 1024;

/// The longest target of a symbolic link, as in the kernel.
const MAX_TARGET: u32 = 4096;

/// An inode without extended attributes.
const NO_XATTR: u32 = u32::MAX;

/// What is in an image.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) path: PathBuf,
    pub(crate) superblock: Superblock,
    pub(crate) file: File,
    /// Ordered by path, directories before what is in them; the root is the first.
    pub(crate) entries: Vec<Entry>,
    /// Where each fragment stands, and how long it is there.
    pub(crate) fragments: Vec<Stored>,
}

/// A path of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Without a slash at the beginning; empty for the root.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// The permission bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970-01-01 UTC.
    pub(crate) mtime: u32,
    /// The number of the inode: names with the same one are one file.
    pub(crate) inode: u32,
    /// The number of its extended attributes in the image's table.
    pub(crate) xattr: Option<u32>,
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File(Content),
    Symlink(Vec<u8>),
    BlockDevice(u32),
    CharDevice(u32),
    Pipe,
    Socket,
}

/// Where a block stands, and how long it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) compressed: bool,
}

impl Stored {
    /// A length as it stands in the tables: one bit says that the bytes are plain.
    pub(crate) fn new(offset: u64, length: u32) -> Self {
        const PLAIN: u32 = 1 << 24;
        Self { offset, length: length & !PLAIN, compressed: length & PLAIN == 0 }
    }
}

impl Kind {
    /// In a word.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File(_) => "file",
            Self::Symlink(_) => "symlink",
            Self::BlockDevice(_) => "block device",
            Self::CharDevice(_) => "character device",
            Self::Pipe => "pipe",
            Self::Socket => "socket",
        }
    }
}

impl Listing {
    /// Reads all of an image's tables. Blocks: call it where that is allowed.
    ///
    /// # Errors
    /// The file is no image, or too much for this; see [`crate::inspect`].
    pub(crate) fn read(path: &Path) -> Result<Self, ImageError> {
        Self::of(path).map_err(|problem| ImageError { path: path.to_owned(), problem })
    }

    fn of(path: &Path) -> Result<Self, Problem> {
        let (file, superblock) = open_checked(path)?;
        let mut reader = Reader::new(&file, superblock.compressor, WALK_BUDGET);
        let tables = Tables::check(&mut reader, &superblock)?;
        // Another budget: everything is read once more.
        let mut reader = Reader::new(&file, superblock.compressor, WALK_BUDGET);
        let fragments = fragments(&mut reader, &tables, superblock.fragments)?;
        let ids = ids(&mut reader, &superblock)?;
        let walk = Walk {
            inodes: Plain::read(&mut reader, tables.inodes)?,
            directories: Plain::read(&mut reader, tables.directories)?,
            ids,
            block_size: superblock.block_size,
            blocks: 0,
            entries: Vec::new(),
        };
        let mut entries = walk.all(InodeRef::unpack(superblock.root_inode))?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { path: path.to_owned(), superblock, file, entries, fragments })
    }

    /// The entry at a path.
    pub(crate) fn find(&self, path: &[u8]) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| entry.path.as_slice().cmp(path)).ok()?;
        self.entries.get(at)
    }
}

fn fragments(reader: &mut Reader<'_>, tables: &Tables, count: u32) -> Result<Vec<Stored>, Problem> {
    let records = tables.fragments.all(reader)?;
    let record = |bytes: &[u8]| {
        let mut fields = Fields::new(bytes, Part::Fragments, 0);
        let offset = fields.u64()?;
        Ok(Stored::new(offset, fields.u32()?))
    };
    let count = usize::try_from(count).expect("usize has at least 32 bits");
    records.chunks_exact(16).take(count).map(record).collect()
}

fn ids(reader: &mut Reader<'_>, superblock: &Superblock) -> Result<Vec<u32>, Problem> {
    let records = Tables::ids(superblock).all(reader)?;
    Ok(records
        .chunks_exact(4)
        .filter_map(|id| id.first_chunk())
        .copied()
        .map(u32::from_le_bytes)
        .collect())
}

/// A walk through an image's directories.
struct Walk {
    inodes: Plain,
    directories: Plain,
    ids: Vec<u32>,
    block_size: u32,
    blocks: usize,
    entries: Vec<Entry>,
}

/// A directory that is yet to be looked into.
struct Ahead {
    path: Vec<u8>,
    depth: usize,
    place: Place,
}

/// Where the entries of a directory stand.
#[derive(Clone, Copy)]
struct Place {
    block: u32,
    offset: u16,
    length: u32,
}

/// An inode with what it leads to.
struct Inode {
    entry: Entry,
    directory: Option<Place>,
}

impl Walk {
    fn all(mut self, root: InodeRef) -> Result<Vec<Entry>, Problem> {
        let Inode { entry, directory } = self.inode(root, Vec::new())?;
        let Some(place) = directory else {
            return Err(self.inodes.damaged("has something else than a directory as its root"));
        };
        self.entries.push(entry);
        let mut ahead = vec![Ahead { path: Vec::new(), depth: 0, place }];
        while let Some(next) = ahead.pop() {
            self.directory(&next, &mut ahead)?;
        }
        Ok(self.entries)
    }

    fn directory(&mut self, here: &Ahead, ahead: &mut Vec<Ahead>) -> Result<(), Problem> {
        for (name, inode) in self.names(here.place)? {
            let mut path = here.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(name);
            let Inode { entry, directory } = self.inode(inode, path)?;
            if let Some(place) = directory {
                let depth = here.depth + 1;
                if depth > DEEPEST {
                    return Err(self.directories.damaged("is nested without an end"));
                }
                ahead.push(Ahead { path: entry.path.clone(), depth, place });
            }
            self.add(entry)?;
        }
        Ok(())
    }

    fn add(&mut self, entry: Entry) -> Result<(), Problem> {
        if self.entries.len() == MOST_PATHS {
            return Err(Problem::TooManyPaths { limit: MOST_PATHS });
        }
        if let Kind::File(content) = &entry.kind {
            self.blocks += content.blocks.len();
        }
        if self.blocks > MOST_BLOCKS {
            return Err(Problem::TooManyBlocks { limit: MOST_BLOCKS });
        }
        self.entries.push(entry);
        Ok(())
    }

    fn names(&self, place: Place) -> Result<Vec<(Vec<u8>, InodeRef)>, Problem> {
        let mut names = Vec::new();
        // Three bytes stand for `.` and `..`, which are not stored.
        let mut left = u64::from(place.length.saturating_sub(3));
        if left == 0 {
            return Ok(names);
        }
        let mut fields = self.directories.at(place.block.into(), place.offset)?;
        while left > 0 {
            let count = fields.u32()?;
            let block = fields.u32()?.into();
            let _first_number = fields.u32()?;
            if count >= 256 {
                return Err(fields.damaged("has a directory of a wrong form"));
            }
            left = left.saturating_sub(12);
            for _ in 0..=count {
                let offset = fields.u16()?;
                let _number_and_kind = fields.u32()?;
                let length = usize::from(fields.u16()?) + 1;
                if length > 256 {
                    return Err(fields.damaged("has a directory entry with too long a name"));
                }
                let name = fields.bytes(length)?.to_vec();
                if name.contains(&b'/') || name == b"." || name == b".." {
                    return Err(fields.damaged("has a directory entry with an impossible name"));
                }
                names.push((name, InodeRef { block, offset }));
                left = left.saturating_sub(8 + u64::try_from(length).expect("at most 256"));
            }
        }
        Ok(names)
    }

    fn inode(&self, place: InodeRef, path: Vec<u8>) -> Result<Inode, Problem> {
        let mut fields = self.inodes.at(place.block, place.offset)?;
        let number = fields.u16()?;
        let mode = fields.u16()?;
        let (uid, gid) = (fields.u16()?, fields.u16()?);
        let mtime = fields.u32()?;
        let inode = fields.u32()?;
        let Body { kind, xattr, directory } = body(number, &mut fields, self.block_size)?;
        let id = |index: u16| {
            let found = self.ids.get(usize::from(index)).copied();
            found.ok_or_else(|| self.inodes.damaged("refers to a user id that is not there"))
        };
        let (uid, gid) = (id(uid)?, id(gid)?);
        let entry = Entry { path, kind, mode, uid, gid, mtime, inode, xattr };
        Ok(Inode { entry, directory })
    }
}

/// What follows an inode's header.
struct Body {
    kind: Kind,
    xattr: Option<u32>,
    directory: Option<Place>,
}

impl Body {
    fn plain(kind: Kind) -> Self {
        Self { kind, xattr: None, directory: None }
    }

    fn with_xattr(kind: Kind, xattr: u32) -> Self {
        Self { kind, xattr: (xattr != NO_XATTR).then_some(xattr), directory: None }
    }
}

fn body(number: u16, fields: &mut Fields<'_>, block_size: u32) -> Result<Body, Problem> {
    Ok(match number {
        1 => directory(fields)?,
        2 => Body::plain(Kind::File(content::read_basic(fields, block_size)?)),
        3 => Body::plain(symlink(fields)?),
        4 => Body::plain(Kind::BlockDevice(device(fields)?)),
        5 => Body::plain(Kind::CharDevice(device(fields)?)),
        6 => Body::plain(Kind::Pipe),
        7 => Body::plain(Kind::Socket),
        8 => extended_directory(fields)?,
        9 => {
            let (content, xattr) = content::read_extended(fields, block_size)?;
            Body::with_xattr(Kind::File(content), xattr)
        }
        10 => Body::with_xattr(symlink(fields)?, fields.u32()?),
        11 => Body::with_xattr(Kind::BlockDevice(device(fields)?), fields.u32()?),
        12 => Body::with_xattr(Kind::CharDevice(device(fields)?), fields.u32()?),
        13 | 14 => {
            let _links = fields.u32()?;
            let kind = if number == 13 { Kind::Pipe } else { Kind::Socket };
            Body::with_xattr(kind, fields.u32()?)
        }
        _ => return Err(fields.damaged("holds an inode of an unknown kind")),
    })
}

fn directory(fields: &mut Fields<'_>) -> Result<Body, Problem> {
    let block = fields.u32()?;
    let _links = fields.u32()?;
    let length = fields.u16()?.into();
    let offset = fields.u16()?;
    let directory = Some(Place { block, offset, length });
    Ok(Body { directory, ..Body::plain(Kind::Directory) })
}

fn extended_directory(fields: &mut Fields<'_>) -> Result<Body, Problem> {
    let _links = fields.u32()?;
    let length = fields.u32()?;
    let block = fields.u32()?;
    let _parent = fields.u32()?;
    let _index = fields.u16()?;
    let offset = fields.u16()?;
    let body = Body::with_xattr(Kind::Directory, fields.u32()?);
    Ok(Body { directory: Some(Place { block, offset, length }), ..body })
}

fn symlink(fields: &mut Fields<'_>) -> Result<Kind, Problem> {
    let _links = fields.u32()?;
    let length = fields.u32()?;
    if length > MAX_TARGET {
        return Err(fields.damaged("holds a symbolic link that is too long"));
    }
    let length = usize::try_from(length).expect("at most 4096");
    Ok(Kind::Symlink(fields.bytes(length)?.to_vec()))
}

fn device(fields: &mut Fields<'_>) -> Result<u32, Problem> {
    let _links = fields.u32()?;
    fields.u32()
}
