//! Times that differ from build to build.

use std::os::unix::fs::MetadataExt as _;

use super::{Finding, Found};
use crate::listing::Listing;

/// Seconds before the image was made in which what is dated was dated by the making.
const FRESH: u32 = 3600;

/// So few are always there: directories that the last step of the making touched.
const FEW: u64 = 3;

pub(super) fn findings(listing: &Listing) -> Vec<Finding> {
    [made_now(listing), dated_now(listing)].into_iter().flatten().collect()
}

/// Whether the image was made at the time that it says. Where it is fixed, as for reproducible
/// images, it says another.
fn made_now(listing: &Listing) -> Option<Finding> {
    is_now(listing).then(|| Finding {
        check: "mkfs-time",
        what: "it holds the time of its making: the same content made again is another image, \
               with another digest"
            .to_owned(),
        bytes: None,
        remedy: "SOURCE_DATE_EPOCH=TIME mksquashfs …, where TIME is that of the source, such as \
                 `git log -1 --format=%ct`",
        paths: Vec::new(),
    })
}

fn is_now(listing: &Listing) -> bool {
    let written = listing.file.metadata().map(|metadata| metadata.mtime());
    let written = written.ok().and_then(|time| u64::try_from(time).ok());
    let made = u64::from(listing.superblock.mkfs_time);
    written.is_some_and(|written| made.abs_diff(written) <= FRESH.into())
}

/// Files that the making of the image dated. Their times are all that differs in the next one.
fn dated_now(listing: &Listing) -> Option<Finding> {
    let made = listing.superblock.mkfs_time;
    let is_now = is_now(listing);
    let mut found = Found::default();
    let mut times = Vec::new();
    for entry in &listing.entries {
        // What a fixed time has cut off has just that time.
        if (is_now || entry.mtime != made) && entry.mtime >= made.saturating_sub(FRESH) {
            found.add(entry, 0);
            times.extend(entry.mtime.to_le_bytes());
        }
    }
    if found.count <= FEW {
        return None;
    }
    // The times as they are sent, but for what they have in common with those before.
    let cost = zstd::bulk::compress(&times, 19).map_or(times.len(), |packed| packed.len());
    found.bytes = u64::try_from(cost).unwrap_or(u64::MAX);
    let count = found.count;
    let what = format!(
        "{count} paths are dated within the hour in which the image was made: each build dates \
         them anew"
    );
    found.finding(
        "times",
        what,
        "SOURCE_DATE_EPOCH=TIME mksquashfs …, which cuts later times off; or mksquashfs -all-time TIME",
    )
}
