//! The index of an image: every block that it is made of, with its hash.
//!
//! It covers the whole file, in order and without gaps: data and fragment blocks as the inodes and
//! the fragment table say, the metadata blocks of all tables, and what stands between them as raw
//! runs. Whoever has the indexes of two images knows which bytes they share without looking at
//! either. Nothing is decompressed but the tables.
//!
//! A block that a damaged or hostile image describes outside of the file data, or over another one,
//! is left out; its bytes are then part of another block or of a raw run. So what is made from an
//! index is never wrong, only larger.

mod outline;
mod places;

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;

use std::collections::HashSet;

use crate::inspect;
use crate::number::count;
use crate::problem::{ImageError, Part, Problem};
use crate::recipe::RecipeError;
use crate::recipe::code::{Input, put, put_len};
use crate::superblock::{SUPERBLOCK_LEN, Superblock};

/// The most blocks of an image: 2 GiB in the smallest blocks there are, 256 GiB in usual ones. An
/// index takes about 50 bytes of memory for each.
pub const MAX_BLOCKS: usize = 1 << 20;

/// The most bytes of a raw run.
const RAW_LEN: u32 = 1 << 20;

/// What the blocks of an image are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    pub superblock: Superblock,
    /// The length of the file in bytes.
    pub size: u64,
    /// In the order of the file, from its first byte to its last.
    pub blocks: Vec<IndexBlock>,
}

/// One block, or a run of bytes that belong to none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexBlock {
    pub offset: u64,
    /// Stored bytes, those of a metadata block with its header of two bytes. At most 1 MiB.
    pub length: u32,
    pub kind: BlockKind,
    pub compressed: bool,
    /// The BLAKE3 of the stored bytes.
    pub hash: [u8; 32],
}

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// File data.
    Data,
    /// The ends of several files.
    Fragment,
    /// A part of a table.
    Metadata(Part),
    /// Bytes between blocks: the superblock, the tables' own indexes, padding.
    Raw,
}

impl BlockKind {
    const PARTS: [Part; 7] = [
        Part::CompressorOptions,
        Part::Inodes,
        Part::Directories,
        Part::Fragments,
        Part::Export,
        Part::Ids,
        Part::Xattrs,
    ];

    /// The number that stands for it in an encoded index.
    fn number(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Data => 1,
            Self::Fragment => 2,
            Self::Metadata(part) => {
                let place = Self::PARTS.iter().position(|known| *known == part);
                3 + u8::try_from(place.expect("only tables have metadata")).expect("a few")
            }
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Raw),
            1 => Some(Self::Data),
            2 => Some(Self::Fragment),
            _ => Self::PARTS.get(usize::from(number) - 3).copied().map(Self::Metadata),
        }
    }
}

impl IndexBlock {
    /// Where the next block begins.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

/// In an encoded block's kind: it is compressed.
const COMPRESSED: u8 = 0x80;

impl Index {
    /// Reads an image once from its beginning to its end, and a second time its tables. Memory: 50
    /// bytes for each block, and a few MiB. Blocks: call it where that is allowed.
    ///
    /// # Errors
    /// The file can't be read, is no squashfs, or its tables are damaged or too large.
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        Self::of(path).map_err(|problem| ImageError { path: path.to_owned(), problem })
    }

    fn of(path: &Path) -> Result<Self, Problem> {
        let (file, size) = inspect::open(path)?;
        let superblock = Superblock::parse(&inspect::head(&file)?, size)?;
        let found = places::find(&file, &superblock)?;
        let mut blocks = cover(found, superblock.bytes_used, size)?;
        hash_all(&file, &mut blocks)?;
        Ok(Self { superblock, size, blocks })
    }

    /// The bytes that stand for it: about 35 for each block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.superblock.encode().to_vec();
        put(&mut out, self.size);
        put_len(&mut out, self.blocks.len());
        for block in &self.blocks {
            out.push(block.kind.number() | if block.compressed { COMPRESSED } else { 0 });
            put(&mut out, block.length.into());
            out.extend(block.hash);
        }
        out
    }

    /// Reads an index that somebody else made.
    ///
    /// # Errors
    /// It is cut short or damaged, or has more than [`MAX_BLOCKS`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecipeError> {
        Self::read_from(bytes, "index", |input| input.array())
    }

    fn read_from(
        bytes: &[u8],
        part: &'static str,
        hash: impl Fn(&mut Input<'_>) -> Result<[u8; 32], RecipeError>,
    ) -> Result<Self, RecipeError> {
        let mut input = Input::new(bytes, part);
        let head: [u8; SUPERBLOCK_LEN] = input.array()?;
        let size = input.number()?;
        let superblock = Superblock::parse(&head, size)
            .map_err(|_| RecipeError::damaged("its superblock is none that can be used"))?;
        let blocks = input.count("blocks of an image", MAX_BLOCKS)?;
        let blocks = decode_blocks(&mut input, blocks, size, hash)?;
        input.end()?;
        Ok(Self { superblock, size, blocks })
    }

    /// Stored bytes of this image that `other` has as well.
    #[must_use]
    pub fn shared_bytes(&self, other: &Self) -> u64 {
        let there: HashSet<[u8; 32]> = other.blocks.iter().map(|block| block.hash).collect();
        let shared = self.blocks.iter().filter(|block| there.contains(&block.hash));
        shared.map(|block| u64::from(block.length)).sum()
    }
}

