//! The bytes of a file of an image: where they are, and what they are.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::{Listing, Stored};
use crate::compression::Compressor;
use crate::listing::plain::Fields;
use crate::problem::{Part, Problem};
use crate::superblock::SUPERBLOCK_END;

/// A file whose end is in no fragment.
const NO_FRAGMENT: u32 = u32::MAX;

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    /// Bytes.
    pub(crate) size: u64,
    /// Its blocks, in order; one of no length is a hole.
    pub(crate) blocks: Vec<Stored>,
    /// The fragment with its end, and the byte in that.
    pub(crate) tail: Option<(u32, u32)>,
}

pub(super) fn read_basic(fields: &mut Fields<'_>, block_size: u32) -> Result<Content, Problem> {
    let start = fields.u32()?.into();
    let tail = tail(fields)?;
    let size = fields.u32()?.into();
    content(fields, size, start, tail, block_size)
}

/// Also the number of its extended attributes.
pub(super) fn read_extended(
    fields: &mut Fields<'_>,
    block_size: u32,
) -> Result<(Content, u32), Problem> {
    let start = fields.u64()?;
    let size = fields.u64()?;
    let _sparse = fields.u64()?;
    let _links = fields.u32()?;
    let tail = tail(fields)?;
    let xattr = fields.u32()?;
    Ok((content(fields, size, start, tail, block_size)?, xattr))
}

fn tail(fields: &mut Fields<'_>) -> Result<Option<(u32, u32)>, Problem> {
    let (number, offset) = (fields.u32()?, fields.u32()?);
    Ok((number != NO_FRAGMENT).then_some((number, offset)))
}

fn content(
    fields: &mut Fields<'_>,
    size: u64,
    start: u64,
    tail: Option<(u32, u32)>,
    block_size: u32,
) -> Result<Content, Problem> {
    let block_size = u64::from(block_size);
    let count = match tail {
        Some(_) => size / block_size,
        None => size.div_ceil(block_size),
    };
    if usize::try_from(count).map_or(true, |count| count > super::MOST_BLOCKS) {
        return Err(Problem::TooManyBlocks { limit: super::MOST_BLOCKS });
    }
    let (mut blocks, mut at) = (Vec::new(), start);
    for _ in 0..count {
        let stored = Stored::new(at, fields.u32()?);
        at = at.saturating_add(stored.length.into());
        blocks.push(stored);
    }
    Ok(Content { size, blocks, tail })
}

/// Reads the contents of an image's files. Keeps the last fragment, since files that stand side by
/// side mostly share one.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    file: &'a File,
    compressor: Compressor,
    block_size: u32,
    /// Where data ends.
    end: u64,
    fragments: &'a [Stored],
    last: Option<(u32, Vec<u8>)>,
}

impl<'a> Contents<'a> {
    pub(crate) fn new(listing: &'a Listing) -> Self {
        let superblock = &listing.superblock;
        Self {
            file: &listing.file,
            compressor: superblock.compressor,
            block_size: superblock.block_size,
            end: superblock.inode_table,
            fragments: &listing.fragments,
            last: None,
        }
    }

    /// How many pieces a file is read in: its blocks and its tail.
    pub(crate) fn pieces(content: &Content) -> usize {
        content.blocks.len() + usize::from(content.tail.is_some())
    }

    /// The plain bytes of a piece of a file, at most a block.
    pub(crate) fn piece(&mut self, content: &Content, piece: usize) -> Result<Vec<u8>, Problem> {
        let block_size = u64::from(self.block_size);
        let Some(stored) = content.blocks.get(piece) else { return self.tail(content) };
        let begin = block_size * u64::try_from(piece).expect("a count of blocks");
        let wanted = block_size.min(content.size.saturating_sub(begin));
        let wanted = usize::try_from(wanted).expect("at most a block, 1 MiB");
        if stored.length == 0 {
            return Ok(vec![0; wanted]);
        }
        let plain = self.plain(*stored)?;
        if plain.len() != wanted {
            return Err(damaged(stored.offset, "has a block of another length than its file says"));
        }
        Ok(plain)
    }

    fn tail(&mut self, content: &Content) -> Result<Vec<u8>, Problem> {
        let Some((number, offset)) = content.tail else { return Ok(Vec::new()) };
        let missing = || damaged(0, "has a file whose fragment is not there");
        if self.last.as_ref().is_none_or(|(last, _)| *last != number) {
            let at = usize::try_from(number).ok().and_then(|at| self.fragments.get(at));
            let plain = self.plain(*at.ok_or_else(missing)?)?;
            self.last = Some((number, plain));
        }
        let count = content.size % u64::from(self.block_size);
        let count = usize::try_from(count).expect("less than a block, 1 MiB");
        let from = usize::try_from(offset).expect("usize has at least 32 bits");
        let (_, plain) = self.last.as_ref().ok_or_else(missing)?;
        let found = plain.get(from..).and_then(|rest| rest.get(..count));
        let short = || damaged(0, "has a fragment that is shorter than its files");
        Ok(found.ok_or_else(short)?.to_vec())
    }

    /// The bytes of a block as they are stored.
    pub(crate) fn stored(&self, stored: Stored) -> Result<Vec<u8>, Problem> {
        let Stored { offset, length, .. } = stored;
        let end = offset.checked_add(length.into()).filter(|end| *end <= self.end);
        if length > self.block_size || offset < SUPERBLOCK_END || end.is_none() {
            return Err(damaged(offset, "has a block outside of its bounds"));
        }
        let mut bytes = vec![0; usize::try_from(length).expect("at most a block, 1 MiB")];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.map_err(|source| Problem::Read { offset, source })?;
        Ok(bytes)
    }

    /// The plain bytes of a block.
    pub(crate) fn plain(&self, stored: Stored) -> Result<Vec<u8>, Problem> {
        let bytes = self.stored(stored)?;
        if !stored.compressed {
            return Ok(bytes);
        }
        let limit = usize::try_from(self.block_size).expect("at most 1 MiB");
        let plain = self.compressor.decompress(&bytes, limit);
        plain.ok_or_else(|| damaged(stored.offset, "has a block that can't be decompressed"))
    }
}

fn damaged(offset: u64, fault: &'static str) -> Problem {
    Problem::Damaged { part: Part::Data, offset, fault }
}
