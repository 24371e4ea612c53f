//! The tables of an image: where each one is, and whether all of their blocks can be read.
//!
//! This is what finds a file that has the right length and a good beginning, but a hole or foreign
//! bytes where a table should be. File data is not read: its digest vouches for it.

use crate::metadata::{BLOCK_LEN, Reader, Region, length};
use crate::problem::{Part, Problem};
use crate::superblock::{SUPERBLOCK_END, Superblock};

/// The most metadata blocks of an image that are read: 1 GiB of plain bytes, four times what
/// `MAX_INODES` ordinary files take. It bounds the time that a hostile image can cost.
pub(crate) const WALK_BUDGET: u32 = 131_072;

/// The smallest inode there is.
const MIN_INODE_LEN: u64 = 20;

pub(crate) const FRAGMENT_LEN: u64 = 16;
const EXPORT_LEN: u64 = 8;
const ID_LEN: u64 = 4;
const XATTR_ID_LEN: u64 = 16;
const XATTR_HEADER_LEN: u64 = 16;

/// A table of records of one length, in blocks that an array of their offsets leads to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lookup {
    pub(crate) part: Part,
    /// Where the array of offsets stands. The blocks stand before it.
    pub(crate) index: u64,
    records: u64,
    record_len: u64,
}

impl Lookup {
    fn blocks(&self) -> u64 {
        (self.records * self.record_len).div_ceil(8192)
    }

    /// Where the first block stands; `None` for an empty table.
    fn first(&self, reader: &Reader<'_>, end: u64) -> Result<Option<u64>, Problem> {
        if self.records == 0 {
            return Ok(None);
        }
        self.index_end(end)?;
        reader.u64(self.index).map(Some)
    }

    /// Where the array of offsets ends, which must be within `limit`.
    fn index_end(&self, limit: u64) -> Result<u64, Problem> {
        let end = self.index.checked_add(self.blocks() * 8).filter(|end| *end <= limit);
        end.ok_or_else(|| self.damaged("reaches past the end of the image"))
    }

    /// Reads every block; `from` is where the table before ends. Returns where this one ends.
    fn walk(&self, reader: &mut Reader<'_>, from: u64, limit: u64) -> Result<u64, Problem> {
        let end = self.index_end(limit)?;
        let mut position = from;
        let mut plain = 0;
        for slot in 0..self.blocks() {
            let at = reader.u64(self.index + slot * 8)?;
            if at < position || at >= self.index {
                return Err(self.damaged("refers to a block out of order"));
            }
            let block = reader.block(&self.region(), at)?;
            plain += length(&block.plain);
            position = block.next;
        }
        if plain < self.records * self.record_len {
            return Err(self.damaged("holds fewer records than the superblock counts"));
        }
        Ok(end)
    }

    /// The record with number `record`.
    pub(crate) fn record(&self, reader: &mut Reader<'_>, record: u64) -> Result<Vec<u8>, Problem> {
        if record >= self.records {
            return Err(self.damaged("has no record of a number that is used"));
        }
        let byte = record * self.record_len;
        let at = reader.u64(self.index + byte / 8192 * 8)?;
        let plain = reader.block(&self.region(), at)?.plain;
        let start = usize::try_from(byte % 8192).expect("less than a block");
        let count = usize::try_from(self.record_len).expect("a few bytes");
        let found = plain.get(start..).and_then(|rest| rest.get(..count));
        found.map(<[u8]>::to_vec).ok_or_else(|| self.damaged("has a block that is too short"))
    }

