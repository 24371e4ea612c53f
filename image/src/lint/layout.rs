//! How the image is laid out: its block size, tables and options.

use super::{Finding, files};
use crate::listing::{Kind, Listing};
use crate::metadata::Reader;
use crate::problem::ImageError;
use crate::size::Size;
use crate::tables::Tables;

/// Block sizes that are of use for updates: smaller ones compress worse, and of larger ones more
/// has to be made anew for each changed byte.
const BLOCK_SIZES: (u32, u32) = (64 << 10, 256 << 10);

/// The share of files out of order from which on it is said: one in so many.
const DISORDER: u64 = 20;

pub(super) fn findings(listing: &Listing) -> Result<Vec<Finding>, ImageError> {
    let found = [block_size(listing), export(listing)?, fragments(listing), order(listing)];
    Ok(found.into_iter().flatten().collect())
}

fn block_size(listing: &Listing) -> Option<Finding> {
    let size = listing.superblock.block_size;
    let shown = Size(size.into());
    let (what, remedy) = if size < BLOCK_SIZES.0 {
        (format!("blocks of {shown} compress worse than larger ones"), "mksquashfs -b 128K")
    } else if size > BLOCK_SIZES.1 {
        (
            format!(
                "blocks of {shown}: a change of one byte has a whole block made anew on each \
                 host, and sent where only the new image is at hand"
            ),
            "mksquashfs -b 128K",
        )
    } else {
        return None;
    };
    Some(Finding { check: "block-size", what, bytes: None, remedy, paths: Vec::new() })
}

/// A table that only NFS servers use.
fn export(listing: &Listing) -> Result<Option<Finding>, ImageError> {
    let superblock = &listing.superblock;
    if !superblock.flags.exportable() {
        return Ok(None);
    }
    let mut reader = Reader::new(&listing.file, superblock.compressor, crate::tables::WALK_BUDGET);
    let bytes = Tables::export(superblock).stored(&mut reader);
    let path = listing.path.clone();
    let bytes = bytes.map_err(|problem| ImageError { path, problem })?;
    Ok(Some(Finding {
        check: "export-table",
        what: "a table for export over NFS, which no instance uses".to_owned(),
        bytes: Some(bytes),
        remedy: "mksquashfs -no-exports",
        paths: Vec::new(),
    }))
}

/// File ends in blocks of their own.
fn fragments(listing: &Listing) -> Option<Finding> {
    if !listing.superblock.flags.no_fragments() {
        return None;
    }
    let block_size = u64::from(listing.superblock.block_size);
    let ends = files(listing).filter(|(_, content, _)| content.size % block_size != 0).count();
    Some(Finding {
        check: "no-fragments",
        what: format!(
            "{ends} file ends are compressed one by one (-no-fragments), which makes small files \
             large"
        ),
        bytes: None,
        remedy: "mksquashfs without -no-fragments",
        paths: Vec::new(),
    })
}

/// Files that do not stand in the order of their directories: as long as the order is the same in
/// each image that costs nothing, but what is not sorted mostly differs from build to build.
fn order(listing: &Listing) -> Option<Finding> {
    let mut starts = listing.entries.iter().filter_map(|entry| match &entry.kind {
        Kind::File(content) => content.blocks.iter().find(|block| block.length > 0),
        _ => None,
    });
    let (mut count, mut behind) = (0_u64, 0_u64);
    let mut last = starts.next()?.offset;
    for block in starts {
        count += 1;
        behind += u64::from(block.offset < last);
        last = block.offset;
    }
    // Equal files stand where the first one does, so a few are always out of order.
    if behind <= 8 || behind < count / DISORDER {
        return None;
    }
    Some(Finding {
        check: "order",
        what: format!(
            "{behind} of {count} files do not follow the one before them by name: where the order \
             differs from build to build, equal file ends are packed into other fragments"
        ),
        bytes: None,
        remedy: "mksquashfs from a directory, without -sort, instead of from an unsorted archive",
        paths: Vec::new(),
    })
}
