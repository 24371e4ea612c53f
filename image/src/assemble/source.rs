//! The images that bytes are taken from, and the new image as far as it is there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::AssembleError;
use crate::compression::Compressor;
use crate::directory::complete_path;
use crate::inspect;
use crate::metadata::BLOCK_LEN;
use crate::normal;
use crate::partial::{Partial, PartialError};
use crate::problem::ImageError;
use crate::recipe::{Base, RecipeError};
use crate::superblock::Superblock;

/// The sources of a recipe, open.
#[derive(Debug)]
pub(super) struct Sources {
    files: Vec<Source>,
    /// How the blocks of the new image are compressed.
    compressor: Compressor,
    limit: usize,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    file: File,
    size: u64,
    superblock: Superblock,
}

/// The new image: the bytes before the segment that is being carried out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made<'a> {
    pub(super) partial: &'a Partial,
    pub(super) end: u64,
}

impl Sources {
    pub(super) fn open(
        dir: &Path,
        bases: &[Base],
        compressor: Compressor,
        block_size: u32,
    ) -> Result<Self, AssembleError> {
        let files = bases.iter().map(|base| Source::open(dir, base)).collect::<Result<_, _>>()?;
        Ok(Self { files, compressor, limit: plain_limit(block_size) })
    }

    /// Fills `buffer` from byte `offset` of a source, or of the new image, which has the number
    /// after the last one.
    pub(super) fn read(
        &self,
        source: u8,
        offset: u64,
        buffer: &mut [u8],
        made: Made<'_>,
    ) -> Result<(), AssembleError> {
        let length = u64::try_from(buffer.len()).expect("no slice is longer than a u64 counts");
        let end = offset.checked_add(length);
        match self.files.get(usize::from(source)) {
            Some(source) if end.is_some_and(|end| end <= source.size) => {
                source.file.read_exact_at(buffer, offset).map_err(|error| source.failed(error))
            }
            None if end.is_some_and(|end| end <= made.end) => {
                made.partial.read_at(offset, buffer).map_err(|source| {
                    let path = made.partial.path().to_owned();
                    PartialError::Io { action: "read", path, source }.into()
                })
            }
            Some(_) => Err(damaged("a place is past the end of its source")),
            None => Err(damaged("it refers to what is not made yet")),
        }
    }

    /// The bytes of a block without its compression.
    pub(super) fn block(
        &self,
        source: u8,
        offset: u64,
        stored: u32,
        compressed: bool,
        made: Made<'_>,
    ) -> Result<Vec<u8>, AssembleError> {
        let mut bytes = vec![0; usize::try_from(stored).expect("at most a block")];
        self.read(source, offset, &mut bytes, made)?;
        if !compressed {
            return Ok(bytes);
        }
        let source = self.files.get(usize::from(source));
        let (compressor, limit) = match source.map(|source| &source.superblock) {
            Some(superblock) => (superblock.compressor, plain_limit(superblock.block_size)),
            None => (self.compressor, self.limit),
        };
        let plain = compressor.decompress(&bytes, limit);
        plain.ok_or_else(|| match source {
            Some(source) => AssembleError::SourceDamaged { path: source.path.clone(), offset },
            None => AssembleError::Rebuild { offset },
        })
    }

    /// The tables of a source in their normal form, at most `room` bytes.
    pub(super) fn tables(&self, source: u8, room: usize) -> Result<Vec<u8>, AssembleError> {
        let source = self.files.get(usize::from(source));
        let source =
            source.ok_or_else(|| damaged("it refers to a source that it does not have"))?;
        let normal = match normal::of_image(&source.file, &source.superblock) {
            Ok(normal) => normal.filter(|normal| normal.len() <= room),
            Err(problem) => {
                let path = source.path.clone();
                return Err(AssembleError::SourceImage(ImageError { path, problem }));
            }
        };
        normal.ok_or_else(|| damaged("it refers to tables that have no normal form"))
    }
}

impl Source {
    fn open(dir: &Path, base: &Base) -> Result<Self, AssembleError> {
        let path = complete_path(dir, &base.sum);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(AssembleError::MissingSource { sum: base.sum, path });
            }
            Err(source) => return Err(AssembleError::SourceIo { action: "open", path, source }),
        };
        let size = match file.metadata() {
            Ok(metadata) => metadata.len(),
            Err(source) => return Err(AssembleError::SourceIo { action: "look at", path, source }),
        };
        if size != base.size {
            let (sum, expected) = (base.sum, base.size);
            return Err(AssembleError::SourceSize { sum, path, size, expected });
        }
        let superblock = inspect::head(&file).and_then(|head| Superblock::parse(&head, size));
        match superblock {
            Ok(superblock) => Ok(Self { path, file, size, superblock }),
            Err(problem) => Err(AssembleError::SourceImage(ImageError { path, problem })),
        }
    }

    fn failed(&self, source: io::Error) -> AssembleError {
        AssembleError::SourceIo { action: "read", path: self.path.clone(), source }
    }
}

/// The most plain bytes of a block, of whatever part of an image.
fn plain_limit(block_size: u32) -> usize {
    usize::try_from(block_size).expect("at most 1 MiB").max(BLOCK_LEN)
}

fn damaged(fault: &'static str) -> AssembleError {
    RecipeError::Damaged { fault }.into()
}
