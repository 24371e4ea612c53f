//! The tables of an image as streams of plain bytes, out of a file and back into one.

use std::fs::File;

use super::PLAIN;
use super::columns::{Coder, HEADERS, LAYOUT};
use crate::codec::{Recompressor, TABLE};
use crate::metadata::{BLOCK_LEN, Reader, Region, length};
use crate::number::{count, le32, le64, wide};
use crate::problem::{Part, Problem};
use crate::superblock::Superblock;

/// In a block's header: the bytes are stored as they are.
const STORED_PLAIN: u16 = 0x8000;

/// One table without its index: metadata blocks that stand one after the other, all full but the
/// last one.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) plain: Vec<u8>,
    /// The headers of its blocks: stored lengths, and whether they are compressed.
    headers: Vec<u16>,
    /// Where each block begins, from the first one's beginning; and where the last one ends.
    starts: Vec<u64>,
}

impl Stream {
    fn new(headers: Vec<u16>) -> Self {
        let mut at = 0;
        let mut starts = vec![0];
        for header in &headers {
            at += 2 + u64::from(header & !STORED_PLAIN);
            starts.push(at);
        }
        Self { plain: Vec::new(), headers, starts }
    }

    /// The block and the byte in it that a plain byte is in.
    pub(super) fn place(&self, at: usize) -> Option<(u64, u16)> {
        let block = *self.starts.get(at / BLOCK_LEN)?;
        Some((block, u16::try_from(at % BLOCK_LEN).expect("less than a block")))
    }

    /// The plain byte at such a place; `None` where no block begins there.
    pub(super) fn position(&self, block: u64, offset: u16) -> Option<usize> {
        let block = self.starts.binary_search(&block).ok()?;
        let fits = usize::from(offset) < BLOCK_LEN;
        fits.then(|| block * BLOCK_LEN + usize::from(offset))
    }

    /// The place as it is written where one number holds both.
    pub(super) fn packed(&self, at: usize) -> Option<u64> {
        self.place(at).map(|(block, offset)| block << 16 | u64::from(offset))
    }

    fn code<C: Coder>(&mut self, coder: &mut C) -> Option<()> {
        let blocks = coder.value(LAYOUT, 0, wide(self.headers.len()))?;
        let mut headers = Vec::new();
        for block in 0..blocks {
            let actual = usize::try_from(block).ok().and_then(|block| self.headers.get(block));
            let header = coder.value(HEADERS, 0, actual.copied().unwrap_or(0).into())?;
            headers.push(u16::try_from(header).ok()?);
        }
        *self = Self { plain: std::mem::take(&mut self.plain), ..Self::new(headers) };
        Some(())
    }

    /// Appends its blocks; `None` where they do not come out as long as they were.
    fn store(&self, out: &mut Vec<u8>, recompressor: &mut Recompressor) -> Option<()> {
        let blocks = self.plain.chunks(BLOCK_LEN);
        if blocks.len() != self.headers.len() {
            return None;
        }
        for (plain, header) in blocks.zip(&self.headers) {
            out.extend(header.to_le_bytes());
            let before = out.len();
            if header & STORED_PLAIN == 0 {
                out.extend(recompressor.compress(plain, TABLE)?);
            } else {
                out.extend(plain);
            }
            if out.len() - before != usize::from(header & !STORED_PLAIN) {
                return None;
            }
        }
        Some(())
    }
}

/// All tables of an image.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) inodes: Stream,
    pub(super) directories: Stream,
    pub(super) fragments: Stream,
    pub(super) exports: Stream,
    pub(super) ids: Stream,
    pub(super) xattrs: Stream,
    pub(super) xattr_ids: Stream,
}

impl Streams {
    /// Reads the tables of an image; `None` where they do not stand one after the other as
    /// mksquashfs lays them out, or are too large.
    pub(super) fn read(file: &File, superblock: &Superblock) -> Result<Option<Self>, Problem> {
        let blocks = u32::try_from(PLAIN / BLOCK_LEN).expect("a constant");
        let reader = Reader::new(file, superblock.compressor, blocks);
        let mut walk = Walk { reader, at: superblock.inode_table };
        match walk.streams(superblock) {
            Err(Problem::TooMuchMetadata { .. }) => Ok(None),
            walked => walked,
        }
    }

    /// The order in which they stand.
    fn all(&mut self) -> [&mut Stream; 7] {
        let Self { inodes, directories, fragments, exports, ids, xattrs, xattr_ids } = self;
        [inodes, directories, fragments, exports, ids, xattrs, xattr_ids]
    }

    /// How many blocks each has, and how long they are stored.
    pub(super) fn code<C: Coder>(&mut self, coder: &mut C) -> Option<()> {
        self.all().into_iter().try_for_each(|stream| stream.code(coder))
    }

