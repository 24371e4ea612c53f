//! Blocks that can't be made again from their plain bytes.
//!
//! Of such blocks, an update sends the stored bytes of each that changes, and not only what changed
//! in it.

use super::Finding;
use crate::codec::{Recompressor, codecs};
use crate::diff::DiffError;
use crate::index::{BlockKind, Index, IndexBlock};
use crate::listing::{Contents, Listing, Stored};
use crate::metadata::{Reader, Region};
use crate::problem::{ImageError, Part, Problem};
use crate::superblock::SUPERBLOCK_END;

/// Blocks that are tried, spread over the image.
const TRIED: usize = 96;

/// One in so many may fail: mksquashfs compresses a few in other ways.
const FEW: usize = 20;

pub(super) fn findings(
    listing: &Listing,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Option<Finding>, DiffError> {
    let image = |problem| ImageError { path: listing.path.clone(), problem };
    let index = Index::read(&listing.path)?;
    let blocks: Vec<&IndexBlock> =
        index.blocks.iter().filter(|block| is_file_data(block)).collect();
    let step = blocks.len().div_ceil(TRIED).max(1);
    let superblock = &listing.superblock;
    let options = options(listing).map_err(image)?;
    let compressor = superblock.compressor;
    let mut codec = Recompressor::new(compressor, &options, superblock.block_size);
    let contents = Contents::new(listing);
    let (mut tried, mut failed) = (0, 0);
    for block in blocks.iter().step_by(step) {
        let total = u64::try_from(blocks.len().div_ceil(step)).expect("a count");
        if !progress(u64::try_from(tried).expect("a count"), total) {
            return Err(DiffError::Cancelled);
        }
        tried += 1;
        let place = Stored { offset: block.offset, length: block.length, compressed: true };
        let stored = contents.stored(place).map_err(image)?;
        let plain = contents.plain(place).map_err(image)?;
        let again = codec.as_mut().and_then(|codec| {
            let variant = codec.variant_of(&stored);
            codec.compress(&plain, variant)
        });
        failed += usize::from(again.as_ref() != Some(&stored));
    }
    if failed == 0 || failed * FEW < tried {
        return Ok(None);
    }
    let all: u64 = blocks.iter().map(|block| u64::from(block.length)).sum();
    let [failed_wide, tried_wide] = [failed, tried].map(|n| u64::try_from(n).expect("a count"));
    let bytes = u128::from(all) * u128::from(failed_wide) / u128::from(tried_wide.max(1));
    Ok(Some(Finding {
        check: "rebuild",
        what: format!(
            "{failed} of {tried} blocks that were tried can't be made again to the bit with {}: \
             of those that change, an update sends all bytes; the price is what it would be if \
             all did",
            codecs()
        ),
        bytes: Some(u64::try_from(bytes).unwrap_or(u64::MAX)),
        remedy: "mksquashfs of Debian 12 or Ubuntu 24.04, with -comp zstd, gzip or xz and no \
                 strategy options",
        paths: Vec::new(),
    }))
}

/// The compressor's options as they stand in the image; empty where it has none.
fn options(listing: &Listing) -> Result<Vec<u8>, Problem> {
    let superblock = &listing.superblock;
    if !superblock.flags.compressor_options() {
        return Ok(Vec::new());
    }
    let (part, start, end) = (Part::CompressorOptions, SUPERBLOCK_END, superblock.inode_table);
    let mut reader = Reader::new(&listing.file, superblock.compressor, 1);
    Ok(reader.block(&Region { part, start, end }, start)?.plain)
}

fn is_file_data(block: &IndexBlock) -> bool {
    block.compressed && matches!(block.kind, BlockKind::Data | BlockKind::Fragment)
}
