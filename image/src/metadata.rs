//! Metadata blocks: the up to 8 KiB of plain bytes, each with a two-byte header, that all tables
//! of an image are made of.
//!
//! Every block read draws on a budget, so that no arrangement of tables can keep a reader busy.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::compression::Compressor;
use crate::problem::{Part, Problem};

/// The most plain bytes in a metadata block.
pub(crate) const BLOCK_LEN: usize = 8192;

/// In a block's header: the bytes are stored as they are.
const STORED_PLAIN: u16 = 0x8000;

/// Where the metadata blocks of one table stand in the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region {
    pub(crate) part: Part,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// One block: its plain bytes, and where the next one begins.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) plain: Vec<u8>,
    pub(crate) next: u64,
}

/// Where a block stands, by its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of the header. The block's bytes follow it.
    pub(crate) offset: u64,
    /// Bytes without the header.
    pub(crate) length: u16,
    pub(crate) compressed: bool,
}

impl Place {
    /// Where the next block begins.
    pub(crate) fn next(&self) -> u64 {
        self.offset + 2 + u64::from(self.length)
    }
}

/// Reads blocks out of a file.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    file: &'a File,
    compressor: Compressor,
    budget: u32,
    left: u32,
}

impl<'a> Reader<'a> {
    /// A reader that will read at most `budget` blocks.
    pub(crate) fn new(file: &'a File, compressor: Compressor, budget: u32) -> Self {
        Self { file, compressor, budget, left: budget }
    }

    /// Fills `buffer` from the file at `offset`.
    pub(crate) fn bytes(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Problem> {
        self.file.read_exact_at(buffer, offset).map_err(|source| Problem::Read { offset, source })
    }

    /// A little-endian number in the file at `offset`.
    pub(crate) fn u64(&self, offset: u64) -> Result<u64, Problem> {
        let mut bytes = [0; 8];
        self.bytes(offset, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The plain bytes of `stored`, at most `limit`; `None` where it is damaged.
    pub(crate) fn decompress(&self, stored: &[u8], limit: usize) -> Option<Vec<u8>> {
        self.compressor.decompress(stored, limit)
    }

    /// Where the block whose header is at `offset` has its bytes, which must be within the region.
    pub(crate) fn place(&mut self, region: &Region, offset: u64) -> Result<Place, Problem> {
        let damaged = |fault| Problem::Damaged { part: region.part, offset, fault };
        let limit = u64::from(self.budget) * 8192;
        self.left = self.left.checked_sub(1).ok_or(Problem::TooMuchMetadata { limit })?;

        let room = region.end.checked_sub(offset).filter(|room| *room >= 2);
        let room = room.ok_or_else(|| damaged("is cut short"))?;
        let mut header = [0; 2];
        self.bytes(offset, &mut header)?;
        let header = u16::from_le_bytes(header);
        let length = header & !STORED_PLAIN;
        if length == 0 || usize::from(length) > BLOCK_LEN {
            return Err(damaged("has a block of an impossible length"));
        }
        if u64::from(length) > room - 2 {
            return Err(damaged("has a block that reaches past its end"));
        }
        Ok(Place { offset, length, compressed: header & STORED_PLAIN == 0 })
    }

    /// The block at `offset`, which must lie within the region.
    pub(crate) fn block(&mut self, region: &Region, offset: u64) -> Result<Block, Problem> {
        let place = self.place(region, offset)?;
        self.block_at(region, place)
    }

    /// The block at a place.
    pub(crate) fn block_at(&self, region: &Region, place: Place) -> Result<Block, Problem> {
        let offset = place.offset;
        let mut stored = vec![0; usize::from(place.length)];
        self.bytes(offset + 2, &mut stored)?;
        let plain =
            if place.compressed { self.decompress(&stored, BLOCK_LEN) } else { Some(stored) };
        let fault = "has a block that can't be decompressed";
        let plain = plain.ok_or(Problem::Damaged { part: region.part, offset, fault })?;
        Ok(Block { plain, next: place.next() })
    }

    /// Reads a region from its start to its end, and returns how many plain bytes it holds.
    pub(crate) fn walk(&mut self, region: &Region) -> Result<u64, Problem> {
        let mut offset = region.start;
        let mut plain = 0;
        while offset < region.end {
            let block = self.block(region, offset)?;
            plain += length(&block.plain);
            offset = block.next;
        }
        Ok(plain)
    }
}

/// A place in a region's plain bytes, that reads on over the ends of blocks.
#[derive(Debug)]
pub(crate) struct Cursor {
    region: Region,
    /// Where the current block stands, for error messages.
    at: u64,
    block: Block,
    position: usize,
}

impl Cursor {
    /// A cursor at plain byte `offset` of the block that stands `block` bytes into the region.
    pub(crate) fn new(
        reader: &mut Reader<'_>,
        region: Region,
        block: u64,
        offset: u16,
    ) -> Result<Self, Problem> {
        let at = region.start.checked_add(block).unwrap_or(region.end);
        let block = reader.block(&region, at)?;
        let position = usize::from(offset);
        let cursor = Self { region, at, block, position };
        if position > cursor.block.plain.len() {
            return Err(cursor.damaged("is referred to past the end of a block"));
        }
        Ok(cursor)
    }

    /// The next `count` plain bytes. The caller bounds `count`.
    pub(crate) fn take(
        &mut self,
        reader: &mut Reader<'_>,
        count: usize,
    ) -> Result<Vec<u8>, Problem> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let rest = &self.block.plain[self.position..];
            let part = &rest[..rest.len().min(count - taken.len())];
            taken.extend_from_slice(part);
            self.position += part.len();
            if taken.len() < count {
                self.at = self.block.next;
                self.block = reader.block(&self.region, self.at)?;
                self.position = 0;
            }
        }
        Ok(taken)
    }

    /// The next `N` plain bytes.
    pub(crate) fn array<const N: usize>(
        &mut self,
        reader: &mut Reader<'_>,
    ) -> Result<[u8; N], Problem> {
        let taken = self.take(reader, N)?;
        Ok(*taken.first_chunk().expect("take returns what was asked for"))
    }

    /// An error at this place.
    pub(crate) fn damaged(&self, fault: &'static str) -> Problem {
        Problem::Damaged { part: self.region.part, offset: self.at, fault }
    }
}

/// The length of a slice in the type of file offsets.
pub(crate) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("no slice is longer than a u64 counts")
}