    /// The bytes of the image from its first table to its end.
    pub(super) fn store(
        &self,
        superblock: &Superblock,
        recompressor: &mut Recompressor,
    ) -> Option<Vec<u8>> {
        let start = superblock.inode_table;
        let mut out = Vec::new();
        self.inodes.store(&mut out, recompressor)?;
        self.directories.store(&mut out, recompressor)?;
        for (present, stream) in [
            (superblock.fragment_table.is_some(), &self.fragments),
            (superblock.export_table.is_some(), &self.exports),
            (true, &self.ids),
        ] {
            if present {
                let at = start + wide(out.len());
                stream.store(&mut out, recompressor)?;
                put_index(&mut out, stream, at);
            }
        }
        if superblock.xattr_table.is_some() {
            let at = start + wide(out.len());
            self.xattrs.store(&mut out, recompressor)?;
            let ids_at = start + wide(out.len());
            self.xattr_ids.store(&mut out, recompressor)?;
            out.extend(at.to_le_bytes());
            out.extend(wide(self.xattr_ids.plain.len() / 16).to_le_bytes());
            put_index(&mut out, &self.xattr_ids, ids_at);
        }
        Some(out)
    }
}

/// The array of where the blocks of a table begin.
fn put_index(out: &mut Vec<u8>, stream: &Stream, at: u64) {
    for start in &stream.starts[..stream.headers.len()] {
        out.extend((at + start).to_le_bytes());
    }
}

/// Reads tables from the first one to the end.
struct Walk<'a> {
    reader: Reader<'a>,
    at: u64,
}

impl Walk<'_> {
    fn streams(&mut self, superblock: &Superblock) -> Result<Option<Streams>, Problem> {
        let mut streams = Streams::default();
        let inodes = self.blocks(Part::Inodes, superblock.directory_table)?;
        let lookups = [
            (
                &mut streams.fragments,
                Part::Fragments,
                superblock.fragment_table,
                16,
                superblock.fragments,
            ),
            (&mut streams.exports, Part::Export, superblock.export_table, 8, superblock.inodes),
            (&mut streams.ids, Part::Ids, Some(superblock.id_table), 4, superblock.ids.into()),
        ];
        let mut directories = None;
        for (stream, part, index, record_len, records) in lookups {
            let Some(index) = index else { continue };
            let plain_len = record_len * count(records);
            if directories.is_none() {
                let end = if plain_len == 0 { index } else { self.reader.u64(index)? };
                directories = Some(self.blocks(Part::Directories, end)?);
            }
            let Some(read) = self.lookup(part, index, plain_len)? else { return Ok(None) };
            *stream = read;
        }
        let directories = directories.expect("every image has a table of ids");
        let (Some(inodes), Some(directories)) = (inodes, directories) else { return Ok(None) };
        (streams.inodes, streams.directories) = (inodes, directories);
        if !self.xattrs(superblock, &mut streams)? || self.at != superblock.bytes_used {
            return Ok(None);
        }
        Ok(Some(streams))
    }

    /// Blocks up to `end`.
    fn blocks(&mut self, part: Part, end: u64) -> Result<Option<Stream>, Problem> {
        let region = Region { part, start: self.at, end };
        let mut plain = Vec::new();
        let mut headers = Vec::new();
        while self.at < end {
            if plain.len() % BLOCK_LEN != 0 {
                return Ok(None);
            }
            let place = self.reader.place(&region, self.at)?;
            let stored_plain = if place.compressed { 0 } else { STORED_PLAIN };
            headers.push(place.length | stored_plain);
            let block = self.reader.block_at(&region, place)?;
            plain.extend(block.plain);
            self.at = block.next;
        }
        if self.at != end {
            return Ok(None);
        }
        Ok(Some(Stream { plain, ..Stream::new(headers) }))
    }

    /// Blocks that stand before the array of their offsets, and that array.
    fn lookup(
        &mut self,
        part: Part,
        index: u64,
        plain_len: usize,
    ) -> Result<Option<Stream>, Problem> {
        let start = self.at;
        let Some(stream) = self.blocks(part, index)? else { return Ok(None) };
        if stream.plain.len() != plain_len {
            return Ok(None);
        }
        let mut predicted = Vec::new();
        put_index(&mut predicted, &stream, start);
        let mut actual = vec![0; predicted.len()];
        self.reader.bytes(index, &mut actual)?;
        self.at = index + length(&actual);
        Ok((actual == predicted).then_some(stream))
    }

    /// Whether there are none, or they are as they should be.
    fn xattrs(&mut self, superblock: &Superblock, into: &mut Streams) -> Result<bool, Problem> {
        let Some(header_at) = superblock.xattr_table else { return Ok(true) };
        let mut header = [0; 16];
        self.reader.bytes(header_at, &mut header)?;
        let records = le32(&header, 8);
        if le64(&header, 0) != self.at || records == 0 || le32(&header, 12) != 0 {
            return Ok(false);
        }
        let ids_at = self.reader.u64(header_at + 16)?;
        let Some(xattrs) = self.blocks(Part::Xattrs, ids_at)? else { return Ok(false) };
        let Some(ids) = self.blocks(Part::Xattrs, header_at)? else { return Ok(false) };
        let mut predicted = Vec::new();
        put_index(&mut predicted, &ids, ids_at);
        let mut actual = vec![0; predicted.len()];
        self.reader.bytes(header_at + 16, &mut actual)?;
        self.at = header_at + 16 + length(&actual);
        let sound = actual == predicted && ids.plain.len() == count(records) * 16;
        (into.xattrs, into.xattr_ids) = (xattrs, ids);
        Ok(sound)
    }
}
