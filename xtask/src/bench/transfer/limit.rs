//! About the least that could be sent: the plain bytes of the files that changed, coded by
//! `zstd -19 --long=31` against the plain bytes of the old ones.
//!
//! Against which ones does it best depends on the change, so the smaller counts of two: with the
//! old versions of the changed files as the reference, and with all files of the old image.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::tool::{nice, run, text};
use super::tree::{Kind, Trees};

/// To be raised when the code of this module changes what it finds.
const REVISION: u32 = 1;

/// What changed, and what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    /// How many files have other contents, or are new.
    pub(super) files: usize,
    /// Their plain bytes.
    pub(super) plain: u64,
    /// Their delta.
    pub(super) bytes: u64,
}

/// Of a kind of change (some minutes; once).
///
/// # Errors
/// Where the files can't be read, or zstd fails.
pub(super) fn limit(trees: &Trees, kind: Kind) -> Result<Limit> {
    let recipe = format!("{REVISION} {}", Trees::recipe());
    let name = format!("transfer-limit-{}", kind.name());
    let path = trees.cache().entry(&name, &recipe, "", |path| {
        let limit = trees.with(kind, |new| find(&trees.old(), new))?;
        Ok(fs::write(path, format!("{} {} {}", limit.files, limit.plain, limit.bytes))?)
    })?;
    parse(&fs::read_to_string(&path)?)
}

fn parse(text: &str) -> Result<Limit> {
    let numbers: Vec<u64> = text.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [files, plain, bytes] = numbers[..] else { anyhow::bail!("{text:?} is no limit") };
    Ok(Limit { files: usize::try_from(files)?, plain, bytes })
}

fn find(old: &Path, new: &Path) -> Result<Limit> {
    let changed = changed(old, new)?;
    let dir = tempfile::tempdir_in("/var/tmp")?;
    let at = |name: &str| dir.path().join(name);
    let plain = join(new, &changed, &at("new"))?;
    if plain == 0 {
        return Ok(Limit { files: changed.len(), plain, bytes: 0 });
    }
    join(old, &changed, &at("versions"))?;
    join(old, &files(old)?, &at("all"))?;
    let of_versions = delta(&at("versions"), &at("new"))?;
    let of_all = delta(&at("all"), &at("new"))?;
    Ok(Limit { files: changed.len(), plain, bytes: of_versions.min(of_all) })
}

/// The files of `new` that have other contents than in `old`, or are not there.
fn changed(old: &Path, new: &Path) -> Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    for file in files(new)? {
        if !is_same(&old.join(&file), &new.join(&file))? {
            changed.push(file);
        }
    }
    Ok(changed)
}

/// The regular files of a tree in the order of their paths, each inode once.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut seen, mut dirs) = (Vec::new(), HashSet::new(), vec![PathBuf::new()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, dir.join(entry.file_name()));
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    found.sort_unstable();
    let mut once = Vec::new();
    for path in found {
        if seen.insert(root.join(&path).symlink_metadata()?.ino()) {
            once.push(path);
        }
    }
    Ok(once)
}

fn is_same(old: &Path, new: &Path) -> Result<bool> {
    let is_file = |path: &Path| path.symlink_metadata().is_ok_and(|about| about.is_file());
    if !is_file(old) || fs::metadata(old)?.len() != fs::metadata(new)?.len() {
        return Ok(false);
    }
    Ok(fs::read(old)? == fs::read(new)?)
}

/// Writes those of `files` that `root` has behind one another; how many bytes they are.
fn join(root: &Path, files: &[PathBuf], to: &Path) -> Result<u64> {
    let mut joined = BufWriter::new(File::create(to)?);
    let mut bytes = 0;
    for file in files {
        let path = root.join(file);
        if path.symlink_metadata().is_ok_and(|about| about.is_file()) {
            let failed = || format!("can't read {}", path.display());
            let mut file = File::open(&path).with_context(failed)?;
            bytes += io::copy(&mut file, &mut joined).with_context(failed)?;
        }
    }
    joined.flush()?;
    Ok(bytes)
}

fn delta(reference: &Path, file: &Path) -> Result<u64> {
    let patch = file.with_extension("patch");
    let mut zstd = nice("zstd");
    zstd.args(["-q", "-f", "-19", "--long=31"]);
    if fs::metadata(reference)?.len() > 0 {
        zstd.arg(format!("--patch-from={}", text(reference)?));
    }
    run(zstd.arg(file).arg("-o").arg(&patch))?;
    Ok(fs::metadata(&patch)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_other_contents_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        for root in [&old, &new] {
            fs::create_dir_all(root.join("usr")).unwrap();
            fs::write(root.join("usr/same"), "the same").unwrap();
        }
        fs::write(old.join("usr/changed"), "one").unwrap();
        fs::write(new.join("usr/changed"), "two").unwrap();
        fs::write(new.join("added"), "and this").unwrap();
        fs::hard_link(new.join("added"), new.join("added too")).unwrap();
        let found = changed(&old, &new).unwrap();
        assert_eq!(found, [Path::new("added"), Path::new("usr/changed")]);
        assert_eq!(join(&new, &found, &dir.path().join("new.joined")).unwrap(), 11);
        assert_eq!(join(&old, &found, &dir.path().join("old.joined")).unwrap(), 3);
        assert_eq!(fs::read(dir.path().join("new.joined")).unwrap(), b"and thistwo");
        assert!(changed(&old, &old).unwrap().is_empty());
    }
}
