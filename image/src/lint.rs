//! What makes an image larger than it need be, or its updates: found by looking into it.
//!
//! Way in: [`lint`]. Each finding says what it costs where that can be said, and what mends it.
//! Nothing here is an error: an image with findings runs as well as one without.
//!
//! Deliberately absent: everything about what the files do. It is about bytes.

mod layout;
mod packed;
mod rebuild;
mod rubbish;
mod times;
mod twins;

use std::collections::HashSet;
use std::path::Path;

use crate::diff::DiffError;
use crate::listing::{Content, Entry, Kind, Listing};

/// Paths that a finding names.
const NAMED: usize = 5;

/// What was found in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lint {
    /// Bytes of the image.
    pub size: u64,
    /// The dearest first; those of unknown cost last.
    pub findings: Vec<Finding>,
}

/// One thing that costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A short name that does not change.
    pub check: &'static str,
    /// What there is.
    pub what: String,
    /// What it costs, in bytes of the image or of each update; `None` where that can't be said.
    pub bytes: Option<u64>,
    /// What mends it.
    pub remedy: &'static str,
    /// The first paths that it is about.
    pub paths: Vec<String>,
}

/// Looks into an image. `progress` is told how many paths of how many were looked at, and calls it
/// off where it says `false`. Blocks: call it where that is allowed.
///
/// # Errors
/// The file can't be read, or is no image.
pub fn lint(path: &Path, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<Lint, DiffError> {
    let listing = Listing::read(path)?;
    let mut findings = layout::findings(&listing)?;
    findings.extend(times::findings(&listing));
    findings.extend(rubbish::findings(&listing)?);
    findings.extend(packed::findings(&listing));
    findings.extend(rebuild::findings(&listing, progress)?);
    findings.extend(twins::findings(&listing, progress)?);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.bytes));
    Ok(Lint { size: listing.superblock.bytes_used, findings })
}

/// Files that a finding is about, with what they cost.
#[derive(Debug, Default)]
struct Found {
    count: u64,
    bytes: u64,
    paths: Vec<String>,
}

impl Found {
    fn add(&mut self, entry: &Entry, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
        if self.paths.len() < NAMED {
            self.paths.push(format!("/{}", String::from_utf8_lossy(&entry.path)));
        }
    }

    fn finding(self, check: &'static str, what: String, remedy: &'static str) -> Option<Finding> {
        let Self { count, bytes, paths } = self;
        let bytes = (bytes > 0).then_some(bytes);
        (count > 0).then_some(Finding { check, what, bytes, remedy, paths })
    }
}

/// The files of an image, each once, whatever the number of its names, with what they cost.
fn files(listing: &Listing) -> impl Iterator<Item = (&Entry, &Content, u64)> {
    let mut seen = HashSet::new();
    let files = listing.entries.iter().filter_map(|entry| match &entry.kind {
        Kind::File(content) => Some((entry, content)),
        _ => None,
    });
    files
        .filter(move |(entry, _)| seen.insert(entry.inode))
        .map(|(entry, content)| (entry, content, cost(listing, content)))
}

/// About how many bytes of the image a file takes: its blocks, and its share of its fragment.
fn cost(listing: &Listing, content: &Content) -> u64 {
    let blocks: u64 = content.blocks.iter().map(|block| u64::from(block.length)).sum();
    let block_size = u64::from(listing.superblock.block_size);
    let tail = content.tail.and_then(|(number, _)| {
        let fragment = listing.fragments.get(usize::try_from(number).ok()?)?;
        Some((content.size % block_size).saturating_mul(fragment.length.into()) / block_size)
    });
    blocks + tail.unwrap_or(0)
}
