//! Where the bytes of files stand, in the order in which mksquashfs writes them.

use std::collections::HashMap;

use super::columns::{
    BLOCKS, Coder, FRAGMENT_AT, FRAGMENT_LEN, FRAGMENT_REST, START, TAIL, TAIL_AT, TWIN,
};
use super::inode::{Inode, NO_FRAGMENT, blocks};
use super::streams::Stream;
use crate::number::{count, le32, le64, wide};
use crate::superblock::{SUPERBLOCK_END, Superblock};

/// In a data block's length: the bytes are stored as they are.
const STORED_PLAIN: u32 = 1 << 24;

const FRAGMENT: usize = 16;

/// Where a value comes from.
const PREDICTED: u64 = 0;
/// The same as that of an equal file before.
const EQUAL: u64 = 1;
/// A difference from what was predicted.
const OTHER: u64 = 2;
/// The file has no end in a fragment, or has one, against what was predicted.
const AGAINST: u64 = 3;

/// Follows the files.
#[derive(Debug)]
pub(super) struct Places<'a> {
    block_size: u32,
    fragments: u32,
    /// The table as it is, for a writer.
    given: Option<&'a Stream>,
    /// The fragment table as it becomes.
    pub(super) table: Vec<u8>,
    /// Where the next block will stand.
    end: u64,
    /// Where the next file's end will stand: in this fragment, at this byte.
    tail: (u32, u32),
    /// Whether files of more than a block have their ends in fragments.
    split: bool,
    files: Vec<File>,
    starts: HashMap<u64, usize>,
    tails: HashMap<(u32, u32), usize>,
}

/// What an equal file shares.
#[derive(Debug, Clone, Copy)]
struct File {
    start: u64,
    tail: (u32, u32),
}

impl<'a> Places<'a> {
    pub(super) fn new(superblock: &Superblock, given: Option<&'a Stream>) -> Self {
        // The options of a compressor stand before; they are few, and this is only a guess.
        let options = if superblock.flags.compressor_options() { 10 } else { 0 };
        Self {
            block_size: superblock.block_size,
            fragments: superblock.fragments,
            given,
            table: Vec::new(),
            end: SUPERBLOCK_END + options,
            tail: (0, 0),
            split: false,
            files: Vec::new(),
            starts: HashMap::new(),
            tails: HashMap::new(),
        }
    }

    /// Codes where a file's bytes stand, and its block lengths. Its size is known.
    pub(super) fn file<C: Coder>(
        &mut self,
        coder: &mut C,
        inode: &mut Inode,
        actual: &Inode,
    ) -> Option<()> {
        (inode.fragment, inode.offset) = self.tail(coder, inode.size, actual)?;
        let blocks = blocks(inode.size, inode.fragment, self.block_size);
        let length = usize::try_from(blocks).ok()?.checked_mul(4)?;
        inode.tail = coder.bytes(BLOCKS, length, &actual.tail)?;
        let stored = inode.stored();
        if inode.fragment != NO_FRAGMENT {
            self.fragments_before(coder, inode.fragment)?;
        }
        inode.start = self.start(coder, stored, actual.start)?;
        let tail = (inode.fragment, inode.offset);
        self.starts.entry(inode.start).or_insert(self.files.len());
        self.tails.entry(tail).or_insert(self.files.len());
        self.files.push(File { start: inode.start, tail });
        Some(())
    }

    /// Codes the fragments that no file's end was in.
    pub(super) fn rest<C: Coder>(&mut self, coder: &mut C) -> Option<()> {
        self.fragments_before(coder, self.fragments)
    }

    /// Codes the fragment with a file's end, and the byte in it.
    fn tail<C: Coder>(&mut self, coder: &mut C, size: u64, actual: &Inode) -> Option<(u32, u32)> {
        let block_size = u64::from(self.block_size);
        let length = u32::try_from(size % block_size).expect("less than a block");
        let split = length > 0 && (size < block_size || self.split);
        let next = self.next_tail(length);
        let predicted = if split { next } else { (NO_FRAGMENT, 0) };
        let against = if split { (NO_FRAGMENT, 0) } else { next };
        let given = (actual.fragment, actual.offset);
        let twin = self.tails.get(&given).copied();
        let class = match given {
            tail if tail == predicted => PREDICTED,
            tail if tail == against => AGAINST,
            _ if twin.is_some() => EQUAL,
            _ => OTHER,
        };
        let tail = match coder.value(TAIL, 0, class)? {
            PREDICTED => predicted,
            AGAINST => against,
            EQUAL => self.twin(coder, twin)?.tail,
            _ => {
                let fragment = coder.value(TAIL_AT, next.0.into(), given.0.into())?;
                let offset = coder.value(TAIL_AT, next.1.into(), given.1.into())?;
                (u32::try_from(fragment).ok()?, u32::try_from(offset).ok()?)
            }
        };
        if size > block_size && length > 0 {
            self.split = tail.0 != NO_FRAGMENT;
        }
        if tail == next {
            self.tail = (tail.0, tail.1.checked_add(length)?);
        }
        Some(tail)
    }

    fn next_tail(&self, length: u32) -> (u32, u32) {
        let (fragment, used) = self.tail;
        if used.saturating_add(length) > self.block_size {
            (fragment.saturating_add(1), 0)
        } else {
            self.tail
        }
    }

    fn twin<C: Coder>(&self, coder: &mut C, twin: Option<usize>) -> Option<File> {
        let back = twin.map_or(0, |twin| self.files.len() - twin);
        let back = coder.value(TWIN, 0, wide(back))?;
        let twin = self.files.len().checked_sub(usize::try_from(back).ok()?)?;
        self.files.get(twin).copied()
    }

    /// Codes where a file's blocks begin.
    fn start<C: Coder>(&mut self, coder: &mut C, stored: u64, actual: u64) -> Option<u64> {
        let predicted = if stored == 0 { 0 } else { self.end };
        let twin = self.starts.get(&actual).copied();
        let class = match actual {
            start if start == predicted => PREDICTED,
            _ if twin.is_some() => EQUAL,
            _ => OTHER,
        };
        match coder.value(START, 0, class)? {
            PREDICTED => {
                self.end = self.end.checked_add(stored)?;
                Some(predicted)
            }
            EQUAL => self.twin(coder, twin).map(|twin| twin.start),
            _ => {
                let start = coder.value(TAIL_AT, predicted, actual)?;
                if stored > 0 {
                    self.end = self.end.max(start.checked_add(stored)?);
                }
                Some(start)
            }
        }
    }

    /// Codes the fragments up to `fragment`: they are written when one more is begun.
    fn fragments_before<C: Coder>(&mut self, coder: &mut C, fragment: u32) -> Option<()> {
        let fragment = count(fragment.min(self.fragments));
        while self.table.len() < fragment * FRAGMENT {
            let at = self.table.len();
            let given = self.given.and_then(|given| given.plain.get(at..at + FRAGMENT));
            let given = given.unwrap_or(&[0; FRAGMENT]);
            let start = coder.value(FRAGMENT_AT, self.end, le64(given, 0))?;
            let length = coder.value(FRAGMENT_LEN, 0, le32(given, 8).into())?;
            let length = u32::try_from(length).ok()?;
            let rest = coder.value(FRAGMENT_REST, 0, le32(given, 12).into())?;
            let rest = u32::try_from(rest).ok()?;
            self.table.extend(start.to_le_bytes());
            self.table.extend(length.to_le_bytes());
            self.table.extend(rest.to_le_bytes());
            self.end = self.end.max(start.checked_add((length & !STORED_PLAIN).into())?);
        }
        Some(())
    }
}
