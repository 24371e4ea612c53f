//! The listing of one directory: its entries in runs, each under a header.

use super::columns::{Coder, ENTRY_KIND, ENTRY_NUMBER, NAME, RUN, RUN_NUMBER};
use super::inode::shape;
use super::streams::Stream;
use crate::metadata::BLOCK_LEN;
use crate::number::{count, short, wide};

/// The most entries under one header.
const RUN_LEN: u32 = 256;

/// An entry as it is read.
#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    /// Of its inode, in the order of their table.
    pub(super) ordinal: u32,
    /// It is the first one under a header, with this number.
    pub(super) run: Option<u32>,
    /// Of its inode, as a difference from the header's.
    pub(super) number: u16,
    pub(super) kind: u16,
    pub(super) name: Vec<u8>,
}

/// What is known of an entry's inode before the entry is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child {
    pub(super) kind: u16,
    pub(super) number: u32,
    /// Where it begins in the plain bytes of its table.
    pub(super) at: usize,
}

/// Writes a listing as mksquashfs does, and the index that goes with it in a large directory.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    inodes: &'a Stream,
    out: &'a mut Vec<u8>,
    begin: usize,
    run: Option<Run>,
    /// Where the part begins that the next entry of the index will be about the end of.
    indexed: usize,
    /// Entries of the index: where a header stands, and the name that follows it.
    pub(super) index: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug)]
struct Run {
    at: usize,
    block: u64,
    number: u32,
    entries: u32,
}

impl<'a> Listing<'a> {
    pub(super) fn new(inodes: &'a Stream, out: &'a mut Vec<u8>) -> Self {
        let begin = out.len();
        Self { inodes, out, begin, run: None, indexed: begin, index: Vec::new() }
    }

    /// Codes an entry and appends it.
    pub(super) fn entry<C: Coder>(
        &mut self,
        coder: &mut C,
        child: Child,
        actual: &Entry,
    ) -> Option<()> {
        let name_len = coder.value(NAME, 0, wide(actual.name.len().saturating_sub(1)))?;
        let name_len = usize::try_from(name_len).ok()? + 1;
        let name = coder.bytes(NAME, name_len, &actual.name)?;
        let (block, offset) = self.inodes.place(child.at)?;
        let full = self.out.len() + 8 + name_len - self.indexed > BLOCK_LEN;
        let predicted = self.run.as_ref().is_none_or(|run| {
            let difference = i64::from(child.number) - i64::from(run.number);
            run.entries == RUN_LEN
                || run.block != block
                || full
                || i16::try_from(difference).is_err()
        });
        // Whether it is not as predicted.
        let other = coder.value(RUN, 0, u64::from(predicted != actual.run.is_some()))? != 0;
        if predicted != other {
            if full && self.run.is_some() {
                self.index.push((self.out.len() - self.begin, name.clone()));
                self.indexed = self.out.len();
            }
            let number = actual.run.unwrap_or_default();
            let number = coder.value(RUN_NUMBER, child.number.into(), number.into())?;
            self.begin_run(block, u32::try_from(number).ok()?)?;
        }
        let run = self.run.as_mut().filter(|run| run.block == block)?;
        run.entries += 1;
        let [low, high, ..] = child.number.wrapping_sub(run.number).to_le_bytes();
        let number = u16::from_le_bytes([low, high]);
        let number = coder.value(ENTRY_NUMBER, number.into(), actual.number.into())?;
        let kind = coder.value(ENTRY_KIND, simple(child.kind).into(), actual.kind.into())?;
        self.out.extend(offset.to_le_bytes());
        self.out.extend(u16::try_from(number).ok()?.to_le_bytes());
        self.out.extend(u16::try_from(kind).ok()?.to_le_bytes());
        self.out.extend(u16::try_from(name_len - 1).ok()?.to_le_bytes());
        self.out.extend(name);
        Some(())
    }

    fn begin_run(&mut self, block: u64, number: u32) -> Option<()> {
        self.end_run();
        let at = self.out.len();
        self.out.extend([0; 4]);
        self.out.extend(u32::try_from(block).ok()?.to_le_bytes());
        self.out.extend(number.to_le_bytes());
        self.run = Some(Run { at, block, number, entries: 0 });
        Some(())
    }

    /// Writes into the header how many entries it has.
    pub(super) fn end_run(&mut self) {
        if let Some(run) = self.run.take() {
            let entries = run.entries.saturating_sub(1).to_le_bytes();
            self.out[run.at..run.at + 4].copy_from_slice(&entries);
        }
    }
}

/// The kind that an entry gives: the shorter form.
fn simple(kind: u16) -> u16 {
    match shape(kind) {
        Some((_, true)) => kind - 7,
        _ => kind,
    }
}

/// The index of a directory whose listing begins at `at` in the plain bytes of their table.
pub(super) fn index(
    entries: &[(usize, Vec<u8>)],
    at: usize,
    directories: &Stream,
) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for (header, name) in entries {
        let (block, _) = directories.place(at + header)?;
        out.extend(short(*header).to_le_bytes());
        out.extend(u32::try_from(block).ok()?.to_le_bytes());
        out.extend(short(name.len().checked_sub(1)?).to_le_bytes());
        out.extend(name);
    }
    Some(out)
}

/// How many entries an index has.
pub(super) fn index_count(index: &[u8]) -> u16 {
    let mut rest = index;
    let mut entries = 0;
    while let Some((fixed, after)) = rest.split_at_checked(12) {
        let name = count(crate::number::le32(fixed, 8)).saturating_add(1);
        rest = after.get(name..).unwrap_or_default();
        entries += 1;
    }
    entries
}
