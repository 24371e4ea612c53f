//! What a writer is given: the tables as they are.

use super::inode::{Inode, Shape, shape};
use super::listing::Entry;
use super::streams::Streams;
use crate::number::{count, le16, le32, short};
use crate::superblock::Superblock;

/// The tables of an image that is there, for the values that a writer writes.
#[derive(Debug)]
pub(super) struct Given<'a> {
    pub(super) streams: &'a Streams,
    block_size: u32,
    /// Where each inode begins in the plain bytes of its table.
    inodes: Vec<u32>,
}

impl<'a> Given<'a> {
    /// `None` where the inodes are not just those that the superblock counts.
    pub(super) fn new(streams: &'a Streams, superblock: &Superblock) -> Option<Self> {
        let block_size = superblock.block_size;
        let plain = &streams.inodes.plain;
        let mut inodes = Vec::new();
        let mut at = 0;
        for _ in 0..superblock.inodes {
            inodes.push(short(at));
            at += Inode::parse(&plain[at..], block_size)?.1;
        }
        (at == plain.len()).then_some(Self { streams, block_size, inodes })
    }

    /// The inode of a number in the order of the table.
    pub(super) fn inode(&self, ordinal: usize) -> Option<Inode> {
        let at = count(*self.inodes.get(ordinal)?);
        Inode::parse(&self.streams.inodes.plain[at..], self.block_size).map(|(inode, _)| inode)
    }

    /// The entries of a directory, whose listing begins at `at`.
    pub(super) fn listing(&self, at: usize, directory: &Inode) -> Option<Vec<Entry>> {
        let (Shape::Directory, _) = shape(directory.kind)? else { return None };
        let length = usize::try_from(directory.size).ok()?.checked_sub(3)?;
        let mut rest = self.streams.directories.plain.get(at..)?.get(..length)?;
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (header, after) = rest.split_at_checked(12)?;
            rest = after;
            for place in 0..=le32(header, 0) {
                let (fixed, after) = rest.split_at_checked(8)?;
                let (name, after) = after.split_at_checked(usize::from(le16(fixed, 6)) + 1)?;
                rest = after;
                entries.push(Entry {
                    ordinal: self.ordinal(le32(header, 4), le16(fixed, 0))?,
                    run: (place == 0).then(|| le32(header, 8)),
                    number: le16(fixed, 2),
                    kind: le16(fixed, 4),
                    name: name.to_vec(),
                });
            }
        }
        Some(entries)
    }

    /// The inode that stands at such a place.
    fn ordinal(&self, block: u32, offset: u16) -> Option<u32> {
        let at = short(self.streams.inodes.position(block.into(), offset)?);
        self.inodes.binary_search(&at).ok().map(short)
    }
}
