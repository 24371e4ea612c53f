//! An index in short, for the wire: each block with half of its hash.
//!
//! Who has it can say which bytes of another image are the same, as with the index itself. Two
//! blocks of which only those halves are equal would have to be made on purpose, and the image that
//! came of it would not have its digest.

use super::{COMPRESSED, Index};
use crate::recipe::RecipeError;
use crate::recipe::code::{Input, put, put_len};

/// Bytes of each hash that are kept.
pub(crate) const SHORT: usize = 16;

impl Index {
    /// The index in short: about 20 bytes for each block.
    #[must_use]
    pub fn outline(&self) -> Vec<u8> {
        let mut out = self.superblock.encode().to_vec();
        put(&mut out, self.size);
        put_len(&mut out, self.blocks.len());
        for block in &self.blocks {
            out.push(block.kind.number() | if block.compressed { COMPRESSED } else { 0 });
            put(&mut out, block.length.into());
            out.extend(&block.hash[..SHORT]);
        }
        out
    }

    /// Reads an outline. The second halves of its hashes are zeros; compare with
    /// [`shortened`](Self::shortened) ones only.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn from_outline(bytes: &[u8]) -> Result<Self, RecipeError> {
        let short = |input: &mut Input<'_>| {
            let mut hash = [0; 32];
            hash[..SHORT].copy_from_slice(&input.array::<SHORT>()?);
            Ok(hash)
        };
        Self::read_from(bytes, "outline", short)
    }

    /// With hashes as an outline has them.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        for block in &mut self.blocks {
            block.hash[SHORT..].fill(0);
        }
        self
    }
}