    /// The plain bytes of all records, one after the other.
    pub(crate) fn all(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>, Problem> {
        let mut records = Vec::new();
        for slot in 0..self.blocks() {
            let at = reader.u64(self.index + slot * 8)?;
            records.extend(reader.block(&self.region(), at)?.plain);
        }
        Ok(records)
    }

    /// Bytes that the table takes in the file, its array of offsets included.
    pub(crate) fn stored(&self, reader: &mut Reader<'_>) -> Result<u64, Problem> {
        let mut bytes = self.blocks() * 8;
        for slot in 0..self.blocks() {
            let at = reader.u64(self.index + slot * 8)?;
            bytes += reader.block(&self.region(), at)?.next - at;
        }
        Ok(bytes)
    }

    fn region(&self) -> Region {
        Region { part: self.part, start: SUPERBLOCK_END, end: self.index }
    }

    fn damaged(&self, fault: &'static str) -> Problem {
        Problem::Damaged { part: self.part, offset: self.index, fault }
    }
}

/// The tables that finding a file by its path needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tables {
    pub(crate) inodes: Region,
    pub(crate) directories: Region,
    pub(crate) fragments: Lookup,
}

impl Tables {
    /// Finds every table and reads every block of it.
    pub(crate) fn check(reader: &mut Reader<'_>, superblock: &Superblock) -> Result<Self, Problem> {
        check_compressor_options(reader, superblock)?;
        let lookups = lookups(superblock);
        let tables = Self {
            inodes: Region {
                part: Part::Inodes,
                start: superblock.inode_table,
                end: superblock.directory_table,
            },
            directories: directories(reader, superblock, &lookups)?,
            fragments: lookups[0],
        };
        tables.walk(reader, superblock)?;
        let mut end = tables.directories.end;
        for lookup in &lookups {
            end = lookup.walk(reader, end, superblock.bytes_used)?;
        }
        check_xattrs(reader, superblock, end)?;
        Ok(tables)
    }

    /// The table for export over NFS.
    pub(crate) fn export(superblock: &Superblock) -> Lookup {
        lookups(superblock)[1]
    }

    /// The table of user and group ids.
    pub(crate) fn ids(superblock: &Superblock) -> Lookup {
        lookups(superblock)[2]
    }

    /// Where the metadata blocks of every table stand, in the order of the file; the compressor's
    /// options come first. Lookup tables end where the array of their offsets begins.
    pub(crate) fn regions(
        reader: &Reader<'_>,
        superblock: &Superblock,
    ) -> Result<Vec<Region>, Problem> {
        let lookups = lookups(superblock);
        let directories = directories(reader, superblock, &lookups)?;
        let mut regions = Vec::new();
        if superblock.flags.compressor_options() {
            let length = options_len(reader)?;
            let end = SUPERBLOCK_END.saturating_add(length).min(superblock.inode_table);
            regions.push(Region { part: Part::CompressorOptions, start: SUPERBLOCK_END, end });
        }
        let (start, end) = (superblock.inode_table, superblock.directory_table);
        regions.push(Region { part: Part::Inodes, start, end });
        regions.push(directories);
        for lookup in &lookups {
            if let Some(start) = lookup.first(reader, superblock.bytes_used)? {
                regions.push(Region { part: lookup.part, start, end: lookup.index });
            }
        }
        regions.extend(xattr_regions(reader, superblock)?);
        Ok(regions)
    }

    fn walk(&self, reader: &mut Reader<'_>, superblock: &Superblock) -> Result<(), Problem> {
        let plain = reader.walk(&self.inodes)?;
        if plain < u64::from(superblock.inodes) * MIN_INODE_LEN {
            let fault = "is too short for the inodes that the superblock counts";
            let offset = self.inodes.start;
            return Err(Problem::Damaged { part: Part::Inodes, offset, fault });
        }
        reader.walk(&self.directories)?;
        Ok(())
    }
}

/// The lookup tables that an image has, in the order in which they stand in it.
fn lookups(superblock: &Superblock) -> [Lookup; 3] {
    let lookup = |part, index: Option<u64>, records: u64, record_len| Lookup {
        part,
        index: index.unwrap_or(superblock.directory_table),
        records: if index.is_some() { records } else { 0 },
        record_len,
    };
    let inodes = superblock.inodes.into();
    let id_table = Some(superblock.id_table);
    [
        lookup(
            Part::Fragments,
            superblock.fragment_table,
            superblock.fragments.into(),
            FRAGMENT_LEN,
        ),
        lookup(Part::Export, superblock.export_table, inodes, EXPORT_LEN),
        lookup(Part::Ids, id_table, superblock.ids.into(), ID_LEN),
    ]
}

