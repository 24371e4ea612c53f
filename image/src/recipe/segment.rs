//! A segment of a recipe: the next piece of the image.
//!
//! A segment brings a *window* of plain bytes, coded by zstd against a *prefix* of plain bytes that
//! the receiver makes first. Its operations then put the image's bytes out, one after the other:
//! copied, or taken from the window as they are, or taken from it and compressed again.

use super::code::{Input, put, put_len, unzigzag, zigzag};
use super::{RecipeError, limits};

const PART: &str = "segment";

/// The highest level is of no use for a few hundred bytes, and this is fast.
const HEADER_LEVEL: i32 = 19;

/// The most bytes of references and operations, before they are compressed.
const HEADER_LEN: usize = 4 << 20;

/// The largest stored block of squashfs.
const BLOCK: u32 = 1 << 20;

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What the prefix is made of, in order.
    pub prefix: Vec<Reference>,
    /// Plain bytes of the window.
    pub window: usize,
    /// What is to be done, in order.
    pub ops: Vec<Op>,
    /// The window, coded: one zstd frame; empty where the window is.
    pub coded: Vec<u8>,
}

/// A piece of the prefix. `source` counts the head's sources; the number after the last one is the
/// new image itself, of which what earlier segments made can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// The plain bytes of a block that stands at `offset`, `stored` bytes long there. The plain
    /// bytes of a data block are at most the image's block size.
    Block { source: u8, offset: u64, stored: u32, compressed: bool },
    /// The tables of an image in their normal form (see [`crate::tables`]).
    Tables { source: u8 },
}

/// An operation: puts out the next bytes of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Bytes of a source, or of the new image before this segment.
    Copy { source: u8, offset: u64, length: u64 },
    /// The next `length` bytes of the window as they are.
    Literal { length: u32 },
    /// The next `plain` bytes of the window, compressed to `stored` bytes as the new image's
    /// blocks are. `variant`: which of the ways that the compressor can be asked to, see
    /// [`crate::codec`].
    Rebuild { plain: u32, stored: u32, variant: u8 },
    /// The next `normal` bytes of the window are the image's tables in normal form; what comes out
    /// is all `stored` bytes from its first table to its end.
    Tables { normal: u32, stored: u32 },
}

impl Op {
    /// Bytes of the image that it puts out.
    #[must_use]
    pub fn output(&self) -> u64 {
        match *self {
            Self::Copy { length, .. } => length,
            Self::Literal { length } => length.into(),
            Self::Rebuild { stored, .. } | Self::Tables { stored, .. } => stored.into(),
        }
    }

    /// Bytes of the window that it takes.
    #[must_use]
    pub fn taken(&self) -> u32 {
        match *self {
            Self::Copy { .. } => 0,
            Self::Literal { length } => length,
            Self::Rebuild { plain, .. } => plain,
            Self::Tables { normal, .. } => normal,
        }
    }
}

impl Segment {
    /// Bytes of the image that it puts out.
    #[must_use]
    pub fn output(&self) -> u64 {
        self.ops.iter().map(Op::output).sum()
    }

    /// The bytes that stand for it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut header = Vec::new();
        put_len(&mut header, self.window);
        put_len(&mut header, self.prefix.len());
        let mut last = Place::default();
        for reference in &self.prefix {
            put_reference(&mut header, reference, &mut last);
        }
        put_len(&mut header, self.ops.len());
        let mut last = Place::default();
        for op in &self.ops {
            put_op(&mut header, op, &mut last);
        }
        let packed = zstd::bulk::compress(&header, HEADER_LEVEL).expect("memory takes any bytes");
        let mut out = Vec::with_capacity(packed.len() + self.coded.len() + 8);
        put_len(&mut out, header.len());
        put_len(&mut out, packed.len());
        out.extend(packed);
        out.extend(&self.coded);
        out
    }

    /// Reads a segment of a recipe with `sources` sources.
    ///
    /// # Errors
    /// It is cut short, damaged, or asks for more than [`limits`] allow. Whether offsets lie in
    /// the sources is for who reads there to see.
    pub fn decode(bytes: &[u8], sources: usize) -> Result<Self, RecipeError> {
        let (segment, coded) = Self::decode_around(bytes, sources)?;
        Ok(Self { coded: coded.to_vec(), ..segment })
    }

    /// Reads a segment but for its coded window, which is left where it is: a copy would take as
    /// much memory again.
    pub(crate) fn decode_around(
        bytes: &[u8],
        sources: usize,
    ) -> Result<(Self, &[u8]), RecipeError> {
        let mut input = Input::new(bytes, PART);
        let length = input.count("bytes of operations", HEADER_LEN)?;
        let packed = input.count("bytes of coded operations", HEADER_LEN)?;
        let packed = input.bytes(packed)?;
        let coded = input.rest();
        let header = zstd::bulk::decompress(packed, length)
            .ok()
            .filter(|header| header.len() == length)
            .ok_or_else(|| RecipeError::damaged("its operations can't be decompressed"))?;
        let mut input = Input::new(&header, PART);
        let window = input.count("bytes of window", limits::WINDOW)?;
        let numbers = u8::try_from(sources).expect("a head has few sources");
        let prefix = references(&mut input, numbers)?;
        let ops = ops(&mut input, numbers)?;
        input.end()?;
        let segment = Self { prefix, window, ops, coded: Vec::new() };
        segment.check(coded)?;
        Ok((segment, coded))
    }

    fn check(&self, coded: &[u8]) -> Result<(), RecipeError> {
        let taken: u64 = self.ops.iter().map(|op| u64::from(op.taken())).sum();
        if u64::try_from(self.window) != Ok(taken) {
            return Err(RecipeError::damaged("its operations take more or less than its window"));
        }
        if (self.window == 0) != coded.is_empty() {
            return Err(RecipeError::damaged(
                "it has a window without bytes, or bytes without one",
            ));
        }
        let output = self.ops.iter().map(Op::output).try_fold(0_u64, u64::checked_add);
        match output {
            Some(1..=limits::OUTPUT) => Ok(()),
            Some(0) => Err(RecipeError::damaged("a segment makes nothing")),
            asked => Err(RecipeError::TooMuch {
                what: "bytes made by a segment",
                asked: asked.unwrap_or(u64::MAX),
                limit: limits::OUTPUT,
            }),
        }
    }
}

