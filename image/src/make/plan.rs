//! What becomes of each block of the new image, and how they are cut into segments.

use std::collections::HashMap;
use std::ops::Range;

use super::image::HEADER;
use crate::index::{BlockKind, Index, IndexBlock};
use crate::number::wide;
use crate::recipe::limits;

/// The shortest run that is worth an operation.
const SHORTEST_COPY: u32 = 24;

/// What becomes of a block of the new image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// A source has it.
    Copy { source: u8, offset: u64 },
    /// Its stored bytes are sent.
    Literal,
    /// Its plain bytes are sent, so many, and compressed again.
    Rebuild { plain: u32, variant: u8 },
    /// It is a part of the tables, which are sent together.
    Tables,
}

/// Where sources have which bytes.
#[derive(Debug)]
pub(super) struct Shelf {
    blocks: HashMap<[u8; 32], Vec<(u8, u64)>>,
}

impl Shelf {
    pub(super) fn new<'a>(sources: impl Iterator<Item = &'a Index>) -> Self {
        let mut blocks: HashMap<[u8; 32], Vec<(u8, u64)>> = HashMap::new();
        for (source, index) in (0..).zip(sources) {
            for block in &index.blocks {
                let places = blocks.entry(block.hash).or_default();
                // Zeros may be in a thousand places; one of the first will do.
                if places.len() < 8 {
                    places.push((source, block.offset));
                }
            }
        }
        Self { blocks }
    }

    /// Where each block of an image is copied from, if it is.
    pub(super) fn copies(&self, index: &Index) -> Vec<Fate> {
        let mut follows = None;
        index.blocks.iter().map(|block| self.copy(block, &mut follows)).collect()
    }

    /// The place that follows the last one where there is one, so that runs become long.
    fn copy(&self, block: &IndexBlock, follows: &mut Option<(u8, u64)>) -> Fate {
        let places = self.blocks.get(&block.hash).map_or(&[][..], Vec::as_slice);
        let place = places.iter().find(|place| Some(**place) == *follows);
        let Some((source, offset)) = place.or(places.first()).copied() else {
            *follows = None;
            return Fate::Literal;
        };
        if place.is_none() && block.length < SHORTEST_COPY {
            return Fate::Literal;
        }
        *follows = Some((source, offset + u64::from(block.length)));
        Fate::Copy { source, offset }
    }
}

/// A segment to be: these blocks.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    pub(super) blocks: Range<usize>,
    /// The tables, all of them and nothing else.
    pub(super) tables: bool,
}

/// Cuts the image into segments that keep to the limits.
pub(super) fn cut(index: &Index, fates: &[Fate]) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let mut begin = 0;
    let (mut window, mut output, mut parts) = (0, 0, 0);
    for (number, (block, fate)) in index.blocks.iter().zip(fates).enumerate() {
        let tables = *fate == Fate::Tables;
        let after_tables = number > 0 && (fates[number - 1] == Fate::Tables) != tables;
        let taken = taken(block, *fate);
        let full = window + taken > wide(limits::WINDOW)
            || output + u64::from(block.length) > limits::OUTPUT
            || parts + 2 > limits::PARTS;
        if number > begin && (after_tables || (full && !tables)) {
            let tables = fates[begin] == Fate::Tables;
            cuts.push(Cut { blocks: begin..number, tables });
            begin = number;
            (window, output, parts) = (0, 0, 0);
        }
        window += taken;
        output += u64::from(block.length);
        parts += 2;
    }
    let tables = fates.get(begin) == Some(&Fate::Tables);
    cuts.push(Cut { blocks: begin..fates.len(), tables });
    cuts
}

/// Bytes of the window that a block takes.
fn taken(block: &IndexBlock, fate: Fate) -> u64 {
    match fate {
        Fate::Copy { .. } | Fate::Tables => 0,
        Fate::Literal => block.length.into(),
        Fate::Rebuild { plain, .. } => {
            let metadata = matches!(block.kind, BlockKind::Metadata(_));
            u64::from(plain) + if metadata { u64::from(HEADER) } else { 0 }
        }
    }
}
