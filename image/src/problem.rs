//! What can be wrong with an image, in words that tell a person what to do.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::found::Found;
use crate::size::Size;
use crate::superblock::MAX_INODES;

/// A file that can't be used as an image, and why.
#[derive(Debug)]
pub struct ImageError {
    pub path: PathBuf,
    pub problem: Problem,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.display(), self.problem)
    }
}

impl Error for ImageError {
    /// The problem is part of this error's own message; only what lies below it is a source.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.problem.source()
    }
}

/// What is wrong with a file. Its text follows the file's name.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("could not be opened")]
    Open { source: io::Error },
    #[error("could not be read at byte {offset}")]
    Read { offset: u64, source: io::Error },
    #[error(
        "is a directory, not an image; make an image of it with \
         `mksquashfs DIR NAME.squashfs -comp zstd`"
    )]
    Directory,
    #[error("is not a regular file; name the image file itself")]
    NotAFile,
    #[error("is empty: it has no bytes at all; copy or build it again")]
    Empty,
    #[error("is not a squashfs file: {found}")]
    NotSquashfs { found: Found },
    #[error(
        "is a big-endian squashfs, which today's kernels can't mount; \
         make it anew with mksquashfs 4.3 or newer"
    )]
    BigEndian,
    #[error(
        "is a squashfs of version {major}.{minor}, and only version 4.0 can be used; \
         make it anew with mksquashfs 4.3 or newer"
    )]
    Version { major: u16, minor: u16 },
    #[error(
        "is compressed with {}, and only gzip, xz and zstd can be used; \
         make it anew with `mksquashfs DIR NAME.squashfs -comp zstd`",
        compressor_name(*.id)
    )]
    Compressor { id: u16 },
    #[error(
        "is damaged: its superblock gives a block size of {block_size} bytes (log {block_log}), \
         which is not a power of two from 4 KiB to 1 MiB; copy or build it again"
    )]
    BlockSize { block_size: u32, block_log: u16 },
    #[error("is truncated: it ends after {size} bytes, in its superblock; copy or build it again")]
    TooShort { size: u64 },
    #[error(
        "is truncated: {missing} of its {bytes_used} bytes are missing; copy or build it again"
    )]
    Truncated { missing: u64, bytes_used: u64 },
    #[error(
        "has trailing data: the image ends at byte {bytes_used}, and {extra} bytes that are not \
         zero padding follow; cut it there, or copy it again"
    )]
    TrailingData { bytes_used: u64, extra: u64 },
    #[error("holds {inodes} files and directories, and at most {MAX_INODES} can be used")]
    TooManyInodes { inodes: u32 },
    #[error(
        "holds more than {} of file and directory tables; make it of fewer files, \
         or with a larger block size",
        Size(*.limit)
    )]
    TooMuchMetadata { limit: u64 },
    #[error("holds more than {limit} paths, which is more than can be listed")]
    TooManyPaths { limit: usize },
    #[error(
        "is made of more than {limit} blocks; make it anew with a larger block size \
         (`mksquashfs ... -b 131072`)"
    )]
    TooManyBlocks { limit: usize },
    #[error("is damaged: the {part} at byte {offset} {fault}; copy or build it again")]
    Damaged { part: Part, offset: u64, fault: &'static str },
}

fn compressor_name(id: u16) -> String {
    match id {
        2 => "lzma".to_owned(),
        3 => "lzo".to_owned(),
        5 => "lz4".to_owned(),
        _ => format!("an unknown method (number {id})"),
    }
}

/// A part of a squashfs file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Superblock,
    CompressorOptions,
    Data,
    Inodes,
    Directories,
    Fragments,
    Export,
    Ids,
    Xattrs,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Superblock => "superblock",
            Self::CompressorOptions => "compressor options",
            Self::Data => "file data",
            Self::Inodes => "inode table",
            Self::Directories => "directory table",
            Self::Fragments => "fragment table",
            Self::Export => "export table",
            Self::Ids => "id table",
            Self::Xattrs => "xattr table",
        })
    }
}
