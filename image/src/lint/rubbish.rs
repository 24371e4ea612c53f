//! Files that no instance needs, or that are to be of one machine only.

use super::{Finding, Found, cost};
use crate::listing::{Contents, Entry, Kind, Listing};
use crate::problem::ImageError;

/// What may lie where.
struct Place {
    check: &'static str,
    what: &'static str,
    remedy: &'static str,
    /// Files below these, or with a `*` at the end those that begin so.
    prefixes: &'static [&'static str],
}

const PLACES: &[Place] = &[
    Place {
        check: "package-cache",
        what: "files of package managers' caches",
        remedy: "apt-get clean; rm -f var/cache/apt/*.bin (or the same of dnf, apk, pacman)",
        prefixes: &[
            "var/cache/apt/",
            "var/cache/dnf/",
            "var/cache/yum/",
            "var/cache/apk/",
            "var/cache/pacman/",
            "var/cache/zypp/",
        ],
    },
    Place {
        check: "package-lists",
        what: "files of package indexes, which are others each day",
        remedy: "rm -rf var/lib/apt/lists/*",
        prefixes: &["var/lib/apt/lists/"],
    },
    Place {
        check: "logs",
        what: "log files",
        remedy: "rm -rf var/log/*.log var/log/apt var/log/journal, or empty them",
        prefixes: &["var/log/"],
    },
    Place {
        check: "temporary",
        what: "files in temporary directories and personal caches",
        remedy: "rm -rf tmp/* var/tmp/* root/.cache",
        prefixes: &["tmp/", "var/tmp/", "root/.cache/"],
    },
    Place {
        check: "caches",
        what: "files that the system makes anew by itself, and its copies of older ones",
        remedy: "rm -rf var/cache/man var/cache/fontconfig var/cache/ldconfig/aux-cache \
                 var/cache/debconf/*-old var/lib/dpkg/*-old",
        prefixes: &[
            "var/cache/ldconfig/",
            "var/cache/man/",
            "var/cache/fontconfig/",
            "var/cache/debconf/config.dat-old",
            "var/cache/debconf/templates.dat-old",
            "var/lib/dpkg/status-old",
            "var/lib/dpkg/available-old",
        ],
    },
    Place {
        check: "machine-keys",
        what: "keys and seeds that every instance would share, and whoever has the image, too",
        remedy: "rm -f etc/ssh/ssh_host_* var/lib/systemd/random-seed, and make them at the first start",
        prefixes: &["etc/ssh/ssh_host_*", "var/lib/systemd/random-seed"],
    },
];

/// Where an id of one machine is kept.
const MACHINE_IDS: [&[u8]; 2] = [b"etc/machine-id", b"var/lib/dbus/machine-id"];

pub(super) fn findings(listing: &Listing) -> Result<Vec<Finding>, ImageError> {
    let mut findings: Vec<Finding> =
        PLACES.iter().filter_map(|place| place_finding(listing, place)).collect();
    findings.extend(bytecode(listing));
    findings.extend(machine_id(listing)?);
    Ok(findings)
}

fn place_finding(listing: &Listing, place: &Place) -> Option<Finding> {
    let mut found = Found::default();
    for entry in &listing.entries {
        let Kind::File(content) = &entry.kind else { continue };
        let here = place.prefixes.iter().any(|prefix| lies(entry, prefix));
        if content.size > 0 && here {
            found.add(entry, cost(listing, content));
        }
    }
    let what = format!("{} {}", found.count, place.what);
    found.finding(place.check, what, place.remedy)
}

fn lies(entry: &Entry, prefix: &str) -> bool {
    match prefix.strip_suffix('*') {
        Some(beginning) => entry.path.starts_with(beginning.as_bytes()),
        None if prefix.ends_with('/') => entry.path.starts_with(prefix.as_bytes()),
        None => entry.path == prefix.as_bytes(),
    }
}

/// Python's byte code that was made when the image was: it holds its source's time.
fn bytecode(listing: &Listing) -> Option<Finding> {
    let made = listing.superblock.mkfs_time;
    let mut found = Found::default();
    for entry in &listing.entries {
        let Kind::File(content) = &entry.kind else { continue };
        let is_made = entry.path.ends_with(b".pyc") && has_part(&entry.path, b"__pycache__");
        if is_made && entry.mtime >= made.saturating_sub(24 * 3600) {
            found.add(entry, cost(listing, content));
        }
    }
    let what = format!(
        "{} files of Python byte code made together with the image; they hold the times of their \
         sources",
        found.count
    );
    found.finding(
        "bytecode",
        what,
        "find . -name __pycache__ -prune -exec rm -rf {} +, or \
         python3 -m compileall --invalidation-mode unchecked-hash",
    )
}

fn has_part(path: &[u8], part: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|name| name == part)
}

fn machine_id(listing: &Listing) -> Result<Option<Finding>, ImageError> {
    let mut found = Found::default();
    let mut contents = Contents::new(listing);
    for path in MACHINE_IDS {
        let Some(entry) = listing.find(path) else { continue };
        let Kind::File(content) = &entry.kind else { continue };
        if !(32..=64).contains(&content.size) {
            continue;
        }
        let text = contents.piece(content, 0);
        let text = text.map_err(|problem| ImageError { path: listing.path.clone(), problem })?;
        if text.iter().take(32).all(u8::is_ascii_hexdigit) {
            found.add(entry, 0);
        }
    }
    let what = "an id of one machine, which every instance would share".to_owned();
    Ok(found.finding("machine-id", what, "echo uninitialized > etc/machine-id, or make it empty"))
}
