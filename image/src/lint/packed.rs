//! Files that are compressed in themselves.

use super::{Finding, Found, files};
use crate::listing::Listing;

/// Bytes from which on a file counts.
const LARGE: u64 = 64 << 10;

const ENDINGS: [&str; 16] = [
    ".gz", ".tgz", ".xz", ".bz2", ".zst", ".zip", ".jar", ".war", ".whl", ".egg", ".deb", ".rpm",
    ".apk", ".br", ".lz4", ".7z",
];

/// A change of one byte before the compression changes all that follows after it.
pub(super) fn findings(listing: &Listing) -> Option<Finding> {
    let mut found = Found::default();
    for (entry, content, cost) in files(listing) {
        let packed = ENDINGS.iter().any(|ending| entry.path.ends_with(ending.as_bytes()));
        if packed && content.size >= LARGE {
            found.add(entry, cost);
        }
    }
    let what = format!(
        "{} large files are compressed in themselves: of one that changes, all has to be sent",
        found.count
    );
    found.finding(
        "compressed-files",
        what,
        "store them unpacked (gunzip, jar -0); the image compresses them itself",
    )
}
