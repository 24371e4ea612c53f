//! Where the blocks of an image stand, as its tables say.

use std::fs::File;

use super::{Found, FoundKind, MAX_BLOCKS};
use crate::metadata::{Reader, Region};
use crate::number::{le16, le32, le64};
use crate::problem::{Part, Problem};
use crate::superblock::{SUPERBLOCK_END, Superblock};
use crate::tables::{Tables, WALK_BUDGET};

/// In a data block's length: the bytes are stored as they are.
const STORED_PLAIN: u32 = 1 << 24;

/// A file whose end is in no fragment.
const NO_FRAGMENT: u32 = u32::MAX;

/// The blocks of an image, in no order, some perhaps more than once.
pub(super) fn find(file: &File, superblock: &Superblock) -> Result<Vec<Found>, Problem> {
    let mut reader = Reader::new(file, superblock.compressor, WALK_BUDGET);
    let mut places = Places {
        found: Vec::new(),
        block_size: superblock.block_size,
        data_end: superblock.inode_table,
    };
    let regions = Tables::regions(&reader, superblock)?;
    for region in &regions {
        let mut stream = Stream::new(&mut reader, *region, &mut places);
        match region.part {
            Part::Inodes => inodes(&mut stream, superblock)?,
            Part::Fragments => fragments(&mut stream, superblock)?,
            _ => {}
        }
        stream.finish()?;
    }
    Ok(places.found)
}

struct Places {
    found: Vec<Found>,
    block_size: u32,
    data_end: u64,
}

impl Places {
    /// Adds a block of file data by its length as squashfs writes it: none for a hole. One that
    /// can't be there is left out.
    fn data(&mut self, offset: u64, written: u32, kind: FoundKind) -> Result<u32, Problem> {
        let length = written & !STORED_PLAIN;
        let end = offset.checked_add(length.into()).filter(|end| *end <= self.data_end);
        let fits = end.is_some() && offset >= SUPERBLOCK_END && length <= self.block_size;
        if length > 0 && fits {
            let compressed = written & STORED_PLAIN == 0;
            self.add(Found { offset, length, compressed, kind })?;
        }
        Ok(length)
    }

    fn add(&mut self, block: Found) -> Result<(), Problem> {
        self.found.push(block);
        // Equal files share their blocks, so there may be far more mentions than blocks.
        if self.found.len() > 4 * MAX_BLOCKS {
            self.found.sort_unstable();
            self.found.dedup();
            if self.found.len() > MAX_BLOCKS {
                return Err(Problem::TooManyBlocks { limit: MAX_BLOCKS });
            }
        }
        Ok(())
    }
}

/// The plain bytes of a table, one after the other; its blocks are noted on the way.
struct Stream<'s, 'f> {
    reader: &'s mut Reader<'f>,
    region: Region,
    places: &'s mut Places,
    /// The next block.
    next: u64,
    plain: Vec<u8>,
    position: usize,
}

impl<'s, 'f> Stream<'s, 'f> {
    fn new(reader: &'s mut Reader<'f>, region: Region, places: &'s mut Places) -> Self {
        Self { reader, region, places, next: region.start, plain: Vec::new(), position: 0 }
    }

    fn note(&mut self) -> Result<(), Problem> {
        let place = self.reader.place(&self.region, self.next)?;
        self.places.add(Found {
            offset: place.offset,
            length: u32::from(place.length) + 2,
            compressed: place.compressed,
            kind: FoundKind::metadata(self.region.part),
        })?;
        self.next = place.next();
        Ok(())
    }

    fn load(&mut self) -> Result<(), Problem> {
        let at = self.next;
        self.note()?;
        self.plain = self.reader.block(&self.region, at)?.plain;
        self.position = 0;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            let rest = &self.plain[self.position..];
            let part = rest.len().min(N - filled);
            bytes[filled..filled + part].copy_from_slice(&rest[..part]);
            self.position += part;
            filled += part;
            if filled < N {
                self.load()?;
            }
        }
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, Problem> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_le_bytes)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), Problem> {
        loop {
            let rest = self.plain.len() - self.position;
            let Some(skipped) = usize::try_from(bytes).ok().filter(|bytes| *bytes <= rest) else {
                bytes -= crate::number::wide(rest);
                self.load()?;
                continue;
            };
            self.position += skipped;
            return Ok(());
        }
    }

    /// Notes the blocks that were not read.
    fn finish(&mut self) -> Result<(), Problem> {
        while self.next < self.region.end {
            self.note()?;
        }
        Ok(())
    }
}

fn inodes(stream: &mut Stream<'_, '_>, superblock: &Superblock) -> Result<(), Problem> {
    for _ in 0..superblock.inodes {
        let header: [u8; 16] = stream.array()?;
        match le16(&header, 0) {
            1 => stream.skip(16)?,
            2 => file(stream, superblock)?,
            3 => symlink(stream, 0)?,
            4 | 5 | 13 | 14 => stream.skip(8)?,
            6 | 7 => stream.skip(4)?,
            8 => extended_directory(stream)?,
            9 => extended_file(stream, superblock)?,
            10 => symlink(stream, 4)?,
            11 | 12 => stream.skip(12)?,
            _ => {
                let fault = "holds an inode of an unknown kind";
                return Err(Problem::Damaged { part: Part::Inodes, offset: stream.next, fault });
            }
        }
    }
    Ok(())
}

fn symlink(stream: &mut Stream<'_, '_>, more: u64) -> Result<(), Problem> {
    stream.skip(4)?;
    let length = stream.u32()?;
    stream.skip(u64::from(length) + more)
}

fn extended_directory(stream: &mut Stream<'_, '_>) -> Result<(), Problem> {
    stream.skip(16)?;
    let indexes = stream.u16()?;
    stream.skip(6)?;
    for _ in 0..indexes {
        stream.skip(8)?;
        let name = stream.u32()?;
        stream.skip(u64::from(name) + 1)?;
    }
    Ok(())
}

fn file(stream: &mut Stream<'_, '_>, superblock: &Superblock) -> Result<(), Problem> {
    let fields: [u8; 16] = stream.array()?;
    let blocks = blocks(le32(&fields, 12).into(), le32(&fields, 4), superblock);
    list(stream, le32(&fields, 0).into(), blocks)
}

fn extended_file(stream: &mut Stream<'_, '_>, superblock: &Superblock) -> Result<(), Problem> {
    let fields: [u8; 40] = stream.array()?;
    let blocks = blocks(le64(&fields, 8), le32(&fields, 28), superblock);
    list(stream, le64(&fields, 0), blocks)
}

/// How many data blocks a file has besides its end in a fragment.
fn blocks(size: u64, fragment: u32, superblock: &Superblock) -> u64 {
    let block_size = u64::from(superblock.block_size);
    if fragment == NO_FRAGMENT { size.div_ceil(block_size) } else { size / block_size }
}

fn list(stream: &mut Stream<'_, '_>, start: u64, blocks: u64) -> Result<(), Problem> {
    let mut offset = start;
    for _ in 0..blocks {
        let written = stream.u32()?;
        let length = stream.places.data(offset, written, FoundKind::Data)?;
        offset = offset.saturating_add(length.into());
    }
    Ok(())
}

fn fragments(stream: &mut Stream<'_, '_>, superblock: &Superblock) -> Result<(), Problem> {
    for _ in 0..superblock.fragments {
        let record: [u8; 16] = stream.array()?;
        stream.places.data(le64(&record, 0), le32(&record, 8), FoundKind::Fragment)?;
    }
    Ok(())
}
