//! The plain bytes of a table of metadata blocks, in memory.

use crate::metadata::{Reader, Region};
use crate::problem::{Part, Problem};

/// The most plain bytes of a table that are held.
const MOST: usize = 256 << 20;

/// A table's plain bytes, with where each block's begin.
#[derive(Debug)]
pub(super) struct Plain {
    region: Region,
    bytes: Vec<u8>,
    /// The offset of each block from the table's start, and of its plain bytes.
    starts: Vec<(u64, usize)>,
}

impl Plain {
    pub(super) fn read(reader: &mut Reader<'_>, region: Region) -> Result<Self, Problem> {
        let (mut bytes, mut starts, mut at) = (Vec::new(), Vec::new(), region.start);
        while at < region.end {
            let block = reader.block(&region, at)?;
            starts.push((at - region.start, bytes.len()));
            bytes.extend(block.plain);
            at = block.next;
            if bytes.len() > MOST {
                let limit = u64::try_from(MOST).expect("a constant");
                return Err(Problem::TooMuchMetadata { limit });
            }
        }
        Ok(Self { region, bytes, starts })
    }

    /// From a byte of a block's plain bytes on.
    pub(super) fn at(&self, block: u64, offset: u16) -> Result<Fields<'_>, Problem> {
        let found = self.starts.binary_search_by_key(&block, |(at, _)| *at).ok();
        let begin = found.and_then(|at| self.starts.get(at)).map(|(_, plain)| *plain);
        let place = begin.map(|begin| begin + usize::from(offset));
        let rest = place.and_then(|place| self.bytes.get(place..));
        let rest = rest.ok_or_else(|| self.damaged("is referred to where no block begins"))?;
        Ok(Fields::new(rest, self.region.part, self.region.start.saturating_add(block)))
    }

    pub(super) fn damaged(&self, fault: &'static str) -> Problem {
        Problem::Damaged { part: self.region.part, offset: self.region.start, fault }
    }
}

/// Little-endian fields, one after the other.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    part: Part,
    /// For errors: the block that they stand in.
    offset: u64,
}

impl<'a> Fields<'a> {
    pub(super) fn new(rest: &'a [u8], part: Part, offset: u64) -> Self {
        Self { rest, part, offset }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Problem> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| self.damaged("is cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        Ok(*self.bytes(N)?.first_chunk().expect("as many as were asked for"))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Problem> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Problem> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn damaged(&self, fault: &'static str) -> Problem {
        Problem::Damaged { part: self.part, offset: self.offset, fault }
    }
}
