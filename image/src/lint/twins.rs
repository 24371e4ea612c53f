//! Equal files that are stored more than once.

use std::collections::HashMap;

use super::{Finding, Found, files};
use crate::diff::DiffError;
use crate::listing::{Contents, Listing};
use crate::problem::ImageError;

/// How many files are looked at between two reports of the progress.
const REPORT_EVERY: u64 = 64;

/// Only where mksquashfs was told not to look for them.
pub(super) fn findings(
    listing: &Listing,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Option<Finding>, DiffError> {
    if listing.superblock.flags.deduplicated() {
        return Ok(None);
    }
    let total = u64::try_from(listing.entries.len()).expect("a count");
    let mut contents = Contents::new(listing);
    let mut known: HashMap<[u8; 32], u64> = HashMap::new();
    let mut found = Found::default();
    let mut seen: u64 = 0;
    for (entry, content, cost) in files(listing) {
        seen += 1;
        if seen.is_multiple_of(REPORT_EVERY) && !progress(seen, total) {
            return Err(DiffError::Cancelled);
        }
        if content.size == 0 {
            continue;
        }
        let mut hasher = blake3::Hasher::new();
        for piece in 0..Contents::pieces(content) {
            let plain = contents.piece(content, piece);
            let problem = |problem| ImageError { path: listing.path.clone(), problem };
            hasher.update(&plain.map_err(problem)?);
        }
        let times = known.entry(hasher.finalize().into()).or_default();
        if *times > 0 {
            found.add(entry, cost);
        }
        *times += 1;
    }
    let what = format!("{} files are stored again although equal ones are there", found.count);
    Ok(found.finding("duplicates", what, "mksquashfs without -no-duplicates"))
}
