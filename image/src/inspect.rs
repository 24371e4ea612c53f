//! The check of a file before it is sent, and again when it has arrived.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::metadata::Reader;
use crate::platform::Platform;
use crate::problem::{ImageError, Problem};
use crate::superblock::Superblock;
use crate::tables::{Tables, WALK_BUDGET};
use crate::tree::{LOOKUP_BUDGET, Tree};

/// How much of a file tells what it is.
pub(crate) const HEAD_LEN: usize = 2048;

/// The most zero bytes after an image that count as padding: mksquashfs pads to 4 KiB, and tools
/// that write to block devices to up to 1 MiB.
const MAX_PADDING: usize = 1 << 20;

/// What is known of an image that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The length of the file in bytes, padding included. It is what the digest covers.
    pub size: u64,
    pub superblock: Superblock,
    pub platform: Platform,
}

/// Checks that a file is a complete squashfs 4.0, and reads what system is in it. Every block of
/// its tables is read; file data is not, so that this takes well under a second for a system of
/// ordinary size. Memory is bounded by a few MiB whatever the file holds, and time by its limits on
/// inodes and tables. Blocks: call it where that is allowed.
///
/// # Errors
/// The file can't be read, is something else, or is truncated, damaged or too large in its tables.
pub fn inspect(path: &Path) -> Result<ImageInfo, ImageError> {
    check(path).map_err(|problem| ImageError { path: path.to_owned(), problem })
}

fn check(path: &Path) -> Result<ImageInfo, Problem> {
    let (file, size) = open(path)?;
    let superblock = Superblock::parse(&head(&file)?, size)?;
    check_padding(&file, superblock.bytes_used, size)?;
    let mut reader = Reader::new(&file, superblock.compressor, WALK_BUDGET);
    let tables = Tables::check(&mut reader, &superblock)?;
    let reader = Reader::new(&file, superblock.compressor, LOOKUP_BUDGET);
    let mut tree = Tree::new(reader, tables, &superblock);
    tree.check_root()?;
    let platform = Platform::read(&mut tree)?;
    Ok(ImageInfo { size, superblock, platform })
}

/// A file whose superblock and length are those of an image. Its tables are yet to be checked.
pub(crate) fn open_checked(path: &Path) -> Result<(File, Superblock), Problem> {
    let (file, size) = open(path)?;
    let superblock = Superblock::parse(&head(&file)?, size)?;
    check_padding(&file, superblock.bytes_used, size)?;
    Ok((file, superblock))
}

/// Opens a regular file. The kind is looked at first, because opening a pipe would wait.
pub(crate) fn open(path: &Path) -> Result<(File, u64), Problem> {
    let metadata = fs::metadata(path).map_err(|source| Problem::Open { source })?;
    if metadata.is_dir() {
        return Err(Problem::Directory);
    }
    if !metadata.is_file() {
        return Err(Problem::NotAFile);
    }
    let file = File::open(path).map_err(|source| Problem::Open { source })?;
    let size = file.metadata().map_err(|source| Problem::Open { source })?.len();
    Ok((file, size))
}

pub(crate) fn head(file: &File) -> Result<Vec<u8>, Problem> {
    read_up_to(file, 0, HEAD_LEN)
}

/// What follows the image has to be zeros, and not many.
fn check_padding(file: &File, bytes_used: u64, size: u64) -> Result<(), Problem> {
    let extra = size.saturating_sub(bytes_used);
    let padding = read_up_to(file, bytes_used, MAX_PADDING.saturating_add(1))?;
    if padding.len() > MAX_PADDING || padding.iter().any(|byte| *byte != 0) {
        return Err(Problem::TrailingData { bytes_used, extra });
    }
    Ok(())
}

/// Up to `limit` bytes from `offset`: fewer only at the end of the file.
fn read_up_to(file: &File, offset: u64, limit: usize) -> Result<Vec<u8>, Problem> {
    let mut bytes = vec![0; limit];
    let mut filled = 0;
    let mut at = offset;
    while filled < limit {
        match file.read_at(&mut bytes[filled..], at) {
            Ok(0) => break,
            Ok(read) => {
                filled += read;
                at += u64::try_from(read).expect("a read is never longer than its buffer");
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Problem::Read { offset: at, source }),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