/// Where the last place ended: most follow one another, and are written as nothing then.
#[derive(Debug, Default)]
struct Place {
    source: u8,
    end: u64,
}

impl Place {
    fn put(&mut self, out: &mut Vec<u8>, source: u8, offset: u64, length: u64) {
        out.push(source);
        let from = if source == self.source { self.end } else { 0 };
        put(out, zigzag(offset.wrapping_sub(from)));
        put(out, length);
        *self = Self { source, end: offset.wrapping_add(length) };
    }

    fn read(&mut self, input: &mut Input<'_>, limit: u64) -> Result<(u8, u64, u64), RecipeError> {
        let source = input.byte()?;
        let from = if source == self.source { self.end } else { 0 };
        let offset = from.wrapping_add(unzigzag(input.number()?));
        let length = input.at_most("bytes of a source", limit)?;
        let end = offset.checked_add(length);
        let end = end.ok_or_else(|| RecipeError::damaged("a place is past any file's end"))?;
        *self = Self { source, end };
        Ok((source, offset, length))
    }
}

fn put_reference(out: &mut Vec<u8>, reference: &Reference, last: &mut Place) {
    match *reference {
        Reference::Block { source, offset, stored, compressed } => {
            out.push(u8::from(compressed));
            last.put(out, source, offset, stored.into());
        }
        Reference::Tables { source } => out.extend([2, source]),
    }
}

fn references(input: &mut Input<'_>, sources: u8) -> Result<Vec<Reference>, RecipeError> {
    let mut references = Vec::new();
    let mut last = Place::default();
    for _ in 0..input.count("references", limits::PARTS)? {
        let reference = match input.byte()? {
            kind @ (0 | 1) => {
                let (source, offset, stored) = last.read(input, BLOCK.into())?;
                let stored = u32::try_from(stored).expect("at most a block");
                if stored == 0 {
                    return Err(RecipeError::damaged("a block has no bytes"));
                }
                Reference::Block { source, offset, stored, compressed: kind == 1 }
            }
            2 => Reference::Tables { source: input.byte()? },
            _ => return Err(RecipeError::damaged("a reference is of an unknown kind")),
        };
        let known = match reference {
            Reference::Block { source, .. } => source <= sources,
            // The new image's own tables come last.
            Reference::Tables { source } => source < sources,
        };
        if !known {
            return Err(RecipeError::damaged("it refers to a source that it does not have"));
        }
        references.push(reference);
    }
    Ok(references)
}

fn put_op(out: &mut Vec<u8>, op: &Op, last: &mut Place) {
    match *op {
        Op::Copy { source, offset, length } => {
            out.push(0);
            last.put(out, source, offset, length);
        }
        Op::Literal { length } => {
            out.push(1);
            put(out, length.into());
        }
        Op::Rebuild { plain, stored, variant } => {
            out.push(2);
            put(out, plain.into());
            put(out, stored.into());
            out.push(variant);
        }
        Op::Tables { normal, stored } => {
            out.push(3);
            put(out, normal.into());
            put(out, stored.into());
        }
    }
}

fn ops(input: &mut Input<'_>, sources: u8) -> Result<Vec<Op>, RecipeError> {
    let mut ops = Vec::new();
    let mut last = Place::default();
    for _ in 0..input.count("operations", limits::PARTS)? {
        let window = u32::try_from(limits::WINDOW).expect("a constant");
        let op = match input.byte()? {
            0 => {
                let (source, offset, length) = last.read(input, limits::OUTPUT)?;
                if source > sources {
                    return Err(RecipeError::damaged("it copies from a source it does not have"));
                }
                Op::Copy { source, offset, length }
            }
            1 => Op::Literal { length: input.length("literal bytes", window)? },
            2 => Op::Rebuild {
                plain: input.length("plain bytes of a block", BLOCK)?,
                stored: input.length("bytes of a block", BLOCK)?,
                variant: input.byte()?,
            },
            3 => Op::Tables {
                normal: input.length("bytes of tables", window)?,
                stored: input.length("bytes of stored tables", window)?,
            },
            _ => return Err(RecipeError::damaged("an operation is of an unknown kind")),
        };
        ops.push(op);
    }
    Ok(ops)
}
