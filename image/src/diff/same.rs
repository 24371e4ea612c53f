//! Whether two files of two images have the same content.

use crate::listing::{Content, Contents, Listing};
use crate::problem::ImageError;

/// Compares contents of an old and a new image.
#[derive(Debug)]
pub(super) struct Sameness<'a> {
    old: &'a Listing,
    new: &'a Listing,
    from_old: Contents<'a>,
    from_new: Contents<'a>,
    /// Whether equal contents are mostly equal bytes in the two files.
    alike: bool,
}

impl<'a> Sameness<'a> {
    pub(super) fn new(old: &'a Listing, new: &'a Listing) -> Self {
        let alike = old.superblock.compressor == new.superblock.compressor
            && old.superblock.block_size == new.superblock.block_size;
        let (from_old, from_new) = (Contents::new(old), Contents::new(new));
        Self { old, new, from_old, from_new, alike }
    }

    pub(super) fn content(&mut self, old: &Content, new: &Content) -> Result<bool, ImageError> {
        if old.size != new.size {
            return Ok(false);
        }
        if self.alike && Contents::pieces(old) == Contents::pieces(new) {
            return self.piece_by_piece(old, new);
        }
        self.plain(old, new)
    }

    /// Of images with blocks of one size: each piece of the one is a piece of the other.
    fn piece_by_piece(&mut self, old: &Content, new: &Content) -> Result<bool, ImageError> {
        for piece in 0..Contents::pieces(old) {
            if let (Some(before), Some(after)) = (old.blocks.get(piece), new.blocks.get(piece))
                && (before.length, before.compressed) == (after.length, after.compressed)
            {
                if before.length == 0 {
                    // Holes of the same size, since the files are.
                    continue;
                }
                let before = self.from_old.stored(*before).map_err(problem(self.old))?;
                let after = self.from_new.stored(*after).map_err(problem(self.new))?;
                if before == after {
                    continue;
                }
            }
            let before = self.from_old.piece(old, piece).map_err(problem(self.old))?;
            let after = self.from_new.piece(new, piece).map_err(problem(self.new))?;
            if before != after {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn plain(&mut self, old: &Content, new: &Content) -> Result<bool, ImageError> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let (mut next_old, mut next_new) = (0, 0);
        loop {
            if before.is_empty() && next_old < Contents::pieces(old) {
                before = self.from_old.piece(old, next_old).map_err(problem(self.old))?;
                next_old += 1;
            }
            if after.is_empty() && next_new < Contents::pieces(new) {
                after = self.from_new.piece(new, next_new).map_err(problem(self.new))?;
                next_new += 1;
            }
            let count = before.len().min(after.len());
            if count == 0 {
                return Ok(before.len() == after.len());
            }
            if before[..count] != after[..count] {
                return Ok(false);
            }
            before.drain(..count);
            after.drain(..count);
        }
    }
}

fn problem(listing: &Listing) -> impl FnOnce(crate::problem::Problem) -> ImageError + use<> {
    let path = listing.path.clone();
    move |problem| ImageError { path, problem }
}
