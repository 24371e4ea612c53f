//! The two ways in which an image file comes: its own bytes, or a recipe's segments.

use bytes::Bytes;
use shoal_image::{Assembler, Partial, PartialError};

use super::BlobError;

/// An image file that is being written.
#[derive(Debug)]
pub(super) enum Taking {
    /// Its own bytes.
    Whole(Partial),
    /// Segments, of which the bytes of one are gathered.
    Recipe { assembler: Box<Assembler>, gathered: Vec<u8> },
}

impl Taking {
    pub(super) fn of_recipe(assembler: Assembler) -> Self {
        Self::Recipe { assembler: Box::new(assembler), gathered: Vec::new() }
    }

    /// Bytes of the image that are there.
    pub(super) fn received(&self) -> u64 {
        match self {
            Self::Whole(partial) => partial.received(),
            Self::Recipe { assembler, .. } => assembler.received(),
        }
    }

    /// Takes the next bytes that came.
    pub(super) fn take(&mut self, bytes: &Bytes) -> Result<(), BlobError> {
        match self {
            Self::Whole(partial) => Ok(partial.append(bytes)?),
            Self::Recipe { assembler, gathered } => gather(assembler, gathered, bytes),
        }
    }

    /// Verifies the whole and gives it its name.
    pub(super) fn finish(self) -> Result<(), BlobError> {
        match self {
            Self::Whole(partial) => partial.finish().map(|_| ())?,
            Self::Recipe { assembler, .. } => assembler.finish().map(|_| ())?,
        }
        Ok(())
    }
}

/// Carries out each segment that has come whole.
fn gather(
    assembler: &mut Assembler,
    gathered: &mut Vec<u8>,
    mut bytes: &[u8],
) -> Result<(), BlobError> {
    while !bytes.is_empty() {
        let Some(next) = assembler.next() else { return Err(too_long(assembler)) };
        let encoded = assembler.head().segments.get(next).map_or(0, |segment| segment.encoded);
        let wanted = usize::try_from(encoded).unwrap_or(usize::MAX) - gathered.len();
        let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
        gathered.extend_from_slice(part);
        bytes = rest;
        if part.len() == wanted {
            let applied = assembler.apply(next, gathered);
            gathered.clear();
            applied?;
        }
    }
    Ok(())
}

fn too_long(assembler: &Assembler) -> BlobError {
    let head = assembler.head();
    let path = format!("{}.partial", head.target).into();
    BlobError::Transfer(PartialError::TooLong { path, size: head.size })
}
