//! One segment: its prefix and its window, then its operations.

use std::collections::VecDeque;

use zstd::zstd_safe::DCtx;

use super::source::{Made, Sources};
use super::{AssembleError, Delta};
use crate::codec::Recompressor;
use crate::inspect;
use crate::normal;
use crate::partial::Partial;
use crate::recipe::{Op, RecipeError, Reference, Segment, limits};
use crate::superblock::Superblock;

/// What is copied at once.
const PIECE: usize = 256 * 1024;

/// Puts out the bytes of `segment`, whose coded window is `coded`: from the image's byte `begin` on,
/// but for those that are there already.
pub(super) fn segment(
    segment: &Segment,
    coded: &[u8],
    begin: u64,
    delta: &mut Delta,
    partial: &mut Partial,
) -> Result<(), AssembleError> {
    let Segment { prefix, window, ops, .. } = segment;
    let made = Made { partial, end: begin };
    let window = plain_window(prefix, *window, coded, &delta.sources, made)?;
    let mut rest = &window[..];
    let mut output = Output { partial, begin, at: begin };
    for op in ops {
        let length = usize::try_from(op.taken()).expect("at most a window");
        // A segment that was read takes just what its window has.
        let (taken, after) = rest.split_at_checked(length).ok_or_else(|| damaged(SHORT))?;
        rest = after;
        output.put(op, taken, &delta.sources, &mut delta.recompressor)?;
    }
    Ok(())
}

const SHORT: &str = "its window ends too early";

/// Decodes the window, which takes exactly its bytes and the prefix's, whatever its frame asks for.
fn plain_window(
    prefix: &[Reference],
    window: usize,
    coded: &[u8],
    sources: &Sources,
    made: Made<'_>,
) -> Result<Vec<u8>, AssembleError> {
    let prefix = plain_prefix(prefix, sources, made)?;
    if window == 0 {
        return Ok(Vec::new());
    }
    let mut plain = vec![0; window];
    let mut decoder = DCtx::try_create().ok_or_else(|| damaged("there is no memory for it"))?;
    let decoded =
        decoder.ref_prefix(&prefix).and_then(|_| decoder.decompress(&mut plain[..], coded));
    match decoded {
        Ok(length) if length == window => Ok(plain),
        Ok(_) => Err(damaged(SHORT)),
        // The prefix is no part of what was hashed: a damaged source shows here, too.
        Err(_) => Err(damaged("its window can't be decoded, or not from the images here")),
    }
}

fn plain_prefix(
    references: &[Reference],
    sources: &Sources,
    made: Made<'_>,
) -> Result<Vec<u8>, AssembleError> {
    // Tables come first, while there is nothing else: making them takes the most memory.
    let mut tables = VecDeque::new();
    let mut room = limits::PREFIX;
    for reference in references {
        if let Reference::Tables { source } = *reference {
            let plain = sources.tables(source, room)?;
            room -= plain.len();
            tables.push_back(plain);
        }
    }
    let mut prefix = Vec::new();
    for reference in references {
        let plain = match *reference {
            Reference::Block { source, offset, stored, compressed } => {
                let plain = sources.block(source, offset, stored, compressed, made)?;
                // No block is stored in more bytes than it has; one that says so would only take
                // time.
                let taken = plain.len().max(usize::try_from(stored).unwrap_or(usize::MAX));
                let fault = "a prefix is larger than is given";
                room = room.checked_sub(taken).ok_or_else(|| damaged(fault))?;
                plain
            }
            Reference::Tables { .. } => tables.pop_front().unwrap_or_default(),
        };
        // Not the double, as a vector takes on its own.
        prefix.reserve_exact(plain.len());
        prefix.extend(plain);
    }
    Ok(prefix)
}

/// The image as it grows.
struct Output<'a> {
    partial: &'a mut Partial,
    /// Where the segment began.
    begin: u64,
    /// What the next operation puts out first; before what is there, after an interruption.
    at: u64,
}

impl Output<'_> {
    fn put(
        &mut self,
        op: &Op,
        window: &[u8],
        sources: &Sources,
        recompressor: &mut Recompressor,
    ) -> Result<(), AssembleError> {
        let end = self.at + op.output();
        // How much of this operation's output is there.
        let done = self.partial.received().saturating_sub(self.at).min(op.output());
        if done < op.output() {
            match *op {
                Op::Copy { source, offset, length } => {
                    self.copy(source, offset + done, length - done, sources)?;
                }
                Op::Literal { .. } => self.append(window, done)?,
                Op::Rebuild { stored, variant, .. } => {
                    let block = recompressor.compress(window, variant);
                    self.append_made(block, stored, done)?;
                }
                Op::Tables { stored, .. } => {
                    let superblock = self.superblock()?;
                    let tables = normal::to_stored(window, &superblock, recompressor);
                    self.append_made(tables, stored, done)?;
                }
            }
        }
        self.at = end;
        Ok(())
    }

    fn copy(
        &mut self,
        source: u8,
        offset: u64,
        length: u64,
        sources: &Sources,
    ) -> Result<(), AssembleError> {
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(PIECE).min(PIECE)];
        let mut at = offset;
        let mut left = length;
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let piece = &mut buffer[..count];
            sources.read(source, at, piece, Made { partial: self.partial, end: self.begin })?;
            self.partial.append(piece)?;
            let count = u64::try_from(count).expect("a piece is small");
            (at, left) = (at + count, left - count);
        }
        Ok(())
    }

    /// Appends what was made of plain bytes, which must be as long as was said.
    fn append_made(
        &mut self,
        made: Option<Vec<u8>>,
        stored: u32,
        done: u64,
    ) -> Result<(), AssembleError> {
        let made = made.filter(|made| u32::try_from(made.len()) == Ok(stored));
        let made = made.ok_or(AssembleError::Rebuild { offset: self.at })?;
        self.append(&made, done)
    }

    fn append(&mut self, bytes: &[u8], done: u64) -> Result<(), AssembleError> {
        let rest = usize::try_from(done).ok().and_then(|done| bytes.get(done..));
        Ok(self.partial.append(rest.unwrap_or_default())?)
    }

    /// The superblock of the new image, which was made before its tables.
    fn superblock(&self) -> Result<Superblock, AssembleError> {
        let length = usize::try_from(self.partial.received()).unwrap_or(usize::MAX);
        let mut head = vec![0; length.min(inspect::HEAD_LEN)];
        self.partial.read_at(0, &mut head).map_err(|source| {
            let path = self.partial.path().to_owned();
            crate::partial::PartialError::Io { action: "read", path, source }
        })?;
        Superblock::parse(&head, self.partial.size())
            .map_err(|_| damaged("its tables are for an image without a superblock"))
    }
}

fn damaged(fault: &'static str) -> AssembleError {
    RecipeError::Damaged { fault }.into()
}