fn decode_blocks(
    input: &mut Input<'_>,
    number: usize,
    size: u64,
    read_hash: impl Fn(&mut Input<'_>) -> Result<[u8; 32], RecipeError>,
) -> Result<Vec<IndexBlock>, RecipeError> {
    // Not allocated ahead: the number is only claimed.
    let mut blocks = Vec::new();
    let mut offset = 0_u64;
    for _ in 0..number {
        let byte = input.byte()?;
        let kind = BlockKind::from_number(byte & !COMPRESSED)
            .ok_or_else(|| RecipeError::damaged("a block is of an unknown kind"))?;
        let length = input.length("bytes of a block", RAW_LEN)?;
        if length == 0 {
            return Err(RecipeError::damaged("a block has no bytes"));
        }
        let hash = read_hash(input)?;
        blocks.push(IndexBlock { offset, length, kind, compressed: byte & COMPRESSED != 0, hash });
        offset += u64::from(length);
    }
    if offset != size {
        return Err(RecipeError::damaged("its blocks are more or less than the image"));
    }
    Ok(blocks)
}

/// A block that was found, not hashed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    offset: u64,
    length: u32,
    compressed: bool,
    kind: FoundKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum FoundKind {
    Data,
    Fragment,
    Metadata(u8),
}

impl FoundKind {
    fn metadata(part: Part) -> Self {
        Self::Metadata(BlockKind::Metadata(part).number())
    }

    fn kind(self) -> BlockKind {
        match self {
            Self::Data => BlockKind::Data,
            Self::Fragment => BlockKind::Fragment,
            Self::Metadata(number) => BlockKind::from_number(number).expect("made from a part"),
        }
    }
}

/// Puts the blocks in order, leaves out those over others, and fills what is between them. A new run
/// begins where the image ends and its padding begins.
fn cover(mut found: Vec<Found>, bytes_used: u64, size: u64) -> Result<Vec<IndexBlock>, Problem> {
    found.sort_unstable();
    found.dedup();
    let mut blocks = Vec::with_capacity(found.len());
    let mut at = 0;
    for block in found {
        let end = block.offset.checked_add(block.length.into());
        if block.offset < at || block.length == 0 || end.is_none_or(|end| end > size) {
            continue;
        }
        fill(&mut blocks, at, block.offset);
        let Found { offset, length, compressed, kind } = block;
        let kind = kind.kind();
        blocks.push(IndexBlock { offset, length, kind, compressed, hash: [0; 32] });
        at = offset + u64::from(length);
    }
    fill(&mut blocks, at, bytes_used);
    fill(&mut blocks, at.max(bytes_used), size);
    if blocks.len() > MAX_BLOCKS {
        return Err(Problem::TooManyBlocks { limit: MAX_BLOCKS });
    }
    Ok(blocks)
}

/// Adds raw runs for the bytes from `at` to `end`.
fn fill(blocks: &mut Vec<IndexBlock>, mut at: u64, end: u64) {
    while at < end {
        let length = u32::try_from(end - at).unwrap_or(RAW_LEN).min(RAW_LEN);
        let kind = BlockKind::Raw;
        blocks.push(IndexBlock { offset: at, length, kind, compressed: false, hash: [0; 32] });
        at += u64::from(length);
    }
}

fn hash_all(file: &File, blocks: &mut [IndexBlock]) -> Result<(), Problem> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(4);
    let share = blocks.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let parts = blocks.chunks_mut(share);
        let workers: Vec<_> = parts.map(|part| scope.spawn(move || hash(file, part))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("hashing can't panic"))
    })
}

fn hash(file: &File, blocks: &mut [IndexBlock]) -> Result<(), Problem> {
    let mut buffer = Vec::new();
    for block in blocks {
        buffer.resize(count(block.length), 0);
        let offset = block.offset;
        file.read_exact_at(&mut buffer, offset)
            .map_err(|source| Problem::Read { offset, source })?;
        block.hash = blake3::hash(&buffer).into();
    }
    Ok(())
}

const _: () = assert!(size_of::<IndexBlock>() <= 48, "as the documentation says");