/// The directory table has no end of its own: the next block is that of the next table.
fn directories(
    reader: &Reader<'_>,
    superblock: &Superblock,
    lookups: &[Lookup],
) -> Result<Region, Problem> {
    let start = superblock.directory_table;
    let mut end = superblock.id_table;
    for lookup in lookups {
        if let Some(first) = lookup.first(reader, superblock.bytes_used)? {
            end = first;
            break;
        }
    }
    if end < start || end > superblock.id_table {
        let fault = "ends before it begins";
        return Err(Problem::Damaged { part: Part::Directories, offset: start, fault });
    }
    Ok(Region { part: Part::Directories, start, end })
}

/// The bytes of the block of the compressor's options, with its header.
fn options_len(reader: &Reader<'_>) -> Result<u64, Problem> {
    let mut header = [0; 2];
    reader.bytes(SUPERBLOCK_END, &mut header)?;
    Ok(u64::from(u16::from_le_bytes(header) & 0x7fff) + 2)
}

/// The names and values, and the ids that refer to them.
fn xattr_regions(reader: &Reader<'_>, superblock: &Superblock) -> Result<Vec<Region>, Problem> {
    let Some((start, ids)) = xattrs(reader, superblock)? else { return Ok(Vec::new()) };
    let Some(end) = ids.first(reader, superblock.bytes_used)? else { return Ok(Vec::new()) };
    let header = ids.index - XATTR_HEADER_LEN;
    let part = Part::Xattrs;
    if start > end || end > header {
        return Err(ids.damaged("ends before it begins"));
    }
    Ok(vec![Region { part, start, end }, Region { part, start: end, end: header }])
}

fn check_compressor_options(
    reader: &mut Reader<'_>,
    superblock: &Superblock,
) -> Result<(), Problem> {
    if !superblock.flags.compressor_options() {
        return Ok(());
    }
    let part = Part::CompressorOptions;
    let region = Region { part, start: SUPERBLOCK_END, end: superblock.inode_table };
    reader.block(&region, region.start).map(|_| ())
}

/// The xattr table stands last: names and values, then the ids that refer to them, then a header
/// with the place of the former and the offsets of the latter's blocks. What comes back is where
/// the names and values begin, and the ids.
fn xattrs(reader: &Reader<'_>, superblock: &Superblock) -> Result<Option<(u64, Lookup)>, Problem> {
    let Some(header) = superblock.xattr_table else { return Ok(None) };
    let index = header.checked_add(XATTR_HEADER_LEN).filter(|end| *end <= superblock.bytes_used);
    let fault = "reaches past the end of the image";
    let index = index.ok_or(Problem::Damaged { part: Part::Xattrs, offset: header, fault })?;
    let start = reader.u64(header)?;
    // The upper half of the second number is unused.
    let records = reader.u64(header + 8)? & u64::from(u32::MAX);
    Ok(Some((start, Lookup { part: Part::Xattrs, index, records, record_len: XATTR_ID_LEN })))
}

fn check_xattrs(
    reader: &mut Reader<'_>,
    superblock: &Superblock,
    from: u64,
) -> Result<(), Problem> {
    let limit = superblock.bytes_used;
    let Some((start, ids)) = xattrs(reader, superblock)? else { return Ok(()) };
    let Some(end) = ids.first(reader, limit)? else { return Ok(()) };
    let header = ids.index - XATTR_HEADER_LEN;
    if start < from || end < start || end > header {
        let fault = "ends before it begins";
        return Err(Problem::Damaged { part: Part::Xattrs, offset: header, fault });
    }
    reader.walk(&Region { part: Part::Xattrs, start, end })?;
    ids.walk(reader, end, limit).map(|_| ())
}

const _: () = assert!(BLOCK_LEN == 8192, "the arithmetic above counts in blocks of 8 KiB");
