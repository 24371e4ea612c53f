//! An image that a recipe is made of or for: its index, and the bytes of its blocks.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::MakeError;
use crate::codec::{Recompressor, TABLE};
use crate::digest::{Sha256Sum, sha256_of};
use crate::index::{BlockKind, Index, IndexBlock};
use crate::metadata::BLOCK_LEN;
use crate::number::count;
use crate::problem::{ImageError, Part};
use crate::recipe::Base;

/// Bytes before a metadata block that say how long it is.
pub(super) const HEADER: u32 = 2;

/// An image on disk.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) base: Base,
    pub(super) index: Index,
    /// The compressor's options, without their header.
    pub(super) options: Vec<u8>,
}

impl Image {
    pub(super) fn open(path: &Path) -> Result<Self, MakeError> {
        let index = Index::read(path)?;
        let sum = sha256_of(path, |_| ())?;
        let file = File::open(path).map_err(|source| MakeError::read(path, source))?;
        let base = Base { sum, size: index.size };
        let mut image = Self { path: path.to_owned(), file, base, index, options: Vec::new() };
        let kind = BlockKind::Metadata(Part::CompressorOptions);
        let options = image.index.blocks.iter().find(|block| block.kind == kind).copied();
        if let Some(options) = options {
            image.options = image.plain(&options)?.unwrap_or_default();
        }
        Ok(image)
    }

    pub(super) fn sum(&self) -> Sha256Sum {
        self.base.sum
    }

    pub(super) fn bytes(&self, offset: u64, length: u32) -> Result<Vec<u8>, MakeError> {
        let mut bytes = vec![0; count(length)];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.map_err(|source| MakeError::read(&self.path, source))?;
        Ok(bytes)
    }

    /// The plain bytes of a block, a metadata block's without its header; `None` where it can't be
    /// decompressed.
    pub(super) fn plain(&self, block: &IndexBlock) -> Result<Option<Vec<u8>>, MakeError> {
        let (skip, limit) = match block.kind {
            BlockKind::Metadata(_) => (HEADER, BLOCK_LEN),
            _ => (0, count(self.index.superblock.block_size)),
        };
        let stored = self.bytes(block.offset + u64::from(skip), block.length - skip)?;
        if !block.compressed {
            return Ok(Some(stored));
        }
        Ok(self.index.superblock.compressor.decompress(&stored, limit))
    }

    /// Compresses as this image is; `None` where that is not known how.
    pub(super) fn recompressor(&self) -> Option<Recompressor> {
        let superblock = &self.index.superblock;
        Recompressor::new(superblock.compressor, &self.options, superblock.block_size)
    }

    /// How a compressed block comes out of its plain bytes; `None` where it does not.
    pub(super) fn proven(
        &self,
        block: &IndexBlock,
        plain: &[u8],
        recompressor: &mut Recompressor,
    ) -> Result<Option<u8>, MakeError> {
        let metadata = matches!(block.kind, BlockKind::Metadata(_));
        let skip = if metadata { HEADER } else { 0 };
        let stored = self.bytes(block.offset + u64::from(skip), block.length - skip)?;
        let variant = if metadata { TABLE } else { recompressor.variant_of(&stored) };
        let again = recompressor.compress(plain, variant);
        Ok((again.as_deref() == Some(&stored[..])).then_some(variant))
    }

    /// An error about what this image says.
    pub(super) fn problem(&self, problem: crate::problem::Problem) -> MakeError {
        ImageError { path: self.path.clone(), problem }.into()
    }
}
