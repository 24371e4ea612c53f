//! One segment, out of its cut: its operations, its window, and what that is coded against.

use super::image::{HEADER, Image};
use super::plan::{Cut, Fate};
use super::{MakeError, Wire, coding};
use crate::index::{BlockKind, IndexBlock};
use crate::number::{count, short, wide};
use crate::recipe::{Op, Reference, Segment, limits};

/// What a segment is made of.
#[derive(Debug)]
pub(super) struct Draft {
    ops: Vec<Op>,
    window: Vec<u8>,
    /// Of the window, those that are sent as they are.
    literal: u64,
}

impl Draft {
    /// The operations of a cut, and the plain bytes that they take.
    pub(super) fn new(target: &Image, fates: &[Fate], cut: &Cut) -> Result<Self, MakeError> {
        let mut draft = Self { ops: Vec::new(), window: Vec::new(), literal: 0 };
        for number in cut.blocks.clone() {
            draft.block(target, &target.index.blocks[number], fates[number])?;
        }
        Ok(draft)
    }

    fn block(&mut self, target: &Image, block: &IndexBlock, fate: Fate) -> Result<(), MakeError> {
        match fate {
            Fate::Copy { source, offset } => self.copy(source, offset, block.length.into()),
            Fate::Literal => self.literal(&target.bytes(block.offset, block.length)?),
            Fate::Rebuild { plain, variant } => {
                let mut stored = block.length;
                if let BlockKind::Metadata(_) = block.kind {
                    self.literal(&target.bytes(block.offset, HEADER)?);
                    stored -= HEADER;
                }
                let bytes = target.plain(block)?.unwrap_or_default();
                if bytes.len() != count(plain) {
                    return Err(MakeError::Changed { path: target.path.clone() });
                }
                self.window.extend(bytes);
                self.ops.push(Op::Rebuild { plain, stored, variant });
            }
            Fate::Tables => {}
        }
        Ok(())
    }

    fn copy(&mut self, from: u8, at: u64, more: u64) {
        if let Some(Op::Copy { source, offset, length }) = self.ops.last_mut()
            && *source == from
            && *offset + *length == at
        {
            *length += more;
            return;
        }
        self.ops.push(Op::Copy { source: from, offset: at, length: more });
    }

    fn literal(&mut self, bytes: &[u8]) {
        self.window.extend(bytes);
        self.literal += wide(bytes.len());
        if let Some(Op::Literal { length }) = self.ops.last_mut() {
            *length += short(bytes.len());
        } else if !bytes.is_empty() {
            self.ops.push(Op::Literal { length: short(bytes.len()) });
        }
    }

    /// The tables in normal form.
    pub(super) fn tables(normal: Vec<u8>, stored: u64) -> Self {
        let stored = u32::try_from(stored).expect("tables have a few MiB");
        let ops = vec![Op::Tables { normal: short(normal.len()), stored }];
        Self { ops, window: normal, literal: 0 }
    }

    /// Codes the window, and gives the segment's bytes. `prefix` has the bytes of `references`.
    pub(super) fn finish(
        self,
        references: Vec<Reference>,
        prefix: &[u8],
        level: i32,
    ) -> Result<(Vec<u8>, u64, Wire), MakeError> {
        let Self { ops, window, literal } = self;
        debug_assert!(window.len() <= limits::WINDOW && prefix.len() <= limits::PREFIX);
        let coded =
            if window.is_empty() { Vec::new() } else { coding::code(&window, prefix, level)? };
        let coded_len = wide(coded.len());
        let tables = matches!(ops[..], [Op::Tables { .. }]);
        let segment = Segment { prefix: references, window: window.len(), ops, coded };
        let encoded = segment.encode();
        let mut wire = Wire { copied: wide(encoded.len()) - coded_len, ..Wire::default() };
        if tables {
            wire.metadata = coded_len;
        } else {
            wire.literal = coded_len * literal / wide(window.len()).max(1);
            wire.rebuilt = coded_len - wire.literal;
        }
        Ok((encoded, segment.output(), wire))
    }
}
