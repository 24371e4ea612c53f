//! The head of a whole image, whose segments are its own bytes.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::MakeError;
use crate::digest::Sha256Sum;
use crate::number::count;
use crate::recipe::{Head, Kind, SegmentHead};

/// What segments are a multiple of.
const STEP: u64 = 1 << 20;

/// About how many segments an image has at most.
const SEGMENTS: u64 = 4096;

/// Makes the head for sending a whole image, of which `target` is the SHA-256. Reads the file once,
/// with a few MiB of memory.
///
/// # Errors
/// The file can't be read, or is empty.
pub fn whole(path: &Path, target: Sha256Sum) -> Result<Head, MakeError> {
    let failed = |source| MakeError::read(path, source);
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let each = (size / SEGMENTS).next_multiple_of(STEP).max(STEP);
    let mut segments = Vec::new();
    let mut left = size;
    let mut buffer = Vec::new();
    while left > 0 {
        let output = left.min(each);
        let encoded =
            u32::try_from(output).map_err(|_| failed(std::io::ErrorKind::FileTooLarge.into()))?;
        buffer.resize(count(encoded), 0);
        file.read_exact(&mut buffer).map_err(failed)?;
        segments.push(SegmentHead { output, encoded, hash: blake3::hash(&buffer).into() });
        left -= output;
    }
    Ok(Head { target, size, kind: Kind::Whole, segments })
}
